"""Write docs/lowerings.md from what was measured: `python docs/generate_lowerings.py`. A test compares."""

from __future__ import annotations

from pathlib import Path

from superlower.backends.lowerings import RULES, WORTH, Finding, Lowerings, Order, Trial, stored, title
from superlower.passes.forms import FORMS

PAGE = Path(__file__).with_name("lowerings.md")

INTRODUCTION = f"""\
# Lowerings

<!-- Written by docs/generate_lowerings.py from src/superlower/backends/lowerings.json: edit neither. -->

A warp (GridSample) and a deformable convolution (DeformConv) can be written in several forms. Which of
them a backend takes, computes rightly and is fastest at was measured; `select-lowering`, a pass of every
build, gives each node the first that it can take. [passes.md](passes.md) says what the forms are.

Each form ran on the same inputs in turns with the others, in fp32, on 64 channels, with flows and
offsets of 2 pixels. DeformConv is 3x3 from 64 channels to 64 with a bias; offset groups n are 16.
*Ratio* is how many times as fast as native a form is, the median over rounds of both in one round.
*Error* is the largest difference from float64, held to a bound derived from the rounding of positions.
Native stays where no form is {WORTH} times as fast, and faster at every size. The form chosen is bold.
"""


def page() -> str:
    """The text of docs/lowerings.md."""
    found = stored()
    parts = [INTRODUCTION, _machine(found), "## Measured\n"]
    timed = [f for f in found.findings if any(t.ms is not None for t in f.trials)]
    for backend in dict.fromkeys(f.backend for f in timed):
        parts.append(f"### {backend}\n")
        own = [f for f in timed if f.backend == backend]
        parts += [_timings([f for f in own if _op(f) == op], op, found.orders) for op in FORMS]
    built = [f for f in found.findings if f not in timed]
    if built:
        parts.append("## Built, not run\n")
        parts.append("What parser and compiler take, for an architecture not at hand; a rule chooses.\n")
        parts.append(_builds(built))
    parts += ["## Rules\n", "Where nothing was measured.\n", _rules()]
    return "\n".join(parts).rstrip() + "\n"


def _op(finding: Finding) -> str:
    return finding.key.partition("-")[0]


def _machine(found: Lowerings) -> str:
    about = dict(found.machine)
    versions = about.pop("versions", {})
    listed = ", ".join(f"{name} {number}" for name, number in sorted(dict(versions).items()))  # type: ignore[arg-type]
    clock = "the process's own time" if about.get("clock") == "process_time" else "wall time"
    return (
        f"Machine: {about.get('title', 'none yet')}, {about.get('threads', 0)} thread(s), {clock}, load "
        f"{about.get('load_average', 0):.2g} at the start. {listed}.\n"
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _timings(findings: list[Finding], op: str, orders: tuple[Order, ...]) -> str:
    """A row a setting and size; a form's milliseconds, ratio and error."""
    forms = [form for form in FORMS[op] if any(t.form == form for f in findings for t in f.trials)]
    chosen = {(order.backend, order.target, order.key): order.forms[0] for order in orders}
    rows = []
    for finding in findings:
        best = chosen.get((finding.backend, finding.target, finding.key))
        trials = {trial.form: trial for trial in finding.trials}
        cells = [_timing(trials.get(form), form == best) for form in forms]
        height, width = finding.size[2:]
        rows.append([title(finding.key).partition(" ")[2], f"{height}x{width}", *cells])
    head = [f"{op}: ms, ratio, error", "size", *forms]
    return _table(head, rows)


def _timing(trial: Trial | None, best: bool) -> str:
    if trial is None:
        return "-"
    if trial.refused or trial.ms is None:
        return "refused" if trial.refused else "builds"
    ratio = "" if trial.ratio is None else f", {trial.ratio:.2f}"
    text = f"{trial.ms:.3g}{ratio}, {f'{trial.error:.0e}' if trial.error else 'exact'}"
    return f"**{text}**" if best else text


def _builds(findings: list[Finding]) -> str:
    rows = []
    for finding in findings:
        taken = ", ".join(trial.form for trial in finding.trials if not trial.refused)
        refused = "; ".join(f"{t.form}: {t.refused}" for t in finding.trials if t.refused)
        rows.append([finding.backend, finding.target, title(finding.key), taken, refused or "-"])
    return _table(["backend", "target", "setting", "builds", "refused"], rows)


def _rules() -> str:
    rows = [[rule.backend, rule.kind, rule.op, " then ".join(rule.forms), rule.why] for rule in RULES]
    return _table(["backend", "kind of target", "operator", "forms", "why"], rows)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
