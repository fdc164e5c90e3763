"""Replays a bundle's golden clip through its engines and compares every frame with the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.bundle.golden import GoldenClip, frame_errors
from superlower.bundle.manifest import Measured, Variant
from superlower.errors import BadInputError
from superlower.media.tensors import beyond_rounding, picture_of, to_tensor
from superlower.program.model import Frame
from superlower.program.plan import ExecutionPlan
from superlower.program.routes import flips_accepted
from superlower.runtime.load import open_planned, open_runner
from superlower.runtime.runner import Runner


@dataclass(frozen=True)
class VariantCheck:
    """What the check of a variant found.

    Attributes:
        variant, backend, target, precision: which.
        passed: within tolerance at every frame; None if it can't run here.
        skipped: why it can't run here.
        tolerance: largest |output - reference| accepted.
        floor_db: mean PSNR asked for in its place; None where `tolerance` decides.
        max_abs: largest |output - reference| of each frame; infinity where either isn't finite.
        psnr_db: of each frame against the reference; infinity where identical, minus infinity where the error
            is infinite.
        growth: how the error grows over time: mean of max_abs over the last third of the frames, divided by
            that over the first third; None where the error is nil.
        reference: what it was compared with.
        flips: patches of routes for which the engines choose otherwise than the reference; outputs are
            compared with the reference's choices all the same.
        flips_accepted: so many may: see `superlower.program.routes.flips_accepted`.
    """

    variant: str
    backend: str
    target: str
    precision: str
    passed: bool | None
    tolerance: float
    reference: str
    skipped: str = ""
    max_abs: tuple[float, ...] = ()
    psnr_db: tuple[float, ...] = ()
    growth: float | None = None
    flips: int = 0
    flips_accepted: int = 0
    floor_db: float | None = None


def check_variant(
    bundle: Bundle,
    variant: Variant,
    golden: GoldenClip,
    *,
    atol: float | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> VariantCheck:
    """Replay the golden clip through one variant's engines, one call after another and as its plan has it."""
    limit, floor = (variant.tolerance, variant.floor_db) if atol is None else (atol, None)
    what = (variant.name, variant.backend, variant.target, str(variant.precision))
    reason = bundle.why_not(variant)
    if reason is not None:
        return VariantCheck(*what, None, limit, golden.reference, skipped=reason, floor_db=floor)
    with open_runner(bundle, variant) as runner:
        max_abs, psnr = replay(runner, golden, on_frame)
        flips = sum(map(sum, runner.flips.values()))
    if variant.planned is not None and variant.planned.plan != ExecutionPlan():
        # Of the two ways to run it, the one that is further off.
        with open_planned(bundle, variant) as runner:
            planned = replay(runner, golden)
        max_abs = [max(pair) for pair in zip(max_abs, planned[0], strict=True)]
        psnr = [min(pair) for pair in zip(psnr, planned[1], strict=True)]
    low, high = bundle.program.frame.range
    patches = sum(element.size for elements in golden.choices.values() for element in elements)
    accepted = flips_accepted(patches, limit / (high - low)) if patches else 0
    measured = Measured(max_abs=tuple(max_abs), psnr_db=tuple(psnr), flips=flips, flips_accepted=accepted)
    return _verdict(what, measured, limit, floor, golden.reference)


def stored_check(variant: Variant, reference: str) -> VariantCheck:
    """What `check_variant` found when the bundle was compiled, from its manifest."""
    what = (variant.name, variant.backend, variant.target, str(variant.precision))
    measured = variant.measured
    if measured is None:
        return VariantCheck(
            *what, None, variant.tolerance, reference, skipped=variant.unchecked, floor_db=variant.floor_db
        )
    return _verdict(what, measured, variant.tolerance, variant.floor_db, reference)


def _verdict(
    what: tuple[str, str, str, str],
    measured: Measured,
    tolerance: float,
    floor_db: float | None,
    reference: str,
) -> VariantCheck:
    return VariantCheck(
        *what,
        passed=measured.within(tolerance, floor_db),
        tolerance=tolerance,
        floor_db=floor_db,
        reference=reference,
        max_abs=measured.max_abs,
        psnr_db=measured.psnr_db,
        growth=growth(list(measured.max_abs)),
        flips=measured.flips,
        flips_accepted=measured.flips_accepted,
    )


def replay(
    runner: Runner, golden: GoldenClip, on_frame: Callable[[], None] = lambda: None
) -> tuple[list[float], list[float]]:
    """Errors per frame of a runner over the golden clip (see `frame_errors`), given its choices.

    Pictures of a program over pixels are allowed half a level, by which rounding moves them.

    Raises:
        BadInputError: a program over pixels, and golden frames that aren't whole levels.
    """
    frame = runner.program.frame
    low, high = frame.range
    max_abs: list[float] = []
    psnr: list[float] = []
    frames = golden.frames if frame.pixels is None else pixels_of(golden.frames, frame)
    outputs = runner.run(frames, total=len(frames), choices=golden.choices)
    for output, expected in zip(outputs, golden.outputs, strict=True):
        if frame.pixels is None:
            found, wanted = output, expected
        else:
            found = beyond_rounding(output[0], expected, frame)
            wanted = np.zeros_like(found)
        worst, ratio = frame_errors([found], [wanted], high - low)
        max_abs += worst
        psnr += ratio
        on_frame()
    return max_abs, psnr


def pixels_of(frames: Sequence[NDArray[np.float32]], frame: Frame) -> list[NDArray[np.uint8]]:
    """Elements of an input stream of values as those of one of pixels, uint8 [1, H, W, C].

    Raises:
        BadInputError: they aren't whole levels.
    """
    pictures = [picture_of(one, frame) for one in frames]
    if not all(np.array_equal(to_tensor(p, frame), f) for p, f in zip(pictures, frames, strict=True)):
        raise BadInputError(
            "the golden frames aren't whole levels, so no picture has them: compile with --clip VIDEO, "
            "or without pixels in the graphs"
        )
    return [picture[None] for picture in pictures]


def growth(max_abs: list[float]) -> float | None:
    """Mean error of the last third of the frames over that of the first third; None where that is nil."""
    third = max(len(max_abs) // 3, 1)
    first, last = float(np.mean(max_abs[:third])), float(np.mean(max_abs[-third:]))
    return last / first if first > 0 else None
