"""A model whose nodes have types of their own: the fastest within budgets of quality, measured on video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import log10
from statistics import fmean, median

from superlower.backends.base import Backend
from superlower.backends.registry import backend
from superlower.bundle.golden import frame_errors
from superlower.bundle.manifest import QualityRecord, TrialRecord, TypedGroup, TypesRecord
from superlower.driver.calibrate import observe, watched_values, widest
from superlower.driver.closed_loop import ClosedLoop, closed_loop
from superlower.driver.group_times import (
    Times,
    engine_times,
    estimated_times,
    measured_times,
    without_figures,
)
from superlower.driver.node_groups import node_groups
from superlower.driver.precision_search import Found, Limits, MixedTrial, search
from superlower.driver.precisions import Option, Served, Types, guarded_values, overflows, served, types_of
from superlower.driver.quantization import Calibration, Material, prepared
from superlower.driver.roofline import calls_per_frame
from superlower.driver.temporal import temporal
from superlower.driver.typed_graphs import Typing
from superlower.errors import BadInputError, OutputsDifferError
from superlower.metrics.loss import IDENTICAL_DB, Judge
from superlower.passes._levels import SIGNED, UNSIGNED
from superlower.passes.base import Pass
from superlower.passes.pipelines import PassReport
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import target

MIXED = "mixed"

Options = Mapping[str, Sequence[Option]]
TypedBy = Callable[[Types], TemporalModel]


@dataclass(frozen=True)
class Mixed:
    """A model and which types its nodes have.

    Attributes:
        typing: how graphs are typed; holds the float model.
        reports: of the passes that prepared it, by graph.
        types: found.
        record: as the manifest keeps it.
    """

    typing: Typing
    reports: Mapping[str, Sequence[PassReport]]
    types: Types
    record: TypesRecord

    @property
    def model(self) -> TemporalModel:
        """Float, prepared for typing."""
        return self.typing.model

    def passes_for(self, graph: str, sdk: Backend) -> tuple[list[Pass], list[Pass]]:
        """Passes that type a graph for a backend: before and after it is legalized."""
        types = self.types.get(graph, {})
        return self.typing.first(types), self.typing.last(graph, types, sdk)


class Mixer:
    """Finds types of a model's nodes for jobs, once for each backend and target."""

    def __init__(self, material: Material) -> None:
        self._material = material
        self._done: dict[tuple[str, str], Mixed] = {}

    def mixed_for(self, sdk: Backend, where: Target) -> Mixed:
        """The model typed for a backend and a target.

        Engines of the backend itself are measured if it runs the target here. For a device that isn't here
        ONNX Runtime's CPU runs the same graphs, half types computed in fp32 and rounded after every node, and
        times are bounds by the target's peaks.

        Raises:
            BadInputError: no clip, no types to mix, or no groups.
            OutputsDifferError: nothing but fp32 is within the budgets.
        """
        material = self._material
        if material.calibration is None:
            raise BadInputError("mixed precision is found on video: give a clip (--calibrate CLIP)")
        key = sdk.name, where.name
        if key not in self._done:
            ready, reports = prepared(material)
            job = _Search(ready, material.calibration, sdk, where)
            self._done[key] = job.run(reports)
        return self._done[key]


class _Search:
    """One search, for a backend and a target."""

    def __init__(self, material: Material, calibration: Calibration, sdk: Backend, where: Target) -> None:
        self._model, self._calibration, self._golden = material.model, calibration, material.golden
        self._options, self._progress, self._target = material.options, material.progress, where
        self._here = sdk.missing() is None and sdk.runnable(where) is None
        self._sdk, self._where = (sdk, where) if self._here else (backend("onnxruntime"), target("cpu"))
        found = served(sdk, where)
        refused = dict(found.refused)
        if not self._here:
            refused |= without_figures(where, found.precisions)
        self._served = Served(tuple(p for p in found.precisions if p not in refused), refused)
        if Precision.FP32 in refused or len(self._served.precisions) < 2:
            raise BadInputError(
                f"{sdk.name} has nothing to mix for {where.name}: "
                + "; ".join(f"{precision}: {why}" for precision, why in refused.items())
            )

    def run(self, reports: Mapping[str, Sequence[PassReport]]) -> Mixed:
        """See `Mixer.mixed_for`."""
        model, footage, progress = self._model, self._calibration.footage, self._progress
        frames = footage.frames
        progress.stage("calibrating")
        watched = watched_values(model)
        halves = Precision.FP16 in self._served.precisions
        guarded = guarded_values(model) if halves else {}
        values = {g: tuple(dict.fromkeys((*watched[g], *guarded.get(g, ())))) for g in watched}
        ranges = widest(observe(model, values, frames), observe(model, values, self._golden.frames))
        groups = node_groups(model, len(frames))
        if not groups:
            raise BadInputError("the model has no convolution of constant weights to type: leave out mixed")
        activations = SIGNED if self._target.kind == "nvidia-gpu" else UNSIGNED
        typing = Typing(model, ranges, activations)
        held = {g.name: overflows(model, g.nodes, ranges) if halves else {} for g in groups}
        options = {
            group.name: [
                Option(group, precision, held[group.name] if precision is Precision.FP16 else {})
                for precision in self._served.precisions
            ]
            for group in groups
        }

        def typed(types: Types) -> TemporalModel:
            return typing.typed(types, self._sdk, self._where, emulate=not self._here)

        with closed_loop(self._sdk, self._where, Precision.MIXED, self._options, legal=True) as loop:
            before = loop(typed({}), frames)
            judge = Judge(before, model.program.frame, footage.truth)
            steady = temporal(before, model.program.frame, footage.truth)
            times = self._times(options, typed, loop)
            progress.stage("searching types", 2 * len(groups))

            def attempt(chosen: Sequence[Option]) -> MixedTrial:
                after = loop(typed(types_of(chosen)), frames)
                growth = temporal(after, model.program.frame, footage.truth).growth(steady)
                choice = {o.group.name: o.precision for o in chosen}
                progress.advance(", ".join(f"{name} {p}" for name, p in choice.items()))
                loss, curve = judge.losses(after)
                lower = tuple(name for name, p in choice.items() if p is not Precision.FP32)
                return MixedTrial(lower, loss, curve, choice, growth.flicker, growth.tof)

            found = search(options, times.saving, attempt, self._calibration.limits)
            if found.trial is None:
                raise OutputsDifferError(self._nothing(found))
            ms: dict[str, float] = {}
            if self._here:
                progress.stage("timing the engines found")
                ms = self._whole(options, typed, types_of(found.chosen), loop)
                found = _fastest(found, options, ms, self._calibration.limits)
            types = types_of(found.chosen)
            outputs = loop(typed(types), self._golden.frames)
        low, high = model.program.frame.range
        _, psnr_db = frame_errors(outputs, self._golden.outputs, high - low)
        golden_db = min(fmean(psnr_db), IDENTICAL_DB)
        record = self._record(found, options, times, activations, golden_db, ms)
        return Mixed(typing, reports, types, record)

    def _times(self, options: Options, typed: TypedBy, loop: ClosedLoop) -> Times:
        frames = len(self._calibration.footage.frames)
        if not self._here:
            return estimated_times(options, self._model, frames, self._target)
        return measured_times(options, self._model, frames, typed, loop, self._progress)

    def _whole(self, options: Options, typed: TypedBy, types: Types, loop: ClosedLoop) -> dict[str, float]:
        """Milliseconds a frame: of what was found, and of each type for all."""
        uniform = {
            str(p): types_of([o for found in options.values() for o in found if o.precision is p])
            for p in self._served.precisions
        }
        models = {name: typed(wanted) for name, wanted in {MIXED: types, **uniform}.items()}
        calls = calls_per_frame(self._model.program, len(self._calibration.footage.frames))
        found = dict.fromkeys(models, 0.0)
        for graph, often in calls.items():
            own = engine_times(loop, {n: m.graphs[graph] for n, m in models.items()}, graph, self._progress)
            for name, seconds in own.items():
                found[name] += 1000 * often * median(seconds)
        return {name: round(value, 3) for name, value in found.items()}

    def _nothing(self, found: Found) -> str:
        limits = self._calibration.limits
        best = min(found.trials, key=lambda t: t.loss.db)
        told = ", ".join(f"{name} {precision}" for name, precision in best.choice.items())
        return (
            f"nothing faster than fp32 is within {limits.db:g} dB, {limits.flicker:g} levels of flicker and "
            f"{limits.tof:g} px of tOF on {self._calibration.footage.source}: the best of "
            f"{len(found.trials)} trials ({told}) costs {best.loss.db:.3f} dB; raise a budget, or leave out "
            f"mixed"
        )

    def _record(
        self,
        found: Found,
        options: Options,
        times: Times,
        activations: str,
        golden_db: float,
        ms: Mapping[str, float],
    ) -> TypesRecord:
        trial, limits, footage = found.trial, self._calibration.limits, self._calibration.footage
        assert trial is not None
        before = trial.loss.before_db
        assert before is not None

        def alone(name: str) -> dict[str, float]:
            # Squared errors over the model's own add up; as a loss of dB against it.
            costs = {p: noise for (group, p), noise in found.alone.items() if group == name}
            return {str(p): round(10 * log10(1 + noise), 5) for p, noise in costs.items()}

        groups = []
        for option in found.chosen:
            name = option.group.name
            parent = name.partition(", ")[0]
            saved = {
                str(o.precision): round(1000 * times.saving[parent, o.precision], 6) for o in options[parent]
            }
            groups.append(
                TypedGroup(
                    name=name,
                    nodes=option.group.count,
                    precision=option.precision,
                    held=sum((g, n) in option.held for g, names in option.group.nodes.items() for n in names),
                    saved_ms=saved if name == parent else {},
                    alone_db=alone(name),
                )
            )
        return TypesRecord(
            clip=footage.source,
            frames=len(footage.frames),
            measured_on=self._sdk.name if self._here else f"{self._sdk.name} (rounded in fp32)",
            timed="measured" if times.measured else "estimated",
            activations=activations,
            refused={str(p): why for p, why in self._served.refused.items()},
            groups=tuple(groups),
            background=found.background,
            kept=tuple(self._kept(found, options, times)),
            curve_db=tuple(round(loss, 5) for loss in trial.curve_db),
            quality=QualityRecord(budget_db=limits.db, **asdict(trial.loss)),
            flicker=trial.flicker,
            budget_flicker=limits.flicker,
            tof=trial.tof,
            budget_tof=None if trial.tof is None else limits.tof,
            golden_db=golden_db,
            ms=dict(ms),
            trials=tuple(
                TrialRecord(
                    types=dict(one.choice),
                    db=one.loss.db,
                    flicker=one.flicker,
                    tof=one.tof,
                    grows=one.grows,
                    within=one.within(limits),
                )
                for one in found.trials
            ),
        )

    def _kept(self, found: Found, options: Options, times: Times) -> list[str]:
        """A line for each node of more bits than the fewest offered, with the reason."""
        lines = []
        for option in found.chosen:
            name = option.group.name.partition(", ")[0]
            fewest = options[name][0].precision
            for graph, names in option.group.nodes.items():
                for node in names:
                    why = option.held.get((graph, node))
                    if why is not None:
                        lines.append(f"{graph}: {node}: fp32: it {why}")
                    elif option.precision is not fewest:
                        reason = self._reason(found, name, fewest, option.precision, times)
                        lines.append(f"{graph}: {node}: {option.precision}: {reason}")
        return lines

    def _reason(self, found: Found, name: str, fewest: Precision, own: Precision, times: Times) -> str:
        if times.saving[name, fewest] <= times.saving[name, own]:
            return f"{name} in {fewest} is no faster"
        noise = found.alone.get((name, fewest))
        if noise is None:
            return f"{name} in {fewest} wasn't within the budgets"
        return f"{name} in {fewest} costs {10 * log10(1 + noise):.4f} dB alone"


def _fastest(found: Found, options: Options, ms: dict[str, float], limits: Limits) -> Found:
    """What was found, or one type for all where that is faster as a whole, and was within the limits."""
    for trial in found.trials:
        types = set(trial.choice.values())
        if len(types) == 1 and trial.within(limits):
            (precision,) = types
            if ms[str(precision)] < ms[MIXED]:
                ms[MIXED] = ms[str(precision)]
                chosen = tuple(o for offered in options.values() for o in offered if o.precision is precision)
                found = replace(found, chosen=chosen, trial=trial)
    return found
