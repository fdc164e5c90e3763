"""A model in 8 bits: calibrated on a clip, placed within a budget of quality, ready for any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import Backend, BuildOptions, quantizes_results
from superlower.backends.registry import backend
from superlower.bundle.golden import GoldenClip, frame_errors
from superlower.bundle.manifest import GroupRecord, QualityRecord, QuantizationRecord
from superlower.driver.calibrate import Ranges, observe, watched_values, widest
from superlower.driver.closed_loop import closed_loop
from superlower.driver.footage import Footage
from superlower.driver.node_groups import NodeGroup, Nodes, node_groups, together
from superlower.driver.placement import Placement, Trial, search
from superlower.driver.precision_search import Limits
from superlower.driver.progress import Progress, Silent
from superlower.errors import BadInputError, OutputsDifferError
from superlower.metrics.loss import Judge
from superlower.passes._levels import SIGNED, UNSIGNED
from superlower.passes.base import Pass
from superlower.passes.pipelines import PassReport, apply
from superlower.passes.quantize import Quantize
from superlower.passes.reorder_depth_to_space import ReorderDepthToSpace
from superlower.passes.validate import Feeds
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target

Array = NDArray[np.generic]

BUDGET_DB = 0.05
"""What int8 and mixed types may cost by default: a tenth of what readers of tables call a difference."""

BUDGET_FLICKER, BUDGET_TOF = 0.05, 0.005
"""What mixed types may add between frames by default, in levels of 255 and in pixels: see decision 12."""


_FASTEST = ("openvino", "onnxruntime")
"""Backends that the search is measured on, if they run the job's targets here."""


@dataclass(frozen=True)
class Calibration:
    """What int8 and mixed jobs are calibrated on, and held to.

    Attributes:
        footage: the clip, and its ground truth.
        budget_db: largest mean loss of luma PSNR over the clip.
        budget_flicker: largest growth of flicker in levels of 255; mixed jobs are held to it.
        budget_tof: largest growth of tOF in pixels, where OpenCV is installed; likewise.
    """

    footage: Footage
    budget_db: float = BUDGET_DB
    budget_flicker: float = BUDGET_FLICKER
    budget_tof: float = BUDGET_TOF

    @property
    def limits(self) -> Limits:
        """Of a search of types."""
        return Limits(self.budget_db, self.budget_flicker, self.budget_tof)


@dataclass(frozen=True)
class Quantized:
    """A model and how it is quantized.

    Attributes:
        model: float, prepared for quantization.
        reports: of the passes that prepared it, by graph.
        ranges: of its values.
        nodes: those to quantize.
        activations: "uint8" or "int8".
        record: as the manifest keeps it.
    """

    model: TemporalModel
    reports: Mapping[str, Sequence[PassReport]]
    ranges: Ranges
    nodes: Nodes
    activations: str
    record: QuantizationRecord

    def passes_for(self, graph: str, sdk: Backend) -> tuple[list[Pass], list[Pass]]:
        """Passes that quantize a graph for a backend: before it is legalized (none) and after."""
        one = _pass(self.ranges, self.nodes, graph, self.activations, sdk)
        return [], [] if one is None else [one]


@dataclass(frozen=True)
class Material:
    """What the searches of a compile work on.

    Attributes:
        model: cleaned up.
        feeds: to validate preparing passes on, by graph.
        calibration: None where no job needs one.
        golden: the clip that engines are checked on.
        options: threads and time limit of the engines measured.
        progress: told of.
    """

    model: TemporalModel
    feeds: Mapping[str, Sequence[Feeds]]
    calibration: Calibration | None
    golden: GoldenClip
    options: BuildOptions
    progress: Progress = field(default_factory=Silent)


class Quantizer:
    """Quantizes a model for jobs, once for each element type of activations that their targets take.

    No activation may be cut off on the golden clip either.
    """

    def __init__(self, material: Material) -> None:
        self._material = material
        self._done: dict[str, Quantized] = {}

    def quantized_for(self, where: Target) -> Quantized:
        """The model quantized for a target.

        The search measures the fastest backend that runs the target here. For a device that isn't here it
        measures ONNX Runtime on the CPU, which computes the same graph.

        Raises:
            BadInputError: there is no calibration clip.
            OutputsDifferError: nothing can be quantized within the budget.
        """
        material = self._material
        if material.calibration is None:
            raise BadInputError("int8 is calibrated on video: give a clip (--calibrate CLIP)")
        activations = SIGNED if where.kind == "nvidia-gpu" else UNSIGNED
        if activations not in self._done:
            ready, reports = prepared(material)
            self._done[activations] = quantize(
                ready, reports, material.calibration, activations, *_runs(where)
            )
        return self._done[activations]


def _runs(where: Target) -> tuple[Backend, Target]:
    """Backend and target whose engines stand for a target's."""
    for name in _FASTEST:
        sdk = backend(name)
        served = sdk.missing() is None and sdk.serves(where, Precision.INT8) is None
        if served and sdk.runnable(where) is None:
            return sdk, where
    return backend("onnxruntime"), target("cpu")


def prepared(material: Material) -> tuple[Material, dict[str, list[PassReport]]]:
    """With the model's pixel shuffles where quantization wants them; exact, and validated on the feeds."""
    model, feeds = material.model, material.feeds
    done = {name: apply(graph, [ReorderDepthToSpace()], feeds[name]) for name, graph in model.graphs.items()}
    graphs = {name: graph for name, (graph, _) in done.items()}
    ready = replace(material, model=model.with_graphs(graphs))
    return ready, {name: reports for name, (_, reports) in done.items()}


def quantize(
    material: Material,
    reports: Mapping[str, Sequence[PassReport]],
    calibration: Calibration,
    activations: str,
    sdk: Backend,
    where: Target,
) -> Quantized:
    """Calibrate a model on a clip and find what to quantize.

    Ranges are taken twice: with the float model's own hidden states to search by, then with those of the
    model as it came out quantized; the better of the two is kept.

    Args:
        material: of the prepared float model; ranges are to hold on its golden clip, too.
        reports: of the passes that prepared it.
        calibration: clip and budget.
        activations: "uint8" or "int8".
        sdk, where: backend and target whose engines are measured.

    Raises:
        OutputsDifferError: nothing can be quantized within the budget.
    """
    model, golden, progress = material.model, material.golden, material.progress
    footage, budget_db = calibration.footage, calibration.budget_db
    frames = footage.frames
    progress.stage("calibrating")
    values = watched_values(model)
    there = observe(model, values, golden.frames)
    ranges = widest(observe(model, values, frames), there)
    groups = node_groups(model, len(frames))
    if not groups:
        raise BadInputError("the model has no convolution of constant weights to quantize: leave out int8")
    with closed_loop(sdk, where, Precision.INT8, material.options) as run:
        progress.stage("searching what to quantize", 2 * len(groups) + 3)
        judge = Judge(run(model, frames), model.program.frame, footage.truth)

        def attempt(chosen: Sequence[NodeGroup], using: Ranges = ranges) -> Trial:
            nodes = together(chosen)
            after = run(_graphs(model, using, nodes, activations, sdk), frames)
            progress.advance(", ".join(g.name for g in chosen))
            return Trial(tuple(g.name for g in chosen), *judge.losses(after))

        placement = search(groups, attempt, budget_db)
        if placement.trial is None:
            best = min(placement.alone.values(), key=lambda t: t.loss.db)
            raise OutputsDifferError(
                f"nothing can be quantized within {budget_db:g} dB: {best.groups[0]} alone costs "
                f"{best.loss.db:.3f} dB on {footage.source}; raise --budget-db or leave out int8"
            )
        progress.stage("calibrating with the quantized model's states")
        nodes = together(placement.quantized)
        again = widest(observe(_graphs(model, ranges, nodes, activations, sdk), values, frames), there)
        second = attempt(placement.quantized, again)
        if second.fits(budget_db) and second.loss.db <= placement.trial.loss.db:
            ranges, placement = again, replace(placement, trial=second)
        outputs = run(_graphs(model, ranges, nodes, activations, sdk), golden.frames)
    low, high = model.program.frame.range
    _, psnr_db = frame_errors(outputs, golden.outputs, high - low)
    record = _record(placement, groups, calibration, activations, sdk, fmean(psnr_db))
    return Quantized(model, reports, ranges, together(placement.quantized), activations, record)


def _pass(ranges: Ranges, nodes: Nodes, graph: str, activations: str, sdk: Backend) -> Quantize | None:
    if graph not in nodes:
        return None
    return Quantize(
        ranges=ranges[graph], nodes=nodes[graph], activations=activations, results=quantizes_results(sdk)
    )


def _graphs(
    model: TemporalModel, ranges: Ranges, nodes: Nodes, activations: str, sdk: Backend
) -> TemporalModel:
    graphs = dict(model.graphs)
    for name in nodes:
        one = _pass(ranges, nodes, name, activations, sdk)
        assert one is not None
        graphs[name], _ = apply(graphs[name], [one])
    return model.with_graphs(graphs)


def _record(
    placement: Placement,
    groups: Sequence[NodeGroup],
    calibration: Calibration,
    activations: str,
    sdk: Backend,
    golden_db: float,
) -> QuantizationRecord:
    assert placement.trial is not None
    quantized = together(placement.quantized)
    records = []
    for group in groups:
        count = sum(n in quantized.get(graph, ()) for graph, names in group.nodes.items() for n in names)
        alone = placement.alone.get(group.name)
        records.append(
            GroupRecord(
                name=group.name,
                nodes=group.count,
                quantized=count,
                share=round(group.share, 4),
                alone_db=None if alone is None else round(alone.loss.db, 5),
            )
        )
    return QuantizationRecord(
        clip=calibration.footage.source,
        frames=len(calibration.footage.frames),
        measured_on=sdk.name,
        activations=activations,
        groups=tuple(records),
        kept=tuple(f"{g}: {n}" for g, names in together(placement.kept).items() for n in names),
        curve_db=tuple(round(loss, 5) for loss in placement.trial.curve_db),
        quality=QualityRecord(budget_db=calibration.budget_db, **asdict(placement.trial.loss)),
        golden_db=golden_db,
        trials=placement.trials,
    )
