from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from superlower.bundle.bundle import Bundle
from superlower.driver.quality import measure, read_truth
from superlower.errors import BadInputError
from superlower.media.degrade import bi
from superlower.media.tensors import to_tensor
from superlower.metrics.psnr import luma, psnr, psnr_y
from superlower.metrics.ssim import ssim_y
from superlower.runtime.load import open_runner
from support.clips import picture, save_folder
from support.command import superlower
from support.models import luma_upscaler, save_program


@pytest.fixture(scope="module")
def bundle(recurrent_bundle: Path) -> Bundle:
    return Bundle.open(recurrent_bundle)


def truth(count: int = 5) -> list[NDArray[np.uint8]]:
    return [picture(t, 32, 32) for t in range(count)]


def outputs(bundle: Bundle, clip: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    inputs = [to_tensor(bi(image, 2), bundle.program.frame) for image in clip]
    with open_runner(bundle, bundle.pick()) as runner:
        return [np.asarray(o, np.float32) for o in runner.run(inputs, total=len(inputs))]


def test_scores_are_those_of_the_upscaled_frames(bundle: Bundle) -> None:
    (row,) = measure(bundle, [bundle.pick()], truth(), "bi", border=2)
    assert row.variant == "onnxruntime-cpu-fp32"
    assert row.max_abs == ()
    for t, output in enumerate(outputs(bundle, truth())):
        pixels = np.rint(np.clip(output[0], 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
        assert row.quality.psnr[t] == psnr_y(pixels, truth()[t], border=2)
        assert row.quality.ssim[t] == ssim_y(pixels, truth()[t], border=2)


def test_the_reference_comes_first_and_errors_are_against_it(bundle: Bundle) -> None:
    def shifted(frames: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        assert all(map(np.array_equal, frames, (to_tensor(bi(i, 2), bundle.program.frame) for i in truth())))
        return [o + np.float32(0.01 * t) for t, o in enumerate(outputs(bundle, truth()))]

    first, second = measure(bundle, [bundle.pick()], truth(), "bi", reference=shifted)
    assert first.variant == "PyTorch eager fp32"
    # A sum in float32 of values up to about 2 rounds by up to 1e-7.
    assert second.max_abs == pytest.approx([0, 0.01, 0.02, 0.03, 0.04], abs=3e-7)
    assert first.quality.psnr[0] == second.quality.psnr[0]
    assert first.quality.psnr[4] != second.quality.psnr[4]


def test_ends_are_upscaled_but_not_scored(bundle: Bundle) -> None:
    (whole,) = measure(bundle, [bundle.pick()], truth(), "bi")
    expected = outputs(bundle, truth())
    rows = measure(bundle, [bundle.pick()], truth(), "bi", ends=1, reference=lambda _: expected)
    assert [row.quality.psnr for row in rows] == [whole.quality.psnr[1:-1]] * 2
    assert rows[1].max_abs == (0.0,) * 5
    with pytest.raises(BadInputError, match="with 3 frames left out at either end, none of 5 is scored"):
        measure(bundle, [bundle.pick()], truth(), "bi", ends=3)


def test_whole_levels_are_a_luma_models_own(tmp_path: Path) -> None:
    """Its luma rounded once, not what colour, another rounding and the way back leave of it."""
    compiled = superlower(
        *("compile", save_program(luma_upscaler(), tmp_path / "program"), "-o", tmp_path / "bundle"),
        *("-t", "cpu", "-b", "onnxruntime", "--threads", 1, "--frames", 1),
    )
    assert compiled.code == 0, compiled.stderr
    made = Bundle.open(tmp_path / "bundle")
    (row,) = measure(made, [made.pick()], truth(), "bi", border=1, rounded=True)
    for t, output in enumerate(outputs(made, truth())):
        levels = np.rint(255 * np.clip(output[0, 0], 0, 1))
        assert row.quality.psnr[t] == psnr(levels, luma(truth()[t], rounded=True), border=1)


def test_whole_levels_of_colour(bundle: Bundle) -> None:
    (row,) = measure(bundle, [bundle.pick()], truth(), "bi", rounded=True)
    for t, output in enumerate(outputs(bundle, truth())):
        pixels = np.rint(np.clip(output[0], 0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)
        assert row.quality.psnr[t] == psnr_y(pixels, truth()[t], rounded=True)


def test_chunks_score_alike_where_they_are_exact(bundle: Bundle) -> None:
    whole = measure(bundle, [bundle.pick()], truth(), "bi")
    assert measure(bundle, [bundle.pick()], truth(), "bi", chunk=2) == whole


def test_truth_is_cropped_to_the_models_output(tmp_path: Path, bundle: Bundle) -> None:
    folder = save_folder(tmp_path / "gt", 4, 33, 33)
    found = read_truth(folder, bundle.program.frame, 3)
    assert all(np.array_equal(image, picture(t, 33, 33)[:32, :32]) for t, image in enumerate(found))
    assert len(found) == 3
    with pytest.raises(BadInputError, match="gt has 4 frames, 9 were asked for"):
        read_truth(folder, bundle.program.frame, 9)


def test_truth_of_another_size_says_which_the_model_must_have(tmp_path: Path, bundle: Bundle) -> None:
    folder = save_folder(tmp_path / "gt", 1, 48, 64)
    message = "gt is 48x64: degraded it is 24x32, the bundle takes 16x16; export the model with --size 24x32"
    with pytest.raises(BadInputError, match=message):
        read_truth(folder, bundle.program.frame, None)


def test_unknown_degradation_and_one_of_another_scale(bundle: Bundle) -> None:
    with pytest.raises(BadInputError, match=r"unknown degradation 'bd12': did you mean bd13"):
        measure(bundle, [bundle.pick()], truth(), "bd12")
    with pytest.raises(BadInputError, match="degradation bd is defined for x4, the model is x2: use bi"):
        measure(bundle, [bundle.pick()], truth(), "bd")
