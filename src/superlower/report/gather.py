"""Makes a report's data from what the other packages hold: a model, a bundle and its checks, two frames."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import superlower
from superlower.bundle.bundle import VARIANT_FOLDER, Bundle
from superlower.bundle.manifest import Variant
from superlower.check.crosscheck import VariantCheck
from superlower.driver.variants import Failure
from superlower.media.resize import imresize, to_uint8
from superlower.program import analysis
from superlower.program.model import Program, TemporalModel
from superlower.report.data import BeforeAfter, CoverageTable, EngineRow, Report, Searched, Timing
from superlower.report.numbers import size_text
from superlower.targets.detect import cpu_target

Image = NDArray[np.uint8]

SHARED_PASSES = "every variant"
"""The stage of passes that run before any backend's own."""

_NOT_LOADED = ("log", "layers", "typed")
_PORTS = ("inputs", "outputs")
"""Facts that only loading an engine needs."""


def bundle_report(
    bundle: Bundle,
    checks: Sequence[VariantCheck],
    *,
    title: str = "Compile report",
    created: str = "",
    failures: Sequence[Failure] = (),
    coverage: Sequence[CoverageTable] = (),
    timings: Sequence[Timing] = (),
    pictures: BeforeAfter | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """A report of a bundle as it was compiled and checked on this machine.

    Args:
        bundle: found whole.
        checks: of its variants.
        title, created, coverage, timings, pictures, notes: as in `Report`.
        failures: jobs that `compile` left out of it.
    """
    manifest = bundle.manifest
    sdks = {k: v for variant in manifest.variants for a in variant.engines.values() for k, v in a.sdk.items()}
    return Report(
        title=title,
        model=manifest.model,
        machine=machine(),
        summary=model_facts(bundle.model(), manifest.golden.frames),
        provenance=bundle.program.provenance,
        created=created,
        versions={"superlower": superlower.__version__, **manifest.versions, **sdks},
        checks=checks,
        tolerance_reasons={v.name: v.tolerance_reason for v in manifest.variants},
        failures={failure.job: str(failure.error) for failure in failures},
        passes={SHARED_PASSES: manifest.passes, **{v.name: v.passes for v in manifest.variants}},
        coverage=coverage,
        searches=_searches(bundle),
        timings=timings,
        engines=engine_rows(bundle),
        pictures=pictures,
        notes=notes,
    )


def _searches(bundle: Bundle) -> dict[str, Searched]:
    found = ((v.name, v.quantization or v.types) for v in bundle.manifest.variants)
    return {name: Searched(record.curve_db, record.kept) for name, record in found if record is not None}


def model_facts(model: TemporalModel, frames: int) -> dict[str, str]:
    """What the program and its graphs tell of themselves.

    Args:
        model: with the graphs as they are compiled.
        frames: length of the clip that peak stream memory is given for.
    """
    program, facts = model.program, analysis.analyze(model.program)
    held = [t for g in model.graphs.values() for v in g.graph.initializers.values() if (t := v.const_value)]
    states = [
        f"{name} ({stream.direction}, {size_text(stream.nbytes)})"
        for name, stream in facts.streams.items()
        if stream.state
    ]
    calls = len(program.equations)
    values, held_bytes = sum(t.size for t in held), sum(t.nbytes for t in held)
    return {
        "Frame": _frame(program),
        "Weights and constants": f"{values:,} values, {size_text(held_bytes)}",
        "Graphs": f"{', '.join(model.graphs)}; {calls} call{'s' * (calls != 1)} in the program",
        "Latency": _latency(facts.latency),
        "Hidden states": ", ".join(states) or "none",
        "Peak stream memory": size_text(
            analysis.peak_bytes(program, frames, program.frame.height, program.frame.width)
        )
        + f" for {frames} frames, host states",
    }


def _frame(program: Program) -> str:
    frame = program.frame
    scale = frame.scale
    sizes = f"{frame.width}×{frame.height} to {scale * frame.width}×{scale * frame.height}"  # noqa: RUF001
    height, width = frame.padded
    if (height, width) != (frame.height, frame.width):
        sizes += f", padded to {width}×{height}"  # noqa: RUF001
    low, high = frame.range
    return f"{sizes}, {frame.color}, range {low:g} to {high:g}"


def _latency(frames: int | None) -> str:
    if frames is None:
        return "the whole clip: it looks ahead to the last frame"
    return f"{frames} frame{'s' * (frames != 1)} of look-ahead" if frames else "none: causal"


def engine_rows(bundle: Bundle) -> tuple[EngineRow, ...]:
    """Every engine of a bundle; the bytes are those of the files that loading it needs."""
    return tuple(
        _engine_row(bundle, variant, graph)
        for variant in bundle.manifest.variants
        for graph in variant.engines
    )


def _engine_row(bundle: Bundle, variant: Variant, graph: str) -> EngineRow:
    artifact, files = variant.engines[graph], bundle.manifest.files
    needed = {path for role, path in artifact.files.items() if role not in _NOT_LOADED}
    return EngineRow(
        backend=artifact.backend,
        target=variant.target,
        precision=str(variant.precision),
        graph=graph,
        bytes=sum(files[f"{VARIANT_FOLDER}/{variant.name}/{graph}/{path}"].bytes for path in needed),
        build_s=artifact.build_s,
        sdk=artifact.sdk,
        facts={name: value for name, value in artifact.facts.items() if name not in _PORTS},
        note=f"not run here: {variant.unchecked}" if variant.unchecked else "",
    )


def before_after(low: Image, output: Image, *, after: str, note: str = "") -> BeforeAfter:
    """A frame upscaled by MATLAB's bicubic beside what a model made of it.

    Args:
        low: uint8 [H, W, 3].
        output: uint8 [scale*H, scale*W, 3].
        after: what made `output`.
        note: which frame of which clip.
    """
    bicubic = to_uint8(imresize(low, output.shape[0] / low.shape[0]))
    return BeforeAfter(_png(bicubic), _png(output), "bicubic", after, note)


def machine() -> str:
    """This machine's processor and memory."""
    cpu = cpu_target()
    memory = f", {cpu.memory_gb.value:g} GB" if cpu.memory_gb is not None else ""
    return f"{cpu.title}{memory}"


def _png(rgb: Image) -> bytes:
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(rgb)).save(file, "PNG")
    return file.getvalue()
