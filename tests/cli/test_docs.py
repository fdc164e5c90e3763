"""docs/program-json.md and docs/bundle.md say what is so: the example runs, and no field is left out."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest

from superlower.backends.base import Artifact
from superlower.bundle.manifest import Manifest, Measured, PassRecord, Variant
from superlower.media.tensors import to_tensor
from superlower.program import files
from superlower.program.model import Edge, Equation, Frame, Program, Route, Stream
from support.clips import picture, pngs, save_folder, save_video, seconds, sizes
from support.command import superlower

DOCS = Path(__file__).parents[2] / "docs"


def block(page: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example's folder, made as its page says."""
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "make.py"
    script.write_text(block("program-json.md", "python"))
    runpy.run_path(str(script))
    (tmp_path / "double" / "program.json").write_text(block("program-json.md", "json"))
    return tmp_path


def test_the_example_runs_as_written(example: Path) -> None:
    save_video(example / "in.mp4", 5, 48, 60)
    commands = [shlex.split(line) for line in block("program-json.md", "sh").splitlines()]
    assert [c[1] for c in commands] == ["inspect", "compile", "check", "upscale"]
    for name, *arguments in commands:
        assert name == "superlower"
        outcome = superlower(*arguments)
        assert outcome.code == 0, outcome.stderr
    assert sizes(example / "out.mp4") == {(96, 120)}
    assert seconds(example / "out.mp4") == seconds(example / "in.mp4")


def test_the_example_means_what_its_page_says(example: Path) -> None:
    """The first frame is its own predecessor, its state zeros, and padding is replicated: by hand."""
    save_folder(example / "in", 3, 48, 60)
    common = ("--target", "cpu", "--backend", "onnxruntime", "--threads", 1)
    assert superlower("compile", "double", "-o", "b", *common).code == 0
    assert superlower("upscale", "b", "-i", "in", "-o", "out").code == 0
    session = onnxruntime.InferenceSession("double/graphs/step.onnx")
    state = np.zeros((1, 16, 48, 64), np.float32)
    clip = [np.pad(picture(t, 48, 60), ((0, 0), (0, 4), (0, 0)), mode="edge") for t in range(3)]
    clip = [(image.transpose(2, 0, 1)[None] / 255).astype(np.float32) for image in clip]
    for t, image in enumerate(pngs(example / "out")):
        feeds = {"lr_curr": clip[t], "lr_prev": clip[max(t - 1, 0)], "h_in": state}
        state, picture_out = session.run(["h_out", "sr"], feeds)
        wanted = np.clip(picture_out[0, :, :, :120].transpose(1, 2, 0), 0, 1) * 255
        # The fp32 tolerance is 0.255 of a level; half a level more is rounding.
        assert np.abs(image - wanted).max() <= 0.5 + 0.255


def test_the_example_is_legal_and_padded(example: Path) -> None:
    program = files.load_program(example / "double")
    assert program.frame.padded == (48, 64)
    assert to_tensor(picture(0, 48, 60), program.frame).shape == program.sizes("frame")


@pytest.mark.parametrize(
    ("page", "kinds"),
    [
        ("program-json.md", (Program, Frame, Stream, Equation, Route)),
        ("bundle.md", (Manifest, Variant, PassRecord, Measured, Artifact)),
    ],
)
def test_every_field_is_described(page: str, kinds: tuple[type[msgspec.Struct], ...]) -> None:
    text = (DOCS / page).read_text()
    described = set(re.findall(r"`([a-z_]+)`", text))
    # Said in words where the page says what an entry is made of.
    in_words = {
        "bundle.md": {
            PassRecord: {"graph", "name", "options"},
            Artifact: {"backend", "target", "precision"},
        }
    }
    for kind in kinds:
        names = {field.name for field in msgspec.structs.fields(kind)}
        assert names - described - in_words.get(page, {}).get(kind, set()) == set(), kind.__name__
    if page == "program-json.md":
        assert all(f'"{edge}"' in text for edge in Edge)


def test_pages_linked_to_are_there() -> None:
    for page in ("program-json.md", "bundle.md"):
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", (DOCS / page).read_text()):
            assert (DOCS / link).is_file(), link
