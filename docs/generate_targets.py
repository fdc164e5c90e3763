"""Write docs/targets.md from the catalog: `python docs/generate_targets.py`. A test holds the two equal."""

from __future__ import annotations

from pathlib import Path

from superlower.targets.base import Figure, Target
from superlower.targets.catalog import load_catalog

PAGE = Path(__file__).with_name("targets.md")
PEAKS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
BACKENDS = ("onnxruntime", "openvino", "tvm", "tensorrt", "tensorrt-rtx")

INTRODUCTION = """\
# Targets

<!-- Written by docs/generate_targets.py from src/superlower/targets/catalog.toml: edit that, not this. -->

What `--target` takes. `superlower targets` prints the same, with what third parties have added; `cpu` is the
machine superlower runs on, read from /proc, so its figures are not here.

Peaks are dense (no structured sparsity), in TFLOPS, for INT8 in TOPS. FP16, BF16 and FP8 are tensor-core
peaks with FP32 accumulation, which halves them on GeForce cards. A dash is a figure that the hardware
lacks or that no document of its maker gives.
"""


def page() -> str:
    """The text of docs/targets.md."""
    entries = [entry for entry in load_catalog().values() if entry.name != "cpu"]
    parts = [
        INTRODUCTION,
        "## Figures\n",
        _table(
            ["target", "product", "architecture", "SM", "GB", "GB/s", *(peak.upper() for peak in PEAKS)],
            [_figures(entry) for entry in entries],
        ),
        "## What compiles for them\n",
        "SDK versions that serve the target and that superlower drives; a dash: the backend can't.\n",
        _table(["target", *BACKENDS], [_served(entry) for entry in entries]),
        "## Notes and sources\n",
        *(_section(entry) for entry in entries),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(figure: Figure | None) -> str:
    return "-" if figure is None else f"{figure.value:g}"


def _figures(entry: Target) -> list[str]:
    capability = "-" if entry.compute_capability is None else str(entry.compute_capability)
    numbers = [_number(figure) for figure in (entry.memory_gb, entry.bandwidth_gbs)]
    peaks = [_number(entry.peak_tops.get(peak)) for peak in PEAKS]
    return [f"`{entry.name}`", entry.title, entry.architecture, capability, *numbers, *peaks]


def _served(entry: Target) -> list[str]:
    ranges = [entry.backends[name] or "any" if name in entry.backends else "-" for name in BACKENDS]
    return [f"`{entry.name}`", *ranges]


def _section(entry: Target) -> str:
    figures = {"memory": entry.memory_gb, "bandwidth": entry.bandwidth_gbs, **entry.peak_tops}
    sources: dict[str, list[str]] = {}
    for name, figure in figures.items():
        if figure is not None:
            sources.setdefault(figure.source, []).append(name)
    lines = [f"### `{entry.name}`\n"]
    lines += [f"- {note}" for note in entry.notes]
    lines += [f"- Not by {name}: {reason}." for name, reason in entry.unserved.items()]
    lines += [f"- Source of {', '.join(names)}: {source}." for source, names in sources.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
