"""The demo in small: its command on a synthesised clip, with one block of seeded weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from superlower.backends.registry import backend
from superlower.bundle.bundle import Bundle
from superlower.driver import demo
from superlower.driver.export import Exported, export
from superlower.driver.speed import PYTORCH
from superlower.media.clip import open_clip
from superlower.media.images import read_png
from superlower.media.resize import imresize, to_uint8
from support.clips import save_video, seconds, sizes
from support.command import Outcome, superlower
from support.report import Page

pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

# Under 33 pixels a side, the least BasicVSR takes, frames would be padded.
SIDE, FRAMES = 36, 9
MODULES = {"openvino": "openvino", "tvm": "tvm", "tensorrt-rtx": "tensorrt_rtx"}

Command = Callable[..., Outcome]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_video(tmp_path_factory.mktemp("clip") / "clip.mp4", FRAMES, SIDE, SIDE)


@pytest.fixture(scope="module")
def exported() -> dict[tuple[int, int], Exported]:
    """What was exported before, by size: torch.export is the longest part of it all."""
    return {}


@pytest.fixture
def command(
    tmp_path: Path,
    clip: Path,
    exported: dict[tuple[int, int], Exported],
    monkeypatch: pytest.MonkeyPatch,
) -> Command:
    """`superlower demo --json` into tmp_path/out, on parts that are quick to build."""

    def export_once(name: str, weights: str, height: int, width: int, **others: Any) -> Exported:
        if (height, width) not in exported:
            exported[height, width] = export(name, weights, height, width, **others)
        return exported[height, width]

    monkeypatch.setattr(demo.exporting, "export", export_once)
    parts = {"clip": clip, "weights": "random:0", "options": {"blocks": "1"}}
    monkeypatch.setattr(demo, "run", partial(demo.run, **parts, gpus=("rtx4090",)))
    return partial(superlower, "demo", "-o", tmp_path / "out", "--json")


def expect_whole(outcome: Outcome, folder: Path, clip: Path, frames: int) -> None:
    """Everything that the command says it made is there and right, for the SDKs that are here.

    Args:
        frames: of the video.
    """
    assert outcome.code == 0, outcome.stderr
    told = outcome.json
    here = {sdk for sdk in MODULES if backend(sdk).missing() is None}
    running = {f"{sdk}-cpu-fp32" for sdk in ("onnxruntime", *here) if sdk in demo.CPU_BACKENDS}
    planned = {"tensorrt-rtx-rtx4090-fp16"} if "tensorrt-rtx" in here else set()
    expected = {"basicvsr.bundle": running | planned}
    bundles = {path.name: Bundle.open(path).manifest.variants for path in folder.glob("*.bundle")}
    assert {name: {v.name for v in variants} for name, variants in bundles.items()} == expected
    checks = {check["variant"]: check["passed"] for check in told["checks"]}
    assert {name for name, passed in checks.items() if passed} == running
    assert checks.keys() == set().union(*expected.values())

    timings = {row["name"]: row["ms"] for row in told["timings"]}
    assert timings.pop(PYTORCH) > 0
    assert timings.keys() >= running
    assert told["variant"] == min(timings, key=timings.__getitem__)

    video = Path(told["video"])
    assert video == folder / "clip-x4.mp4"
    assert sizes(video) == {(4 * SIDE, 4 * SIDE)}
    assert told["frames"] == len(seconds(video)) == frames
    with open_clip(clip) as low, open_clip(video) as high:
        middle = [list(each)[frames // 2].rgb for each in (low, high)]
    pair = [to_uint8(imresize(middle[0], 4)), middle[1]]
    assert np.array_equal(read_png(folder / "before-after.png"), np.concatenate(pair, axis=1))

    page = Page((folder / "report.html").read_text())
    assert f"frame {frames // 2} of clip-x4" in page.text
    assert len(page.all("img")) == 2
    for sdk in MODULES:
        named = [reason for reason in told["left_out"] if reason.startswith(f"{sdk}: ")]
        assert len(named) == (sdk not in here)
        assert all(f"left out: {reason}" in outcome.stderr for reason in named)
        assert all(f"Left out: {reason}" in page.text for reason in named)
    asked = len(here) + 1
    assert f"{asked} of {asked} backends × targets × precisions" in page.text  # noqa: RUF001


@pytest.mark.parametrize(
    ("absent", "asked", "written"),
    [
        # README's commands make the same engines.
        pytest.param((), 4, 4, id="every SDK that is here", marks=pytest.mark.slow),
        pytest.param(("tvm",), 4, 4, id="without TVM", marks=pytest.mark.slow),
        pytest.param(tuple(MODULES), 300, FRAMES, id="ONNX Runtime alone, and more frames than there are"),
    ],
)
def test_makes_all_it_says(
    tmp_path: Path,
    clip: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    absent: tuple[str, ...],
    asked: int,
    written: int,
) -> None:
    for sdk in absent:
        # None: neither `import` nor `importlib.util.find_spec` finds it.
        monkeypatch.setitem(sys.modules, MODULES[sdk], None)
    expect_whole(command("--frames", asked), tmp_path / "out", clip, written)
