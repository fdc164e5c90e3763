"""The GPU run's JSON as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def markdown(document: Document) -> str:
    """Title, a table for each model, and what wasn't done."""
    device = document["device"]
    where = f"{device['name']} (sm_{device['sm']})" if device else f"no GPU: builds for {document['target']}"
    size = "x".join(map(str, document["settings"]["size"]))
    lines = [f"# GPU run: {where}", ""]
    lines.append(f"superlower {document['superlower']}, Python {document['python']}, frames of {size}.")
    if not document["finished"]:
        lines.append("The run isn't finished.")
    steps = {step["name"]: step for step in document["steps"]}
    models = list(dict.fromkeys(name.split()[1] for name in steps if " " in name))
    for model in models:
        lines += ["", f"## {model}", "", *_model(model, steps)]
    undone = [step for step in document["steps"] if step["status"] != "done"]
    if undone or document["left out"]:
        lines += ["", "## Not done", ""]
        lines += [f"- {step['name']}: {step['status']}, {_clean(step['error'])}" for step in undone]
        lines += [f"- {name}: {_clean(why)}" for name, why in document["left out"].items()]
    return "\n".join(lines) + "\n"


def _model(model: str, steps: Mapping[str, Any]) -> Iterator[str]:
    yield "| contender | ms a frame | times as fast as PyTorch eager fp32 | largest error | |"
    yield "| --- | --- | --- | --- | --- |"
    checks: dict[str, Any] = {}
    for name, step in steps.items():
        if name.startswith(f"check {model} "):
            checks |= step["result"]
    told: set[str] = set()
    for run, suffix in (
        (f"speed {model}", ""),
        (f"torch.compile {model}", ""),
        (f"speed {model} tuned", ", tuned"),
    ):
        result = steps.get(run, {}).get("result", {})
        for row in result.get("rows", ()):
            if row["name"] in told and not suffix:
                continue
            told.add(row["name"])
            yield _row(row, suffix, checks.get(row["name"], {}), result.get("errors", {}))
    for name, check in checks.items():
        if name not in told:
            told.add(name)
            why = check.get("skipped") or (
                "OUT OF TOLERANCE" if check.get("passed") is False else "not timed"
            )
            yield f"| {name} | | | {_error(check.get('max_abs', ()))} | {_clean(why)} |"
    for name, step in steps.items():
        if name.startswith(f"build {model} "):
            for variant, facts in step["result"].get("variants", {}).items():
                if variant not in told:
                    made = f"built in {facts['build_s']:.0f} s, {facts['MB']:.1f} MB"
                    yield f"| {variant} | | | | {made} |"
            for variant, why in step["result"].get("failures", {}).items():
                yield f"| {variant} | | | | not built: {_clean(why)} |"


def _row(row: Mapping[str, Any], suffix: str, check: Mapping[str, Any], errors: Mapping[str, float]) -> str:
    name = row["name"]
    spread = f"{row['ms']:.2f} ({min(row['rounds_ms']):.2f} to {max(row['rounds_ms']):.2f})"
    ratio = f"{row['ratio']:.2f}" + (
        f" ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})" if row["ratios"] else ""
    )
    error = f"{errors[name]:.1e}" if name in errors else _error(check.get("max_abs", ()))
    note = "OUT OF TOLERANCE" if check.get("passed") is False else ""
    return f"| {name}{suffix} | {spread} | {ratio} | {error} | {note} |"


def _error(errors: Sequence[float]) -> str:
    return f"{max(errors):.1e}" if errors else ""


def _clean(text: object) -> str:
    """In one line, without what ends a cell."""
    return " ".join(str(text).replace("|", "/").split())
