from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from superlower.bundle.bundle import Bundle
from superlower.check.crosscheck import check_variant, growth
from superlower.check.tolerance import tolerance
from superlower.errors import BadInputError
from superlower.program.model import Frame
from superlower.targets.base import Precision


def test_a_good_bundle_passes(recurrent_bundle: Path) -> None:
    bundle = Bundle.open(recurrent_bundle)
    golden = bundle.golden()
    seen: list[None] = []
    found = check_variant(bundle, bundle.pick(), golden, on_frame=lambda: seen.append(None))
    assert found.passed
    assert len(seen) == len(found.max_abs) == len(found.psnr_db) == len(golden.frames) == 8
    assert (found.tolerance, found.reference) == (0.001, golden.reference)


def test_one_wrong_frame_in_the_middle_fails(recurrent_bundle: Path) -> None:
    bundle = Bundle.open(recurrent_bundle)
    golden = bundle.golden()
    golden.outputs[4][0, 1, 2, 3] += 0.01
    found = check_variant(bundle, bundle.pick(), golden)
    assert found.passed is False
    assert np.argmax(found.max_abs) == 4
    assert found.max_abs[4] == pytest.approx(0.01, abs=1e-5)
    # One pixel of 3 * 32 * 32 is off by a hundredth of the range.
    assert found.psnr_db[4] == pytest.approx(10 * np.log10(3 * 32 * 32 / 1e-4), abs=0.1)
    assert check_variant(bundle, bundle.pick(), golden, atol=0.02).passed


def test_an_output_that_is_no_number_fails(recurrent_bundle: Path) -> None:
    bundle = Bundle.open(recurrent_bundle)
    golden = bundle.golden()
    golden.outputs[7][0, 0, 0, 0] = np.nan
    found = check_variant(bundle, bundle.pick(), golden, atol=1e30)
    assert found.passed is False
    assert (found.max_abs[7], found.psnr_db[7]) == (np.inf, -np.inf)
    assert set(found.psnr_db[:7]) == {np.inf}


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([1.0, 1.0, 9.0, 9.0, 2.0, 4.0], 3.0),
        ([2.0, 7.0, 1.0], 0.5),
        ([3.0], 1.0),
        ([1.0, 2.0], 2.0),
        ([0.0, 0.0, 0.0], None),
        ([0.0, 5.0, 5.0], None),
    ],
)
def test_growth_is_last_third_over_first(errors: list[float], expected: float | None) -> None:
    assert growth(errors) == expected


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)])
def test_tolerances_are_steps_of_8_bits(value_range: tuple[float, float]) -> None:
    frame = Frame(height=4, width=4, range=value_range)
    step = (value_range[1] - value_range[0]) / 255
    assert tolerance(Precision.FP32, frame).max_abs == pytest.approx(step / 4, rel=0.03)
    assert tolerance(Precision.FP16, frame).max_abs == pytest.approx(2 * step)
    assert tolerance(Precision.BF16, frame).max_abs == pytest.approx(16 * step)
    assert tolerance(Precision.INT8, frame, 0.5).max_abs == 0.5
    for endless in (np.inf, np.nan):
        with pytest.raises(BadInputError, match=f"--atol {endless}: no output would ever differ"):
            tolerance(Precision.FP32, frame, endless)
    with pytest.raises(BadInputError, match="no tolerance is known for int8: give one with --atol"):
        tolerance(Precision.INT8, frame)


def test_the_copy_of_a_bundle_checks_alike(recurrent_bundle: Path, copied: Callable[[Path], Path]) -> None:
    first, second = Bundle.open(recurrent_bundle), Bundle.open(copied(recurrent_bundle))
    errors = [check_variant(b, b.pick(), b.golden()).max_abs for b in (first, second)]
    assert errors[0] == errors[1]
