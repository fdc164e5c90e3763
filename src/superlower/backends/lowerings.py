"""Which form of a warp or deformable convolution each backend gets: measured where it runs, else by rule.

`lowerings.json` holds the measurements and the order they give; `python benchmarks/lowerings.py` writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import geometric_mean

import msgspec

from superlower.folders import replacing_file
from superlower.passes.forms import CLAMP_BORDER, NATIVE
from superlower.passes.lower_deform_conv import GATHER, GRID_SAMPLE
from superlower.probes.key import Key

FORMAT = 1

WORTH = 1.2
"""How many times as fast as native a form must be to be put in its place: below that, timings of whole
graphs can't tell it from noise, and a native node says more."""


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One form at one size.

    Attributes:
        form: of `superlower.passes.forms.FORMS`.
        error: largest absolute difference from float64; None where nothing was run.
        ms: median milliseconds a run; None where nothing was run.
        ratio: median over rounds of native's time by this form's in the same round; None without both.
        refused: why the backend doesn't take it; "" if it does.
    """

    form: str
    error: float | None = None
    ms: float | None = None
    ratio: float | None = None
    refused: str = ""


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All forms of one operator in one setting, at one size, on one backend.

    Attributes:
        backend: its name.
        target: "cpu", or the architecture compiled for ("sm_86").
        key: `str` of the node's key.
        size: the image, as [N, C, H, W].
        tolerance: what errors are held to.
        trials: a form each.
    """

    backend: str
    target: str
    key: str
    size: tuple[int, int, int, int]
    tolerance: float
    trials: tuple[Trial, ...]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The forms that are right for a key on a backend, the one to take first.

    Attributes:
        backend, target, key: as in `Finding`.
        forms: of `superlower.passes.forms.FORMS`.
        why: of the first one, in a few words.
    """

    backend: str
    target: str
    key: str
    forms: tuple[str, ...]
    why: str


class Lowerings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file.

    Attributes:
        machine: processor it was measured on, threads, SDK versions.
        orders: what is chosen from.
        findings: what that follows from.
        format: of this file.
    """

    machine: dict[str, str | int | float | dict[str, str]]
    orders: tuple[Order, ...]
    findings: tuple[Finding, ...]
    format: int = FORMAT


@dataclass(frozen=True)
class Rule:
    """What is chosen where nothing was measured.

    Attributes:
        backend, kind: of backend and target.
        op: operator.
        forms: the one to take first.
        why: in a few words.
    """

    backend: str
    kind: str
    op: str
    forms: tuple[str, ...]
    why: str


_SAMPLED = (GRID_SAMPLE, GATHER)
RULES = (
    Rule("tensorrt-rtx", "nvidia-gpu", "DeformConv", _SAMPLED, "by rule: its parser has no DeformConv"),
    Rule(
        "tensorrt",
        "nvidia-gpu",
        "DeformConv",
        _SAMPLED,
        "by rule: its parser has DeformConv from 10.1 on only, and as a plug-in",
    ),
    Rule("tvm", "nvidia-gpu", "DeformConv", _SAMPLED, "by rule: its importer has no DeformConv"),
    Rule(
        "onnxruntime",
        "nvidia-gpu",
        "DeformConv",
        _SAMPLED,
        "by rule: its product is then a convolution, of the graph's type",
    ),
    Rule("openvino", "intel-gpu", "DeformConv", _SAMPLED, "by rule: its fast sampler is bilinear with zeros"),
    Rule(
        "openvino",
        "intel-gpu",
        "GridSample",
        (CLAMP_BORDER, NATIVE),
        "by rule: its fast sampler is bilinear with zeros",
    ),
    Rule("tvm", "cpu", "DeformConv", _SAMPLED, "by rule: its importer has no DeformConv"),
)
"""For what no measurement is stored of."""


@cache
def stored() -> Lowerings:
    """The measurements that superlower ships; none if it ships none."""
    file = resources.files("superlower.backends") / "lowerings.json"
    if not file.is_file():
        return Lowerings(machine={}, orders=(), findings=())
    return msgspec.json.decode(file.read_bytes(), type=Lowerings)


def write(found: Lowerings, path: Path) -> None:
    """Write the file aside, then under its name; a line an order and a finding, so that changes read well."""
    text = msgspec.json.encode(msgspec.structs.replace(found, orders=(), findings=()))
    for name, rows in (("orders", found.orders), ("findings", found.findings)):
        lines = b",\n".join(msgspec.json.encode(row) for row in rows)
        text = text.replace(b'"%s":[]' % name.encode(), b'"%s":[\n%s\n]' % (name.encode(), lines))
    with replacing_file(path) as aside:
        aside.write_bytes(text + b"\n")


def order_of(findings: Sequence[Finding]) -> Order | None:
    """The order of forms that all sizes of one key give; None if nothing was timed or no form is right.

    A form is right if it is at every size. The fastest comes first, by the geometric mean over sizes; but
    native comes before those that aren't `WORTH` times as fast, or are slower at any size.
    """
    right = [
        form
        for form in (trial.form for trial in findings[0].trials)
        if all(_is_right(finding, form) for finding in findings)
    ]
    times = {form: [_trial(finding, form).ms for finding in findings] for form in right}
    if not right or any(ms is None for each in times.values() for ms in each):
        return None
    cost = {form: geometric_mean(ms or 0.0 for ms in each) for form, each in times.items()}
    ranked = sorted(right, key=cost.__getitem__)
    if NATIVE in cost:
        better = [form for form in ranked if _beats(times[form], times[NATIVE], cost[NATIVE] / cost[form])]
        ranked = [*better, NATIVE, *(form for form in ranked if form not in (*better, NATIVE))]
    first, best, others = findings[0], ranked[0], ranked[1:]
    if NATIVE in cost and best != NATIVE:
        why = f"measured {cost[NATIVE] / cost[best]:.2g} times as fast as native"
    elif others and best == NATIVE:
        why = f"measured: {others[0]} is {cost[best] / cost[others[0]]:.2g} times as fast"
    elif others:
        why = f"measured {cost[others[0]] / cost[best]:.2g} times as fast as {others[0]}"
    else:
        why = "the only form that is right"
    return Order(backend=first.backend, target=first.target, key=first.key, forms=tuple(ranked), why=why)


def _beats(own: Sequence[float | None], native: Sequence[float | None], times_as_fast: float) -> bool:
    faster = (a is not None and b is not None and a < b for a, b in zip(own, native, strict=True))
    return times_as_fast >= WORTH and all(faster)


def _trial(finding: Finding, form: str) -> Trial:
    return next(trial for trial in finding.trials if trial.form == form)


def _is_right(finding: Finding, form: str) -> bool:
    trial = _trial(finding, form)
    return not trial.refused and (trial.error is None or trial.error <= finding.tolerance)


def order_for(key: Key, backend: str, target: str, kind: str, orders: Sequence[Order]) -> tuple[Order, str]:
    """The order for a node: of its own key, else of the nearest measured one, else by rule, else native.

    Returns:
        The order, and the reason to show.
    """
    near = sorted(
        (_distance(key, order.key), order.key, order)
        for order in orders
        if (order.backend, order.target) == (backend, target) and _op(order.key) == key.op
    )
    if near:
        distance, _, order = near[0]
        return order, order.why if distance == 0 else f"{order.why} ({order.key})"
    for rule in RULES:
        if (rule.backend, rule.kind, rule.op) == (backend, kind, key.op):
            order = Order(backend=backend, target=target, key=str(key), forms=rule.forms, why=rule.why)
            return order, rule.why
    why = f"nothing was measured for {backend}"
    return Order(backend=backend, target=target, key=str(key), forms=(NATIVE,), why=why), why


def title(key: str) -> str:
    """A key in short: "GridSample bilinear, border, align_corners 1", "DeformConv, offset groups n, mask"."""
    told = dict(part.partition("=")[::2] for part in key.split(" ")[2:])
    if _op(key) == "GridSample":
        return f"GridSample {told['mode']}, {told['padding_mode']}, align_corners {told['align_corners']}"
    mask = "mask" if told["mask"] == "yes" else "no mask"
    return f"DeformConv, offset groups {told['offset_group']}, {mask}"


def _op(key: str) -> str:
    return key.partition(" ")[0].rpartition("-")[0]


def _distance(key: Key, other: str) -> int:
    """How much differs between a node's key and a measured one: what is computed first, then its type."""
    _, dtype, *setting = other.split(" ")
    return 2 * len(set(key.setting) ^ set(setting)) + (dtype != key.dtype)
