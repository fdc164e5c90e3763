"""Published weights on Vid4 give the published code's quality, through the exported programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("torch", reason="PyTorch isn't installed")

from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.sofvsr import SofVsr
from superlower.frontends.zoo.vespcn import Vespcn
from superlower.media.resize import imresize, to_uint8
from superlower.media.tensors import to_tensor
from superlower.metrics.psnr import luma
from support.zoo import request, run_program

pytestmark = pytest.mark.slow

FIGURES = 0.01
"""Decibels to which the figures hold: pixels that lie between two levels are rounded to either."""


def _clip(oracles: Path, name: str, scale: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """Ground truth, and it reduced as MATLAB's imresize does, rounded."""
    truth = [
        np.asarray(Image.open(path).convert("RGB")) for path in sorted((oracles / "vid4" / name).iterdir())
    ]
    return truth, [to_uint8(imresize(picture, 1 / scale)) for picture in truth]


def _psnr(found: NDArray, expected: NDArray) -> float:
    return float(10 * np.log10(255**2 / np.mean((found - expected) ** 2)))


def _outputs(frontend: ZooFrontend, weights: Path, frames: list[NDArray[np.uint8]], caller) -> NDArray:
    height, width = frames[0].shape[:2]
    model = frontend.export(request(height, width, weights))
    contract = model.program.frame
    assert contract.padded == (height, width)
    return run_program(model, [to_tensor(frame, contract) for frame in frames], caller)


@pytest.mark.parametrize(("name", "psnr"), [("calendar", 21.4136), ("city", 25.7959)])
def test_vespcn(name: str, psnr: float, oracles: Path, caller) -> None:
    """Frames 2 to 30; PSNR of luma of the rounded pictures."""
    truth, frames = _clip(oracles, name, 4)
    outputs = _outputs(Vespcn(), oracles / "weights" / "vespcn_x4.pth", frames, caller)
    pictures = [to_uint8(255 * output.transpose(1, 2, 0).astype(np.float64)) for output in outputs]
    found = [_psnr(luma(pictures[t]), luma(truth[t])) for t in range(1, 30)]
    print(name, np.mean(found))
    assert np.mean(found) == pytest.approx(psnr, abs=FIGURES)


@pytest.mark.parametrize(("name", "psnr"), [("calendar", 27.7973), ("city", 35.8328)])
def test_sofvsr(name: str, psnr: float, oracles: Path, caller) -> None:
    """Frames 3 to 29, without eight pixels at each border, luma rounded."""
    truth, frames = _clip(oracles, name, 2)
    outputs = _outputs(SofVsr(), oracles / "weights" / "sofvsr_x2_bi.pth", frames, caller)
    inner = np.s_[8:-8, 8:-8]
    found = [
        _psnr(np.clip(np.round(255 * outputs[t, 0]), 0, 255)[inner], luma(truth[t], rounded=True)[inner])
        for t in range(2, 29)
    ]
    print(name, np.mean(found))
    assert np.mean(found) == pytest.approx(psnr, abs=FIGURES)
