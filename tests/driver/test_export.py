from __future__ import annotations

import errno
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from superlower.bundle.golden import GOLDEN_FILE, GoldenClip
from superlower.check.reference import reference_sessions
from superlower.driver.export import Exported, compare, export, golden_for, golden_input, save
from superlower.errors import BadInputError, OutputsDifferError
from superlower.program import files
from superlower.program.interpret import interpret
from superlower.program.model import Frame, TemporalModel
from support.clips import picture, save_folder, save_video
from support.models import bidirectional, recurrent, window


def test_golden_frames_are_the_middle_of_the_clip(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "clip", 5, 40, 50)
    frames, source = golden_input(Frame(height=20, width=30), 3, folder)
    assert source == "clip, first 3 frames, centre crop"
    assert len(frames) == 3
    for t, frame in enumerate(frames):
        crop = picture(t, 40, 50)[10:30, 10:40]
        assert np.array_equal(frame[0], (crop.transpose(2, 0, 1) / 255).astype(np.float32))


def test_golden_frames_of_a_video_are_padded_as_the_contract_says(tmp_path: Path) -> None:
    video = save_video(tmp_path / "clip.mp4", 4, 18, 22)
    frames, source = golden_input(Frame(height=18, width=22, multiple=8), 4, video)
    assert source == "clip.mp4, first 4 frames"
    assert {f.shape for f in frames} == {(1, 3, 24, 24)}
    for frame in frames:
        assert np.array_equal(frame[:, :, 18:], np.repeat(frame[:, :, 17:18], 6, axis=2))


def test_a_clip_too_small_or_too_short(tmp_path: Path) -> None:
    folder = save_folder(tmp_path / "clip", 3, 16, 16)
    with pytest.raises(BadInputError, match=r"clip is 16x16, smaller than the model's 16x32"):
        golden_input(Frame(height=16, width=32), 2, folder)
    with pytest.raises(BadInputError, match=r"clip has 3 frames, 4 are needed"):
        golden_input(Frame(height=16, width=16), 4, folder)


def test_made_up_frames_depend_on_the_seed_alone() -> None:
    frame = Frame(height=16, width=16)
    first, source = golden_input(frame, 2, None, 5)
    assert source == "made up: drifting 1/f noise, seed 5"
    assert all(map(np.array_equal, first, golden_input(frame, 2, None, 5)[0]))
    assert not np.array_equal(first[0], golden_input(frame, 2, None, 6)[0][0])


def test_graphs_that_differ_from_the_reference_are_an_error() -> None:
    model = recurrent()
    golden = golden_for(model, None, None)
    assert compare(model, golden) == [0.0] * 8
    graph = ir.to_proto(model.graphs["step"])
    (bias,) = (w for w in graph.graph.initializer if w.name == "last.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.002), bias.name))
    message = r"differ from ONNX Runtime .* by 0\.002 at frame \d, over 0\.001"
    with pytest.raises(OutputsDifferError, match=message):
        compare(model.with_graphs({"step": ir.from_proto(graph)}), golden)


def test_the_golden_clip_of_a_folder_is_used_unless_another_is_asked_for(tmp_path: Path) -> None:
    model = recurrent()
    folder = tmp_path / "program"
    files.save_model(model, folder)
    made = golden_for(model, folder, None, 9)
    assert (made.reference, len(made.frames)) == ("ONNX Runtime on the graphs as given", 9)
    kept = GoldenClip(made.frames, made.outputs, "mine", "my own code")
    kept.save(folder / GOLDEN_FILE)
    for count in (None, 9):
        assert golden_for(model, folder, None, count).reference == "my own code"
    for count in (8, 10):
        message = rf"golden\.npz holds 9 frames, not {count}: leave out --frames to use it, give a --clip"
        with pytest.raises(BadInputError, match=message):
            golden_for(model, folder, None, count)
    clip = save_folder(tmp_path / "clip", 10)
    assert golden_for(model, folder, clip).source == "clip, first 8 frames"
    assert golden_for(model, folder, clip, 10).source == "clip, first 10 frames"


@pytest.mark.parametrize("make", [recurrent, bidirectional])
def test_a_model_with_states_is_held_to_eight_frames(
    make: Callable[[], TemporalModel], tmp_path: Path
) -> None:
    model = make()
    with pytest.raises(BadInputError, match=r"has 7 frames, too few for errors to grow in the hidden state"):
        golden_for(model, None, None, 7)
    made = golden_for(model, None, None, 8)
    files.save_model(model, tmp_path / "program")
    GoldenClip(made.frames[:7], made.outputs[:7], "", "").save(tmp_path / "program" / GOLDEN_FILE)
    with pytest.raises(BadInputError, match=r"golden\.npz has 7 frames, too few .*: 8 is the least"):
        golden_for(model, tmp_path / "program", None)


def test_a_model_without_states_may_be_held_to_one_frame() -> None:
    """Neighbouring frames aren't states: no error outlives them."""
    assert len(golden_for(window(), None, None, 1).frames) == 1


def test_basicvsr_is_exported_with_pytorchs_outputs(basicvsr_folder: Path) -> None:
    """The graphs give PyTorch's outputs, and the provenance says of what."""
    model = files.load_model(basicvsr_folder)
    golden = GoldenClip.load(basicvsr_folder / GOLDEN_FILE)
    assert golden.reference == "PyTorch eager fp32"
    assert golden.source == "made up: drifting 1/f noise, seed 0"
    assert len(golden.frames) == len(golden.outputs) == 8
    assert model.program.provenance["weights"] == "random:0"
    assert model.program.provenance["blocks"] == "1"
    assert max(compare(model, golden)) < 1e-4
    assert np.ptp(golden.outputs[1]) > 0.1


def test_nothing_is_written_if_not_all_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = recurrent()
    made = Exported(model, golden_for(model, None, None), [0.0] * 8)
    savez = np.savez

    def full(file: Path, **arrays: object) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(BadInputError, match="disk full while writing"):
        save(made, tmp_path / "program")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(np, "savez", savez)
    save(made, tmp_path / "program")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(BadInputError, match="disk full while writing"):
        save(made, tmp_path / "program")
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    monkeypatch.setattr(np, "savez", savez)
    with pytest.raises(BadInputError, match="exists and is no program folder"):
        save(made, tmp_path / "thesis")
    assert [p.name for p in (tmp_path / "thesis").iterdir()] == ["thesis.tex"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["program", "thesis"]


def test_export_from_a_video(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
    video = save_video(tmp_path / "clip.mp4", 8, 70, 72)
    stages: list[str] = []

    class Told:
        def stage(self, title: str, total: int | None = None) -> None:
            stages.append(title)

        def advance(self, note: str = "") -> None: ...

    asked = partial(export, weights="random:7", height=64, width=64, clip=video, progress=Told())
    with pytest.raises(BadInputError, match="the golden clip has 7 frames, too few"):
        asked("basicvsr", golden_frames=7)
    with pytest.raises(BadInputError, match=r"clip.mp4 has 8 frames, 9 are needed"):
        asked("basicvsr", golden_frames=9)
    assert set(stages) == {"fetching weights"}, "it went on to trace the network first"
    # The model with the least to trace.
    made = asked("espcn")
    assert made.golden.source == "clip.mp4, first 8 frames, centre crop"
    assert len(made.max_abs) == len(made.golden.outputs) == 8
    assert "exporting to ONNX" in stages
    save(made, tmp_path / "program")
    again = files.load_model(tmp_path / "program")
    assert again.program == made.model.program
    assert GoldenClip.load(tmp_path / "program" / GOLDEN_FILE).source == made.golden.source


def test_refusals_name_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"unknown model 'basicsvr': did you mean basicvsr\b"):
        export("basicsvr", None, 64, 64)
    pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")
    missing = tmp_path / "none.pth"
    with pytest.raises(BadInputError, match=re.escape(str(missing))):
        export("basicvsr", str(missing), 64, 64)


def test_the_golden_clip_stands_for_the_program(basicvsr_folder: Path) -> None:
    """Its outputs are those of the equations over its frames, not of frames one by one."""
    model = files.load_model(basicvsr_folder)
    golden = GoldenClip.load(basicvsr_folder / GOLDEN_FILE)
    with reference_sessions(model) as sessions:
        alone = interpret(model.program, golden.frames[:1], lambda graph, feeds: sessions[graph].run(feeds))
    assert np.abs(alone[0] - golden.outputs[0]).max() > 1e-3, "a neighbour changes the first frame"


def test_saving_to_the_working_folder_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = recurrent()
    made = Exported(model, golden_for(model, None, None), [0.0] * 8)
    save(made, tmp_path / "program")
    (tmp_path / "program" / "notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.chdir(tmp_path / "program")
    with pytest.raises(BadInputError, match="is the folder you work in"):
        save(made, Path())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match=r"program holds notes\.txt"):
        save(made, Path("program"))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
