"""How a variant is best run here: ways to run it, measured in turns, each against the best so far."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import keeps_states
from superlower.bundle.bundle import PLAN_FOLDER, VARIANT_FOLDER, Bundle
from superlower.bundle.choices import Planned, TriedPlan
from superlower.bundle.golden import GoldenClip
from superlower.bundle.manifest import Measured, Variant
from superlower.check.crosscheck import pixels_of, replay
from superlower.driver.progress import Progress, Silent
from superlower.driver.speed import physical_cores
from superlower.driver.ways import Subject, Way, WayBuilder, opened
from superlower.errors import BadInputError, SuperlowerError
from superlower.media.tensors import from_tensor, picture_of, to_tensor
from superlower.program import analysis, files
from superlower.program.plan import ExecutionPlan
from superlower.rewrites.split_tail import split
from superlower.runtime.runner import Runner

TOGETHER = 4
"""Calls that a batch is tried with."""

ROUNDS = 5
LEAST_ROUNDS = 3
DUEL_S = 20.0
"""Seconds after which a comparison takes no further round."""

NOISE = 1.02
"""How many times as fast a way must be, by the median of its rounds, to be worth other engines; and no round
may be slower."""


@dataclass
class Planner:
    """Finds a plan for one variant.

    Attributes:
        subject: the variant, and what it is made of.
        golden: the clip that ways are checked and timed on.
    """

    subject: Subject
    golden: GoldenClip
    progress: Progress = field(default_factory=Silent)

    def measured(self) -> Variant:
        """The variant with the fastest plan found, its engines in the bundle's folder."""
        with tempfile.TemporaryDirectory(prefix="superlower-") as scratch:
            builder = WayBuilder(self.subject, Path(scratch))
            best = builder.way(ExecutionPlan(states=self.subject.states))
            tried = [TriedPlan(name=best.plan.text(), plan=best.plan)]
            challenges = list(self._challenges())
            self.progress.stage(f"planning {self.subject.variant.name}", len(challenges))
            for change in challenges:
                plan = msgspec.structs.replace(best.plan, **change)
                if any(plan == one.plan for one in tried):
                    self.progress.advance()
                    continue
                best = self._challenge(builder, best, plan, tried)
                self.progress.advance(plan.text())
            reason = f"the fastest of {len(tried)} ways measured on {self.subject.variant.target}"
            if len(tried) == 1:
                reason = "there is no other way to run it"
            return self._kept(best, reason, tried)

    def given(self, plan: ExecutionPlan) -> Variant:
        """The variant with a plan of the user's own.

        Raises:
            BadInputError: it can't be followed.
            OutputsDifferError: it takes the outputs out of tolerance.
        """
        with tempfile.TemporaryDirectory(prefix="superlower-") as scratch:
            way = WayBuilder(self.subject, Path(scratch)).way(plan)
            with opened(self.subject.variant, way) as runner:
                if (off := self._off(runner)) is not None:
                    raise BadInputError(f"{self.subject.variant.name}, {plan.text()}: {off}")
            return self._kept(way, "as asked", [TriedPlan(name=plan.text(), plan=plan)])

    def _challenges(self) -> Iterator[dict[str, object]]:
        """Changes to try on the best so far, those that others build on first."""
        inside = self.subject.states == "engine"
        cores = physical_cores()
        yield {"in_flight": 2}
        if self.subject.job is None:
            return
        if self.subject.job.target.kind == "cpu" and cores > 1 and not self.subject.options.threads:
            yield {"in_flight": 2, "threads": max(1, cores // 2)}
        cut, _ = split(self.subject.model)
        if cut.applied.changed and not inside:
            yield {"tail_cut": True}
            yield {"tail_cut": True, "in_flight": 2}
        program = cut.model.program if not inside else self.subject.model.program
        if graphs := sorted(analysis.batchable_graphs(program)):
            change: dict[str, object] = {"batch": dict.fromkeys(graphs, TOGETHER)}
            yield change if inside or not cut.applied.changed else {**change, "tail_cut": True}
        yield {"pixels": True}
        # Chunks of a program without a bounded latency may read another state than an engine's last.
        streams = analysis.latency(self.subject.model.program) is not None
        if not inside and streams and keeps_states(self.subject.job.backend):
            yield {"states": "engine"}

    def _challenge(self, builder: WayBuilder, best: Way, plan: ExecutionPlan, tried: list[TriedPlan]) -> Way:
        """The faster of two ways; the account of it goes to `tried`."""
        row = TriedPlan(name=plan.text(), plan=plan, against=best.plan.text())
        try:
            way = builder.way(plan)
            with opened(self.subject.variant, best) as old, opened(self.subject.variant, way) as new:
                off = self._off(new)
                if off is None and way.engines == best.engines and way.batched == best.batched:
                    off = self._differs(old, new)
                if off is not None:
                    tried.append(msgspec.structs.replace(row, out=off))
                    return best
                times = self._duel(old, new)
        except SuperlowerError as failed:
            tried.append(msgspec.structs.replace(row, out=str(failed)))
            return best
        ratios = tuple(a / b for a, b in times)
        ms = 1000 * median(b for _, b in times) / len(self.golden.frames)
        won = median(ratios) >= NOISE and min(ratios) > 1
        out = "" if won else "not beyond noise"
        tried.append(msgspec.structs.replace(row, ms=ms, ratios=ratios, out=out))
        first = tried[0]
        if first.ms is None:
            base = 1000 * median(a for a, _ in times) / len(self.golden.frames)
            tried[0] = msgspec.structs.replace(first, ms=base)
        return way if won else best

    def _off(self, runner: Runner) -> str | None:
        """Why its outputs won't do; None where they are within the variant's tolerance."""
        worst, psnr = replay(runner, self.golden)
        measured = Measured(max_abs=tuple(worst), psnr_db=tuple(psnr))
        if measured.within(self.subject.variant.tolerance, self.subject.variant.floor_db):
            return None
        return f"it is off by {max(worst):.3g}, tolerance {self.subject.variant.tolerance:.3g}"

    def _differs(self, old: Runner, new: Runner) -> str | None:
        """The same engines give the same, whatever runs beside what."""
        frame = old.program.frame
        clip = self.golden.frames if frame.pixels is None else pixels_of(self.golden.frames, frame)
        pairs = zip(*(runner.run(clip, total=len(clip)) for runner in (old, new)), strict=True)
        same = all(np.array_equal(a, b) for a, b in pairs)
        return None if same else "its outputs aren't the same, bit for bit"

    def _duel(self, old: Runner, new: Runner) -> list[tuple[float, float]]:
        """Seconds of a clip by both, round by round, in turns."""
        pictures = self._pictures()
        for runner in (old, new):
            _lap(runner, pictures)
        times: list[tuple[float, float]] = []
        started = time.monotonic()
        while len(times) < ROUNDS:
            if len(times) >= LEAST_ROUNDS and time.monotonic() - started > DUEL_S:
                break
            times.append((_lap(old, pictures), _lap(new, pictures)))
        return times

    def _pictures(self) -> list[NDArray[np.uint8]]:
        frame = self.subject.model.program.frame
        if frame.color == "rgb":
            return [picture_of(one, frame) for one in self.golden.frames]
        rng = np.random.default_rng(0)
        shape = (frame.height, frame.width, 3)
        return [rng.integers(0, 256, shape, np.uint8) for _ in self.golden.frames]

    def _kept(self, way: Way, reason: str, tried: Sequence[TriedPlan]) -> Variant:
        """The variant with this plan, and what it takes moved into the bundle."""
        place = self.subject.folder / VARIANT_FOLDER / self.subject.variant.name / PLAN_FOLDER
        program = ""
        if not way.own:
            place.mkdir(parents=True)
            for graph, (_, folder) in way.engines.items():
                shutil.copytree(folder, place / graph)
            if way.model.program != self.subject.model.program:
                (place / files.PROGRAM_FILE).write_bytes(files.encode(way.model.program))
                program = (place / files.PROGRAM_FILE).relative_to(self.subject.folder).as_posix()
        for graph, (_, folder) in way.batched.items():
            shutil.copytree(folder, place / f"{graph}.batch")
        record = Planned(
            plan=way.plan,
            reason=reason,
            program=program,
            engines={} if way.own else {g: a for g, (a, _) in way.engines.items()},
            batched={g: a for g, (a, _) in way.batched.items()},
            tried=tuple(tried),
        )
        return msgspec.structs.replace(self.subject.variant, planned=record)


def unplanned(variant: Variant, reason: str) -> Variant:
    """A variant that couldn't be measured: one call after another, and why."""
    record = Planned(plan=ExecutionPlan(), reason=f"not measured, so one call after another: {reason}")
    return msgspec.structs.replace(variant, planned=record)


def read_plan(path: Path) -> ExecutionPlan:
    """A plan from a JSON file with the fields of `ExecutionPlan`.

    Raises:
        BadInputError: no such file, or no plan.
    """
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=ExecutionPlan)
    except OSError as error:
        raise BadInputError(f"can't read the plan {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise BadInputError(f"{path} is no plan: {error}; see docs/plans.md") from None
    if plan.in_flight < 1 or plan.threads < 0 or any(size < 2 for size in plan.batch.values()):
        raise BadInputError(f"{path}: in_flight is 1 or more, threads 0 or more, a batch 2 or more")
    if plan.states not in ("host", "engine"):
        raise BadInputError(f"{path}: states is 'host' or 'engine', not '{plan.states}'")
    return plan


def _lap(runner: Runner, pictures: Sequence[NDArray[np.uint8]]) -> float:
    """Seconds from pictures to pictures."""
    frame = runner.program.frame
    started = time.perf_counter()
    if frame.pixels is not None:
        for _ in runner.run((one[None] for one in pictures), total=len(pictures)):
            pass
    else:
        outputs = runner.run((to_tensor(one, frame) for one in pictures), total=len(pictures))
        for one, output in zip(pictures, outputs, strict=True):
            from_tensor(np.asarray(output, np.float32), frame, one)
    return time.perf_counter() - started


def planned(bundle: Bundle, planner: Planner, plan: ExecutionPlan | None) -> Variant:
    """A planner's variant with its plan.

    Args:
        bundle: the variant's, perhaps unfinished.
        plan: the user's own; None to measure.
    """
    variant = planner.subject.variant
    reason = bundle.why_not(variant)
    if reason is not None:
        return unplanned(variant, reason)
    return planner.measured() if plan is None else planner.given(plan)
