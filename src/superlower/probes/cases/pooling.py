"""Pools: averages and largest numbers of windows, with what counts at the edges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from superlower.probes.case import Case
from superlower.probes.cases._build import (
    BF16,
    EXACT,
    FP32,
    OPSET,
    Floats,
    Kind,
    kinds,
    probe,
    rounded,
    uniform,
)
from superlower.probes.cases._taps import Window, windows

_SIZES = {1: (11,), 2: (7, 9), 3: (4, 5, 6)}


@dataclass(frozen=True)
class _Form:
    """A pool. `include` and `ceil` are count_include_pad and ceil_mode."""

    setting: str
    kernel: tuple[int, ...] = (3, 3)
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = ""
    ceil: bool = False
    include: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the image."""
        return _SIZES[len(self.kernel)]

    def window(self) -> Window:
        """With what isn't given filled in."""
        ones = (1,) * len(self.kernel)
        pads = self.pads or (0,) * 2 * len(self.kernel)
        window = Window(self.kernel, self.strides or ones, self.dilations or ones, pads)
        if self.auto_pad.startswith("SAME"):
            return window.same(self.sizes, self.auto_pad == "SAME_UPPER")
        return window

    def attributes(self) -> dict[str, Any]:
        """As ONNX has them."""
        names = ("strides", "dilations", "pads", "auto_pad")
        made = {name: getattr(self, name) for name in names if getattr(self, name)}
        if self.ceil:
            made["ceil_mode"] = 1
        if self.include:
            made["count_include_pad"] = 1
        return {"kernel_shape": self.kernel, **made}


_BOTH = (
    _Form("plain"),
    _Form("halving", kernel=(2, 2), strides=(2, 2)),
    _Form("pads", pads=(1, 1, 1, 1)),
    _Form("uneven-pads", kernel=(3, 4), strides=(2, 3), pads=(0, 2, 1, 1)),
    _Form("ceil", kernel=(2, 2), strides=(2, 2), ceil=True),
    _Form("ceil-pads", strides=(2, 2), pads=(1, 1, 1, 1), ceil=True),
    _Form("same-upper", kernel=(4, 3), strides=(2, 2), auto_pad="SAME_UPPER"),
    _Form("same-lower", kernel=(4, 3), strides=(2, 2), auto_pad="SAME_LOWER"),
    _Form("valid", strides=(2, 2), auto_pad="VALID"),
    _Form("dilations", dilations=(2, 3), pads=(2, 2, 2, 2)),
    _Form("line", kernel=(3,), strides=(2,), pads=(1, 1)),
    _Form("volume", kernel=(2, 2, 2), strides=(2, 2, 2)),
)
# Of 7 rows, the third window of 3 every 4 begins in the pads after them, where the definitions of 22 on, and
# no earlier ones, leave it out.
_PAST = _Form("ceil-past-the-end", strides=(4, 4), pads=(0, 1, 1, 1), ceil=True)
_AVERAGES = (
    _Form("include-pads", pads=(1, 1, 1, 1), include=True),
    _Form("ceil-include-pads", kernel=(3, 3), strides=(2, 3), pads=(1, 1, 1, 1), ceil=True, include=True),
    _Form("ceil-include", kernel=(2, 2), strides=(2, 2), ceil=True, include=True),
    _Form("dilations-include-pads", dilations=(2, 2), pads=(2, 2, 2, 2), include=True),
    _Form("dilations-ceil", dilations=(2, 2), strides=(2, 2), pads=(1, 1, 1, 1), ceil=True),
)


def cases() -> Iterator[Case]:
    """All cases of pools."""
    for op, forms in (("AveragePool", (*_BOTH, *_AVERAGES)), ("MaxPool", _BOTH)):
        for opset in (OPSET, 22):
            for kind in kinds(op, opset):
                # What is new at 22 is bf16.
                some = forms if opset == OPSET or kind is BF16 else (forms[0], _PAST)
                yield from (_case(op, form, opset, kind) for form in some)
    # AveragePool's definition before dilations.
    older = (form for form in _AVERAGES if not form.dilations)
    yield from (_case("AveragePool", form, 18, FP32) for form in older)
    for opset in (OPSET, 22):
        for kind in kinds("GlobalAveragePool", opset):
            image = uniform(kind, 2, 3, 4, 5)
            tolerance = rounded(kind, 22, 1.0, "a mean of 20 numbers up to 1")
            yield probe("GlobalAveragePool", "plain", opset, kind, [image], _mean, tolerance)
            yield probe("GlobalMaxPool", "plain", opset, kind, [image], _largest, EXACT)


def _mean(x: Floats) -> Floats:
    return np.asarray(x.mean(axis=(2, 3), keepdims=True))


def _largest(x: Floats) -> Floats:
    return np.asarray(x.max(axis=(2, 3), keepdims=True))


def _case(op: str, form: _Form, opset: int, kind: Kind) -> Case:
    window, axes = form.window(), tuple(range(2, 2 + len(form.kernel)))
    output = window.output(form.sizes, form.ceil)

    def largest(x: Floats) -> Floats:
        return np.asarray(windows(x, window, output, -np.inf).max(axis=axes))

    def average(x: Floats) -> Floats:
        total = windows(x, window, output, 0.0).sum(axis=axes)
        return np.asarray(total / _counted(form, window, output).sum(axis=axes))

    taps = int(np.prod(form.kernel))
    mean = rounded(kind, taps + 2, 1.0, f"a mean of {taps} numbers up to 1")
    return probe(
        op,
        form.setting,
        opset,
        kind,
        [uniform(kind, 2, 3, *form.sizes)],
        largest if op == "MaxPool" else average,
        EXACT if op == "MaxPool" else mean,
        attributes=form.attributes(),
        corner=form is _PAST,
    )


def _counted(form: _Form, window: Window, output: tuple[int, ...]) -> Floats:
    """[1, 1, k1, ..., o1, ...]: which taps the average is divided by.

    Pads count if the attribute says so; what a rounded-up size reaches beyond them never does, for it is
    neither the image nor its pads.
    """
    if not form.include:
        return windows(np.ones((1, 1, *form.sizes)), window, output, 0.0)
    padded = [n + b + a for n, b, a in zip(form.sizes, window.before, window.after, strict=True)]
    bare = Window(window.kernel, window.strides, window.dilations, (0,) * len(window.pads))
    return windows(np.ones((1, 1, *padded)), bare, output, 0.0)
