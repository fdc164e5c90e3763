"""What a user does wrong: the documented exit code, and one clear line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from superlower.cli import check as check_module
from superlower.cli import lists
from superlower.errors import BuildFailedError
from support.clips import save_folder, save_video
from support.command import Outcome, fresh, superlower
from support.models import recurrent, save_program, save_upscaler
from support.wrong import Wrong

BAD, UNSUPPORTED, DIFFER, FAILED, MISSING = 2, 3, 4, 5, 6
CPU = ("-t", "cpu", "-b", "onnxruntime", "--threads", 1)


def refused(outcome: Outcome, code: int, message: str, *, reported: bool = False) -> None:
    """One line, and nothing else unless a report for people goes before."""
    assert outcome.code == code, outcome.stderr
    error = outcome.verdict if reported else outcome.error
    assert re.search(message, error), error
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("inspect", "nowhere"), "no such model or bundle: nowhere"),
        (("check", "nowhere"), "no bundle.json in nowhere: not a bundle; `superlower compile` makes one"),
        (("upscale", "nowhere", "-i", "a.mp4", "-o", "b.mp4"), "no bundle.json in nowhere"),
        (("compile", "nowhere.onnx", "-o", "b", *CPU), "no such ONNX file: nowhere.onnx"),
        (("coverage", "nowhere.onnx", "-t", "cpu"), "no such ONNX file: nowhere.onnx"),
        (("passes", "--explain", "nowhere.onnx"), "no such ONNX file: nowhere.onnx"),
        (("--config", "nowhere.toml", "targets"), "no such config file: nowhere.toml"),
        (("--log-level", "loud", "targets"), "--log-level loud: write debug, info, warning or error"),
        (("coverage", "x.onnx", "-t", "rtx309"), "unknown target 'rtx309': did you mean rtx3090"),
        (("compile", "x.onnx", "-o", "b", "-t", "cpuu"), "unknown target 'cpuu': did you mean cpu"),
        (
            ("compile", "x.onnx", "-o", "b", "-t", "cpu", "-b", "onxruntime"),
            "unknown backend 'onxruntime': did you mean onnxruntime",
        ),
        (
            ("compile", "x.onnx", "-o", "b", *CPU, "-p", "fp23"),
            "unknown precision 'fp23': did you mean fp32 or .*known: bf16, ",
        ),
        (
            ("compile", "x.onnx", "-o", "b", *CPU, "--pass", "onnxsimp"),
            "unknown pass 'onnxsimp': did you mean onnxsim",
        ),
        (
            ("compile", "x.onnx", "-o", "b", *CPU, "--mode", "fast"),
            "--mode fast: write latency or throughput",
        ),
        (("compile", "x.onnx", "-o", "b", *CPU, "--state", "gpu"), "--state gpu: write host or engine"),
        (("compile", "x.onnx", "-o", "b", *CPU, "--size", "16"), "--size 16: write HEIGHTxWIDTH"),
        (("compile", "x.onnx", "-o", "b", *CPU, "--set", "threads"), "--set threads: write KEY=VALUE"),
        (
            ("compile", "x.onnx", "-o", "b", *CPU, "--set", "onxruntime.threads=1"),
            "unknown backend or --pass of --set 'onxruntime': did you mean onnxruntime",
        ),
        (
            ("compile", "x.onnx", "-o", "b", *CPU, "--set", "fold-constants.max_elements=1"),
            "unknown backend or --pass of --set 'fold-constants'",
        ),
        (
            (
                "compile",
                "x.onnx",
                "-o",
                "b",
                *CPU,
                "--pass",
                "fold-constants",
                "--set",
                "fold-constants.max_element=1",
            ),
            "unknown option of pass fold-constants 'max_element': did you mean max_elements",
        ),
        (
            (
                "compile",
                "x.onnx",
                "-o",
                "b",
                *CPU,
                "--pass",
                "fold-constants",
                "--set",
                "fold-constants.max_elements=x",
            ),
            "--set fold-constants.max_elements=x: Expected `int`",
        ),
        (("compile", "x.onnx", "-o", "b", *CPU, "--workspace", "lots"), "'lots' is no amount of memory"),
        (
            ("compile", "x.onnx", "-o", "b", *CPU, "--set", "onnxruntime.arena=1"),
            "unknown onnxruntime setting",
        ),
        (("compile", "x.onnx", "-o", "b", "-t", "cpu", "-b", "tensorrt-rtx"), "tensorrt|pip install"),
        (("compile", "x.onnx", "-o", "taken", *CPU), "taken exists and is no bundle: choose another output"),
        (("compile", "x.onnx", "-o", "x.onnx", *CPU), "x.onnx exists and is no bundle"),
        (
            ("compile", "x.onnx", "-o", "b", *CPU, "--size", "32x32"),
            "is built for a height of 16 pixels, not 32",
        ),
        (("compile", "free.onnx", "-o", "b", *CPU), "free.onnx takes frames of any size"),
        (("compile", "x.onnx", "-o", "b", *CPU, "--clip", "none.mp4"), "can't open none.mp4"),
        (("compile", "text.onnx", "-o", "b", *CPU), "text.onnx is not a valid ONNX model"),
        (("compile", "half.onnx", "-o", "b", *CPU), "half.onnx is not a valid ONNX model"),
        (
            ("compile", "two.onnx", "-o", "b", *CPU),
            r"two.onnx has 2 inputs \(a, b\), not one: .*program.json",
        ),
        (("compile", "taken", "-o", "b", *CPU), "no program.json in taken: not a program folder"),
        (
            ("export", "basicvrs", "-o", "b", "--size", "64x64"),
            "unknown model 'basicvrs': did you mean basicvsr",
        ),
        (("export", "basicvsr", "-o", "b", "--size", "0x64"), "--size 0x64: write HEIGHTxWIDTH in pixels"),
        *(
            (
                ("compile", "x.onnx", "-o", "b", *CPU, option, value),
                f"^{option} {value}: write a finite number",
            )
            for option, value in (
                ("--atol", "inf"),
                ("--atol", "nan"),
                ("--atol", "-0.5"),
                ("--atol", "0"),
                ("--timeout", "-1"),
                ("--timeout", "inf"),
            )
        ),
        (("check", "nowhere", "--atol", "nan"), "^--atol nan: write a finite number above 0"),
        (
            ("compile", "x.onnx", "-o", "b", "-t", "cpu", "--threads", -3),
            "^--threads -3: write 0 or a number above",
        ),
        (
            ("upscale", "b", "-i", "a.mp4", "-o", "b.mp4", "--crf", 9999),
            r"^--crf 9999: write 0 \(best\) to 63",
        ),
        (("compile", "x.onnx", "-o", "b", *CPU, "--surgery", "loud.py:f"), "loud.py:f': ValueError: one"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(map(str, value))[:60],
)
def test_bad_input(
    arguments: tuple[object, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = save_upscaler(tmp_path / "x.onnx").read_bytes()
    save_upscaler(tmp_path / "free.onnx", "height", "width")
    (tmp_path / "loud.py").write_text("raise ValueError('one\\ntwo')")
    (tmp_path / "text.onnx").write_text("model: a good one")
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    _save_two_inputs(tmp_path / "two.onnx")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    refused(superlower(*arguments), BAD, message)
    assert sorted(tmp_path.rglob("*")) == before


def _save_two_inputs(path: Path) -> None:
    shape = [1, 3, 4, 4]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("a", "b", "c")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two", values[:2], values[2:])
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 19)]), path)


def test_a_verb_or_option_that_isnt_there() -> None:
    for arguments in (("upscal",), ("targets", "--jsn"), ("compile",), ("compile", "x.onnx", "-o", "b")):
        outcome = superlower(*arguments)
        assert outcome.code == BAD
        assert "Error" in outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_numbers_out_of_range(lone: Path) -> None:
    outcome = superlower("compile", lone, "-o", "b", *CPU, "--frames", 0)
    assert outcome.code == BAD
    assert "--frames" in outcome.stderr
    assert "Traceback" not in outcome.stderr


class TestCheckpoints:
    """`export` with weights that aren't the architecture's."""

    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")

    def export(self, weights: Path, output: Path) -> Outcome:
        return superlower("export", "basicvsr", "-o", output, "--size", "64x64", "-w", weights)

    def test_no_such_file(self, tmp_path: Path) -> None:
        refused(self.export(tmp_path / "none.pth", tmp_path / "out"), BAD, r"none\.pth")

    def test_not_a_checkpoint(self, tmp_path: Path) -> None:
        (tmp_path / "text.pth").write_text("weights: good")
        outcome = self.export(tmp_path / "text.pth", tmp_path / "out")
        refused(outcome, BAD, r"text\.pth is not a PyTorch checkpoint")

    def test_of_another_architecture(self, tmp_path: Path) -> None:
        import torch

        torch.save({"params": {"conv_first.weight": torch.zeros(64, 3, 3, 3)}}, tmp_path / "rrdb.pth")
        outcome = self.export(tmp_path / "rrdb.pth", tmp_path / "out")
        wanted = (
            r"checkpoint of another architecture than BasicVSR.*missing \(.*unexpected \(conv_first\.weight\)"
        )
        refused(outcome, BAD, wanted)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["rrdb.pth"]

    def test_an_option_it_doesnt_have(self, tmp_path: Path) -> None:
        arguments = ("--size", "64x64", "-w", "random:0", "--set", "block=2")
        outcome = superlower("export", "basicvsr", "-o", tmp_path / "out", *arguments)
        refused(outcome, BAD, "unknown option of basicvsr 'block': did you mean blocks")


def test_an_operator_nobody_knows(tmp_path: Path) -> None:
    model = onnx.load(save_upscaler(tmp_path / "x.onnx"))
    (node,) = (n for n in model.graph.node if n.op_type == "Tanh")
    node.op_type, node.domain = "Swoosh", "ai.example"
    model.opset_import.append(helper.make_opsetid("ai.example", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("tanh", TensorProto.FLOAT, [1, 4, 16, 16]))
    onnx.save(model, tmp_path / "odd.onnx")
    outcome = superlower("compile", tmp_path / "odd.onnx", "-o", tmp_path / "b", *CPU)
    refused(outcome, UNSUPPORTED, r"onnxruntime doesn't cover .*Swoosh")
    outcome = superlower("coverage", tmp_path / "odd.onnx", "-t", "cpu", "-b", "onnxruntime", "--json")
    assert outcome.code == UNSUPPORTED
    assert re.search(r"1 node is unsupported, ai\.example::Swoosh 'tanh' of graph upscale", outcome.error)
    assert {n["support"] for n in outcome.json["nodes"] if n["node"] == "tanh"} == {"unsupported"}


def test_outputs_that_differ(tmp_path: Path, install_backend: Callable[[Wrong], None]) -> None:
    """As the message of the failed compile says: with a larger tolerance, then `check --bisect`."""
    install_backend(Wrong("LeakyRelu"))
    program = save_program(recurrent(), tmp_path / "program")
    bundle = tmp_path / "bundle"
    common = (program, "-o", bundle, "-t", "cpu", "-b", "wrong")
    refused(superlower("compile", *common), DIFFER, "wrong-cpu-fp32 differs from .* --atol 0.001 --bisect")
    assert not bundle.exists()
    assert superlower("compile", *common, "--atol", 9).code == 0
    assert superlower("check", bundle).code == 0
    outcome = superlower("check", bundle, "--atol", 0.001)
    named = r"wrong-cpu-fp32 left tolerance on .*; --bisect names the first node"
    refused(outcome, DIFFER, named, reported=True)
    assert "FAIL" in outcome.stderr
    outcome = superlower("check", bundle, "--atol", 0.001, "--bisect", "--json")
    assert outcome.code == DIFFER
    culprit = outcome.json["culprits"]["wrong-cpu-fp32"]
    assert (culprit["graph"], culprit["node"], culprit["op"]) == ("step", "lrelu", "LeakyRelu")
    (check,) = outcome.json["checks"]
    assert check["passed"] is False
    assert len(check["max_abs"]) == 8
    assert check["growth"] is not None
    outcome = superlower("check", bundle, "--atol", 0.001, "--bisect")
    assert "graph step, call 0: first off is LeakyRelu 'lrelu'" in " ".join(outcome.stderr.split())


def test_check_by_variant(recurrent_bundle: Path) -> None:
    for name in ("onnxruntime", "onnxruntime-cpu-fp32"):
        assert superlower("check", recurrent_bundle, "--variant", name).code == 0
    outcome = superlower("check", recurrent_bundle, "--variant", "openvino-cpu-fp32")
    refused(
        outcome,
        BAD,
        "unknown variant or backend in this bundle 'openvino-cpu-fp32': did you mean onnxruntime",
    )


def test_a_stored_engine_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, install_backend: Callable[[Wrong], None]
) -> None:
    """The error is real, what bisecting finds is made up."""
    from superlower.check.bisect import Culprit

    install_backend(Wrong("LeakyRelu"))
    program, bundle = save_program(recurrent(), tmp_path / "program"), tmp_path / "bundle"
    options = ("-t", "cpu", "-b", "wrong", "--atol", 9)
    assert superlower("compile", program, "-o", bundle, *options).code == 0
    stale = Culprit("step", 2, "", "", "picture", 0.25, 0.001, rebuilt=False)
    monkeypatch.setattr(check_module, "bisect", lambda *_, **__: stale)
    outcome = superlower("check", bundle, "--atol", 0.001, "--bisect")
    assert outcome.code == DIFFER
    wanted = "the stored engine of graph step is off by 0.25 at call 2, one built anew is not: compile"
    assert wanted in " ".join(outcome.stderr.split())
    monkeypatch.setattr(check_module, "bisect", lambda *_, **__: None)
    outcome = superlower("check", bundle, "--atol", 0.001, "--bisect")
    assert "every call agrees by itself; the error grows through the states" in " ".join(
        outcome.stderr.split()
    )


def test_a_damaged_bundle(recurrent_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recurrent_bundle, tmp_path / "bundle"))
    (folder / "golden.npz").unlink()
    for arguments in (("check", folder), ("inspect", folder), ("upscale", folder, "-i", "x", "-o", "y")):
        refused(superlower(*arguments), BAD, r"golden\.npz is missing: compile it again")


@pytest.mark.usefixtures("own_processes")
def test_a_build_out_of_time(tmp_path: Path, lone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is up long before a Python is started."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    outcome = superlower("compile", lone, "-o", tmp_path / "bundle", *CPU, "--timeout", 0.01)
    refused(
        outcome,
        FAILED,
        r"onnxruntime build stopped after its time limit of 0\.01 s: raise --timeout; log: .*\.log",
    )
    assert not (tmp_path / "bundle").exists()
    log = Path(outcome.error.rpartition("log: ")[2])
    assert log.is_file()


def test_an_sdk_that_isnt_installed(lone: Path, tmp_path: Path) -> None:
    arguments = ("compile", lone, "-o", tmp_path / "b", "-t", "cpu", "-b", "openvino")
    refused(fresh(*arguments, absent=("openvino",)), MISSING, r"pip install 'superlower\[openvino\]'")


def test_a_bundle_for_what_isnt_installed(recurrent_bundle: Path, tmp_path: Path) -> None:
    video = save_video(tmp_path / "in.mp4", 2)
    missing = ("onnxruntime",)
    outcome = fresh("upscale", recurrent_bundle, "-i", video, "-o", tmp_path / "out.mp4", absent=missing)
    refused(
        outcome,
        MISSING,
        r"no variant of .* runs on this machine: onnxruntime-cpu-fp32: .*pip install 'onnxruntime'",
    )
    outcome = fresh("check", recurrent_bundle, "--json", absent=missing)
    assert outcome.code == MISSING
    assert [c["passed"] for c in outcome.json["checks"]] == [None]


def test_export_without_pytorch(tmp_path: Path) -> None:
    arguments = ("export", "basicvsr", "-o", tmp_path / "out", "--size", "64x64", "-w", "random:0")
    refused(fresh(*arguments, absent=("torch",)), MISSING, r"pip install 'superlower\[torch\]'")


def test_what_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("[red]the flux\ncapacitor")

    monkeypatch.setattr(lists, "all_targets", fail)
    refused(
        superlower("targets"), 1, r"unexpected RuntimeError: \[red\]the flux; --log-level debug shows where"
    )
    for spelled in (("--log-level", "debug"), ("--log-level=debug",)):
        outcome = superlower(*spelled, "targets")
        assert outcome.code == 1
        assert "Traceback (most recent call last)" in outcome.stderr
        assert 'raise RuntimeError("[red]the flux' in outcome.stderr


def test_a_message_of_many_lines_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise BuildFailedError("the SDK said:\n  line 3\r\n\n  bad operator  \nlog: x.log")

    monkeypatch.setattr(lists, "all_targets", fail)
    refused(superlower("targets"), FAILED, "^the SDK said: line 3 bad operator log: x.log$")


def test_log_level_debug_shows_where_an_expected_error_came_from(tmp_path: Path) -> None:
    outcome = superlower("--log-level", "debug", "inspect", tmp_path / "none")
    assert outcome.code == BAD
    assert "Traceback" in outcome.stderr
    assert outcome.stderr.splitlines()[-1].startswith("superlower: no such model or bundle")


def test_config_files_that_cant_be_used(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    for text, message in (
        ("size = ", "config file .*run.toml can't be read"),
        (
            'targetts = ["cpu"]',
            "config file .*run.toml: unknown option of compile 'targetts': did you mean targets",
        ),
    ):
        path.write_text(text)
        refused(superlower("--config", path, "compile", "x.onnx", "-o", "b", "-t", "cpu"), BAD, message)


class TestUpscale:
    """Clips that can't be upscaled: nothing is written."""

    def refused(self, bundle: Path, source: Path, message: str, *options: object) -> None:
        output = source.parent / "out.mp4"
        before = sorted(p.name for p in source.parent.iterdir())
        refused(superlower("upscale", bundle, "-i", source, "-o", output, *options), BAD, message)
        assert sorted(p.name for p in source.parent.iterdir()) == before

    def test_no_such_file(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        self.refused(upscaler_bundle, tmp_path / "none.mp4", r"none\.mp4")

    def test_not_a_video(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        (tmp_path / "in.mp4").write_bytes(b"not a film")
        self.refused(upscaler_bundle, tmp_path / "in.mp4", r"in\.mp4")

    def test_another_size(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        source = save_video(tmp_path / "in.mp4", 2, 12, 32)
        self.refused(upscaler_bundle, source, r"is 12x32 \(HxW\), the bundle upscales 16x16: .* --size 12x32")

    def test_no_frames(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        folder = tmp_path / "in"
        folder.mkdir()
        self.refused(upscaler_bundle, folder, r"in holds no \.png files")
        self.refused(upscaler_bundle, save_video(tmp_path / "none.mkv", 0), r"none\.mkv")

    def test_a_size_that_changes_in_mid_video(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        parts = [save_video(tmp_path / f"{side}.h264", 4, side, side) for side in (16, 32)]
        joined = tmp_path / "in.h264"
        joined.write_bytes(b"".join(part.read_bytes() for part in parts))
        self.refused(
            upscaler_bundle, joined, r"frame 4 is 32x32 where those before are 16x16: cut the video there"
        )

    def test_pictures_of_two_sizes(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        folder = save_folder(tmp_path / "in", 2)
        shutil.copy(next(save_folder(tmp_path / "other", 1, 32, 32).iterdir()), folder / "f9.png")
        self.refused(upscaler_bundle, folder, r"f9\.png is 32x32 where f0\.png is 16x16")

    def test_too_little_memory(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        source = save_video(tmp_path / "in.mp4", 3)
        self.refused(upscaler_bundle, source, "over --max-memory", "--max-memory", "1k")

    def test_an_output_that_is_there(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        source = save_video(tmp_path / "in.mp4", 3)
        (tmp_path / "out.mp4").write_text("precious")
        self.refused(upscaler_bundle, source, r"out\.mp4 exists")
        assert (tmp_path / "out.mp4").read_text() == "precious"

    def test_a_dry_run_sees_it_too(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        source = save_video(tmp_path / "in.mp4", 3)
        (tmp_path / "out.mp4").write_text("precious")
        self.refused(upscaler_bundle, source, r"out\.mp4 exists", "--dry-run")
        source = save_video(tmp_path / "small.mp4", 3, 12, 24)
        self.refused(upscaler_bundle, source, "the bundle upscales 16x16", "--dry-run", "--overwrite")

    @pytest.mark.parametrize(
        ("option", "value", "message"),
        [
            ("--pixel-format", "nope", "^--pixel-format nope: FFmpeg knows no such format"),
            ("--codec", "nope", "^--codec nope: this build of FFmpeg has no encoder 'nope'"),
            ("--crf", 60, "^--crf 60: libx264 takes 0"),
            (
                "--set",
                "preset=nope",
                "^--codec libx264 doesn't start with --set preset=nope: invalid preset 'nope'",
            ),
            ("--set", "present=slow", "^--set present=slow: libx264 has no such option"),
        ],
    )
    def test_an_encoder_that_doesnt_start(
        self, option: str, value: object, message: str, upscaler_bundle: Path, tmp_path: Path, capfd
    ) -> None:
        source = save_video(tmp_path / "in.mp4", 3)
        capfd.readouterr()
        self.refused(upscaler_bundle, source, message, option, value)
        # libx264 writes past Python.
        assert capfd.readouterr() == ("", "")

    def test_a_variant_that_isnt_there(self, upscaler_bundle: Path, tmp_path: Path) -> None:
        source = save_video(tmp_path / "in.mp4", 3)
        message = "unknown variant 'onnxruntime-cpu-fp16': did you mean onnxruntime-cpu-fp32"
        self.refused(upscaler_bundle, source, message, "--variant", "onnxruntime-cpu-fp16")

    def test_golden_frames_too_few(self, lone: Path, tmp_path: Path) -> None:
        clip = save_folder(tmp_path / "clip", 3)
        outcome = superlower("compile", lone, "-o", tmp_path / "b", *CPU, "--clip", clip)
        refused(outcome, BAD, "golden clip .*clip has 3 frames, 8 are needed")


def test_messages_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "[bold]x.onnx"
    refused(superlower("inspect", path), BAD, re.escape(str(path)))
    save_upscaler(path)
    outcome = superlower("coverage", path, "-t", "cpu", "-b", "onnxruntime")
    assert outcome.code == 0, outcome.stderr
    program = save_program(recurrent(), tmp_path / "[/p]")
    outcome = superlower("inspect", program)
    assert outcome.code == 0, outcome.stderr
    assert np.all(
        [line in outcome.stderr for line in ("recurrent: 16x16 to 32x32", "state[t], output[t] = step(")]
    )
