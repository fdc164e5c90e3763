"""Every verb as a user runs it, and what it prints for programs to read."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from superlower.bundle.bundle import Bundle, seal
from superlower.bundle.golden import GoldenClip
from superlower.cli import check as check_module
from superlower.cli.main import VERBS
from superlower.errors import BuildFailedError, UnsupportedOperatorError
from superlower.media.images import read_png
from superlower.program import analysis, files
from superlower.program.model import TemporalModel
from support.clips import picture, pngs, save_folder, save_video, seconds, sizes
from support.command import fresh, superlower
from support.models import bidirectional, recurrent, save_program, save_upscaler, window

CPU = ("-t", "cpu", "-b", "onnxruntime", "--threads", 1)
SDKS = ("torch", "openvino", "tvm", "tensorrt_rtx", "tensorrt", "onnxsim", "onnx_graphsurgeon")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("models",), {"name": "basicvsr", "scale": 4}),
        (("targets",), {"name": "rtx3090", "compute_capability": 86}),
        (("backends",), {"name": "openvino"}),
        (("passes",), {"name": "collapse-flow-warp"}),
    ],
)
def test_lists_are_json_on_stdout_and_tables_on_stderr(
    arguments: tuple[str, ...], wanted: dict[str, object]
) -> None:
    outcome = superlower(*arguments, "--json")
    assert (outcome.code, outcome.stderr) == (0, "")
    (entry,) = (e for e in outcome.json if e["name"] == wanted["name"])
    assert {key: entry[key] for key in wanted} == wanted
    outcome = superlower(*arguments)
    assert (outcome.code, outcome.stdout) == (0, "")
    assert str(wanted["name"])[:7] in outcome.stderr


def test_doctor_tells_what_is_here_and_what_is_missing() -> None:
    found = superlower("doctor", "--json").json
    assert {"superlower", "Python", "processor", "cache", "onnxruntime"} <= found["machine"].keys()
    rows = {(r["target"], r["backend"]): r for r in found["targets"]}
    assert "fp32" in rows["cpu", "onnxruntime"]["builds"]
    assert rows["cpu", "onnxruntime"]["runs"] is None
    assert superlower("doctor").stdout == ""


@pytest.mark.parametrize("verb", ["models", "targets", "backends", "passes", "doctor", "inspect", "coverage"])
def test_lists_need_no_sdk(verb: str, lone: Path) -> None:
    arguments = {"inspect": (lone,), "coverage": (lone, "-t", "cpu", "-t", "rtx3090")}.get(verb, ())
    outcome = fresh(verb, *arguments, "--json", absent=SDKS)
    assert outcome.code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    found = outcome.json
    if verb == "backends":
        missing = {b["name"]: b["missing"] for b in found}
        assert missing["onnxruntime"] is None
        for name in ("openvino", "tvm", "tensorrt-rtx"):
            assert "pip install" in missing[name]
    if verb == "models":
        assert "pip install 'superlower[torch]'" in found[0]["missing"]
    if verb == "coverage":
        assert {n["backend"] for n in found["nodes"]} >= {"onnxruntime"}
        assert {n["support"] for n in found["nodes"] if n["backend"] == "onnxruntime"} == {"native"}
        tables = {n["backend"]: n["source"] for n in found["nodes"] if n["target"] == "cpu"}
        assert tables["onnxruntime"] == ""
        for name in ("openvino", "tvm"):
            assert tables[name].startswith("table: probed, ")


def test_the_help_of_every_verb() -> None:
    for verb in VERBS:
        outcome = superlower(verb, "--help")
        assert outcome.code == 0
        assert f"Usage: superlower {verb}" in outcome.stdout
    outcome = superlower("--version")
    assert outcome.stdout.startswith("superlower ")


class TestLoneOnnx:
    """A lone ONNX upscaler, all the way."""

    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_compile_check_and_upscale(self, backend: str, lone: Path, tmp_path: Path) -> None:
        pytest.importorskip(backend)
        bundle, out = tmp_path / "bundle", tmp_path / "out"
        cpu = ("-t", "cpu", "-b", backend, "--threads", 1)
        outcome = superlower("compile", lone, "-o", bundle, *cpu, "--frames", 3, "--json")
        assert outcome.code == 0, outcome.stderr
        (variant,) = outcome.json["variants"]
        assert variant["name"] == f"{backend}-cpu-fp32"
        assert max(variant["measured"]["max_abs"]) <= variant["tolerance"]
        (check,) = superlower("check", bundle, "--json").json["checks"]
        assert check["passed"] is True
        source = save_folder(tmp_path / "in", 3)
        outcome = superlower("upscale", bundle, "-i", source, "-o", out, "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome.json["result"]["frames"] == 3
        self.held_to_the_file(lone, pngs(out))

    def held_to_the_file(self, lone: Path, found: list[np.ndarray]) -> None:
        """The file in ONNX Runtime, the frame's pixels over 255: none of superlower in it."""
        import onnxruntime

        session = onnxruntime.InferenceSession(lone.read_bytes())
        for t, image in enumerate(found):
            x = (picture(t, 16, 16).transpose(2, 0, 1)[None] / 255).astype(np.float32)
            (output,) = session.run(None, {"x": x})
            pixels = np.clip(output[0].transpose(1, 2, 0), 0, 1) * 255
            # The fp32 tolerance is 0.255 of a level; half a level more is rounding.
            assert np.abs(image - pixels).max() <= 0.5 + 0.255

    def test_an_odd_size_with_free_axes(self, tmp_path: Path) -> None:
        free = save_upscaler(tmp_path / "free.onnx", "height", "width")
        outcome = superlower("compile", free, "-o", tmp_path / "b", *CPU, "--size", "15x21", "--frames", 2)
        assert outcome.code == 0, outcome.stderr
        source = save_folder(tmp_path / "in", 2, 15, 21)
        assert superlower("upscale", tmp_path / "b", "-i", source, "-o", tmp_path / "out").code == 0
        assert {image.shape for image in pngs(tmp_path / "out")} == {(30, 42, 3)}
        inspected = superlower("inspect", free, "--size", "15x21", "--json").json
        assert inspected["program"]["frame"]["width"] == 21
        asked = ("-t", "cpu", "-b", "onnxruntime", "--size", "15x21", "--json")
        assert {n["graph"] for n in superlower("coverage", free, *asked).json["nodes"]} == {"upscale"}


def test_a_frame_that_needs_padding_comes_out_cropped(tmp_path: Path) -> None:
    program = save_program(window(13, 18, multiple=4), tmp_path / "program")
    assert superlower("compile", program, "-o", tmp_path / "b", *CPU, "--frames", 2).code == 0
    source = save_video(tmp_path / "in.mkv", 4, 13, 18, codec="ffv1")
    outcome = superlower(
        "upscale", tmp_path / "b", "-i", source, "-o", tmp_path / "out.mkv", "--codec", "ffv1"
    )
    assert outcome.code == 0, outcome.stderr
    assert sizes(tmp_path / "out.mkv") == {(26, 36)}
    assert len(seconds(tmp_path / "out.mkv")) == 4


def test_upscaled_video_to_pictures_and_back(upscaler_bundle: Path, tmp_path: Path) -> None:
    source = save_video(tmp_path / "in.mp4", 4)
    assert superlower("upscale", upscaler_bundle, "-i", source, "-o", tmp_path / "out").code == 0
    names = [p.name for p in sorted((tmp_path / "out").iterdir())]
    assert names == ["00000001.png", "00000002.png", "00000003.png", "00000004.png"]
    assert read_png(tmp_path / "out" / names[0]).shape == (32, 32, 3)
    folder = save_folder(tmp_path / "pictures", 3)
    assert superlower("upscale", upscaler_bundle, "-i", folder, "-o", tmp_path / "out.mkv").code == 0
    assert len(seconds(tmp_path / "out.mkv")) == 3


def test_upscale_says_what_it_did(recurrent_bundle: Path, tmp_path: Path) -> None:
    source = save_video(tmp_path / "in.mp4", 6)
    outcome = superlower(
        "upscale", recurrent_bundle, "-i", source, "-o", tmp_path / "out.mp4", "--frames", 5, "--json"
    )
    result = outcome.json["result"]
    assert outcome.json["variant"] == "onnxruntime-cpu-fp32"
    assert result["frames"] == 5
    assert result["chunking"]["chunk"] == 1
    assert 0 < result["peak_bytes"] <= result["chunking"]["predicted_bytes"]
    assert "out.mp4: 5 frames by onnxruntime-cpu-fp32" in " ".join(outcome.stderr.split())


@pytest.mark.parametrize("verb", ["compile", "upscale", "export"])
def test_dry_runs_do_nothing(verb: str, lone: Path, upscaler_bundle: Path, tmp_path: Path) -> None:
    source = save_video(tmp_path / "in.mp4", 2)
    before = sorted(tmp_path.iterdir())
    arguments: dict[str, tuple[object, ...]] = {
        "compile": (lone, *CPU),
        "upscale": (upscaler_bundle, "-i", source),
        "export": ("basicvsr", "--size", "64x64"),
    }
    outcome = superlower(verb, *arguments[verb], "-o", tmp_path / "out", "--dry-run")
    assert outcome.code == 0, outcome.stderr
    assert "would " in outcome.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_pass_of_the_users_own_choice(lone: Path, tmp_path: Path) -> None:
    chosen = ("--pass", "fold-constants", "--set", "fold-constants.max_elements=77", "--frames", 2, "--json")
    outcome = superlower("compile", lone, "-o", tmp_path / "bundle", *CPU, *chosen)
    assert outcome.code == 0, outcome.stderr
    first = Bundle.open(tmp_path / "bundle").manifest.passes[0]
    assert (first.name, first.options) == ("fold-constants", {"max_elements": "77"})


@pytest.mark.usefixtures("own_processes")
def test_a_relative_output(lone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds run in processes of other working folders: this one is real."""
    monkeypatch.chdir(lone.parent)
    outcome = superlower("compile", lone.name, "-o", "sub/bundle", *CPU, "--frames", 2)
    assert outcome.code == 0, outcome.stderr
    assert superlower("check", "sub/bundle").code == 0
    assert (lone.parent / "sub" / "bundle.config.toml").is_file()


def test_an_engine_that_gives_no_number_is_infinitely_wrong(
    recurrent_bundle: Path, copied: Callable[[Path], Path]
) -> None:
    folder = copied(recurrent_bundle)
    before = Bundle.open(folder)
    engine = folder / "variants/onnxruntime-cpu-fp32/step/model.onnx"
    model = onnx.load(engine)
    (bias,) = (w for w in model.graph.initializer if w.name == "last.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(bias.dims, np.nan, np.float32), bias.name))
    onnx.save(model, engine)
    seal(folder, before.program, before.golden(), before.manifest.variants, before.manifest.passes)
    outcome = superlower("check", folder, "--json")
    assert outcome.code == 4
    (check,) = outcome.json["checks"]
    assert (check["passed"], set(check["max_abs"]), set(check["psnr_db"])) == (False, {"inf"}, {"-inf"})
    assert "inf (-inf)" in superlower("check", folder).stderr
    (check,) = superlower("check", recurrent_bundle, "--json").json["checks"]
    assert (set(check["max_abs"]), set(check["psnr_db"])) == ({0.0}, {"inf"})
    assert "0 (identical)" in superlower("check", recurrent_bundle).stderr


@pytest.mark.parametrize("error", [BuildFailedError, UnsupportedOperatorError])
def test_a_failed_bisection_keeps_the_report(
    error: type[Exception], recurrent_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error("out of tactics")

    monkeypatch.setattr(check_module, "bisect", failing)
    golden = GoldenClip.load(recurrent_bundle / "golden.npz")
    golden.outputs[3][0, 0, 0, 0] += 0.5
    monkeypatch.setattr(Bundle, "golden", lambda _: golden)
    outcome = superlower("check", recurrent_bundle, "--bisect", "--json")
    assert outcome.code == 4
    assert outcome.json["culprits"] == {"onnxruntime-cpu-fp32": {"reason": "out of tactics"}}
    (check,) = outcome.json["checks"]
    assert (check["passed"], len(check["max_abs"])) == (False, 8)
    outcome = superlower("check", recurrent_bundle, "--bisect")
    assert outcome.code == 4
    assert "FAIL" in outcome.stderr
    assert "onnxruntime-cpu-fp32: not bisected: out of tactics" in outcome.stderr
    assert "onnxruntime-cpu-fp32 left tolerance" in outcome.verdict


class TestConfig:
    """The options in force, saved and read again."""

    def test_compile_again_with_the_saved_options(self, lone: Path, tmp_path: Path) -> None:
        bundle = tmp_path / "bundle"
        setting = "onnxruntime.session.set_denormal_as_zero=1"
        options = ("--frames", 2, "--seed", 3, "--atol", 0.25, "-p", "fp32", "-p", "fp16", "--set", setting)
        assert superlower("compile", lone, "-o", bundle, *CPU, *options).code == 0
        saved = tmp_path / "bundle.config.toml"
        found = tomllib.loads(saved.read_text())
        assert {
            "model": str(lone),
            "targets": ["cpu"],
            "backend_names": ["onnxruntime"],
            "precisions": ["fp32", "fp16"],
            "threads": 1,
            "frames": 2,
            "seed": 3,
            "atol": 0.25,
            "settings": [setting],
            "keep_going": False,
        }.items() <= found.items()
        first = Bundle.open(bundle).manifest
        again = tmp_path / "again"
        outcome = superlower("--config", saved, "compile", "-o", again)
        assert outcome.code == 0, outcome.stderr
        second = Bundle.open(again).manifest
        for a, b in zip(first.variants, second.variants, strict=True):
            assert (a.name, a.tolerance, a.measured) == (b.name, b.tolerance, b.measured)
            assert a.engines["upscale"].settings == b.engines["upscale"].settings
        assert first.files["golden.npz"].bytes == second.files["golden.npz"].bytes
        repeated = tomllib.loads((tmp_path / "again.config.toml").read_text())
        assert repeated == {**found, "output": str(again)}

    def test_the_line_goes_before_the_file(self, lone: Path, tmp_path: Path) -> None:
        config = tmp_path / "run.toml"
        lines = ('targets = ["cpu"]', 'backend_names = ["onnxruntime"]', "frames = 2", "threads = 1")
        config.write_text("\n".join((*lines, f'output = "{tmp_path / "a"}"')))
        outcome = superlower("--config", config, "compile", lone, "--frames", 3)
        assert outcome.code == 0, outcome.stderr
        assert Bundle.open(tmp_path / "a").manifest.golden.frames == 3

    def test_of_an_export(self, basicvsr_folder: Path, tmp_path: Path) -> None:
        saved = basicvsr_folder.with_name("program.config.toml")
        outcome = superlower("--config", saved, "export", "-o", tmp_path / "again", "--dry-run")
        assert outcome.code == 0, outcome.stderr
        assert "would export BasicVSR at 64x64" in outcome.stderr
        found = tomllib.loads(saved.read_text())
        assert (found["weights"], found["settings"], found["frames"]) == ("random:0", ["blocks=1"], 8)


@pytest.mark.parametrize("model", [recurrent, bidirectional])
def test_inspect_tells_what_follows_from_the_equations(
    model: Callable[[], TemporalModel], tmp_path: Path
) -> None:
    made = model()
    program = save_program(made, tmp_path / "program")
    outcome = superlower("inspect", program, "--frames", 12, "--size", "32x48", "--in-flight", 2, "--json")
    facts = analysis.analyze(made.program)
    assert outcome.json["facts"]["latency"] == facts.latency
    assert outcome.json["peak_bytes"]["bytes"] == analysis.peak_bytes(made.program, 12, 32, 48, 2)
    assert outcome.json["nodes"].keys() == made.graphs.keys()
    shown = superlower("inspect", program).stderr
    assert ("latency: the whole clip" in shown) == (facts.latency is None)


def test_inspect_a_bundle(recurrent_bundle: Path) -> None:
    found = superlower("inspect", recurrent_bundle, "--json").json
    assert [v["name"] for v in found["variants"]] == ["onnxruntime-cpu-fp32"]
    assert "onnxruntime-cpu-fp32" in superlower("inspect", recurrent_bundle).stderr.replace("\n", "")


class TestBasicVsr:
    """The real architecture: one block, seeded weights."""

    def test_passes_explained(self, basicvsr_folder: Path) -> None:
        records = superlower("passes", "--explain", basicvsr_folder, "--json").json
        assert {r["graph"] for r in records} == {"flow", "backward", "forward"}
        for record in records:
            assert record["measured"] <= record["budget"]
        nodes = {g: [r for r in records if r["graph"] == g] for g in ("flow", "backward", "forward")}
        for found in nodes.values():
            assert sum(found[-1]["nodes_after"].values()) < sum(found[0]["nodes_before"].values())
        (collapsed,) = (r for r in nodes["forward"] if r["name"] == "collapse-flow-warp")
        assert len(collapsed["rewritten"]) == 1
        shown = superlower("passes", "--explain", basicvsr_folder).stderr
        assert "collapse-flow-warp" in shown.replace("\n", "")

    def test_coverage(self, basicvsr_folder: Path) -> None:
        arguments = ("-t", "cpu", "-t", "rtx3090", "-b", "onnxruntime", "-b", "tensorrt-rtx")
        outcome = superlower("coverage", basicvsr_folder, *arguments, "--json")
        assert outcome.code == 0, outcome.stderr
        model = files.load_model(basicvsr_folder)
        nodes = outcome.json["nodes"]
        served = {(n["backend"], n["target"], n["graph"]) for n in nodes}
        for graph in model.graphs:
            assert ("onnxruntime", "cpu", graph) in served
        assert "unsupported" not in {n["support"] for n in nodes}
        assert {"GridSample", "Conv"} <= {n["op"] for n in nodes if n["graph"] == "forward"}
        assert {row[:2] for row in map(tuple, outcome.json["unserved"])} == {("tensorrt-rtx", "cpu")}

    def test_an_export_is_its_golden_clip_within_rounding(
        self, basicvsr_folder: Path, tmp_path: Path
    ) -> None:
        outcome = superlower("compile", basicvsr_folder, "-o", tmp_path / "bundle", *CPU, "--json")
        assert outcome.code == 0, outcome.stderr
        (variant,) = outcome.json["variants"]
        assert len(variant["measured"]["max_abs"]) == 8
        golden = Bundle.open(tmp_path / "bundle").manifest.golden
        assert golden.reference == "PyTorch eager fp32"
