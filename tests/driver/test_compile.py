from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from superlower.backends import onnxruntime
from superlower.backends.base import Artifact, BuildOptions, keeps_states
from superlower.backends.registry import backend, backends
from superlower.bundle.bundle import Bundle
from superlower.check.reference import reference_sessions
from superlower.driver.building import Job
from superlower.driver.compile import Compiled, compile_bundle, plan_jobs, state_pairs
from superlower.driver.export import golden_for
from superlower.errors import (
    BadInputError,
    BuildFailedError,
    MissingSdkError,
    OutputsDifferError,
    UnsupportedOperatorError,
)
from superlower.passes.pipelines import default_pipeline
from superlower.program.interpret import interpret
from superlower.program.model import Edge, Equation, Program, TemporalModel
from superlower.runtime.load import open_runner
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.basicvsr import basicvsr_program
from support.models import bidirectional, recurrent, window
from support.wrong import Wrong

FP32, FP16 = Precision.FP32, Precision.FP16


def jobs(*names: str, precision: Precision = FP32) -> list[Job]:
    return [Job(backend(name), target("cpu"), precision) for name in names]


def compiled(model: TemporalModel, output: Path, *asked: Job, **options: object) -> Compiled:
    return compile_bundle(
        model,
        asked,
        golden_for(model, None, None),
        output,
        options=BuildOptions(threads=1),
        **options,
    )


def empty(folder: Path) -> bool:
    return not any(folder.iterdir())


def test_variants_hold_what_was_asked_and_measured(tmp_path: Path) -> None:
    asked = [*jobs("onnxruntime"), *jobs("onnxruntime", precision=FP16)]
    bundle = compiled(recurrent(), tmp_path / "bundle", *asked).bundle
    first, second = bundle.manifest.variants
    assert (first.name, second.name) == ("onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16")
    for variant, limit in ((first, 0.001), (second, 2 / 255)):
        assert variant.measured is not None
        assert len(variant.measured.max_abs) == 8
        assert max(variant.measured.max_abs) <= variant.tolerance == pytest.approx(limit)
        assert variant.tolerance_reason
        assert variant.machine == {}
        artifact = variant.engines["step"]
        assert (artifact.backend, artifact.target, artifact.threads) == ("onnxruntime", "cpu", 1)
        assert artifact.sdk == backend("onnxruntime").versions()
    assert max(second.measured.max_abs) > 0, "rounding to 11 bits shows"
    lowered = ["guard-grid-sample", "select-lowering"]
    assert [r.name for r in first.passes] == lowered
    assert [r.name for r in second.passes] == [*lowered, "convert-precision", "guard-grid-sample"]


def test_pass_records_tell_what_each_pass_did(tmp_path: Path) -> None:
    manifest = compiled(bidirectional(), tmp_path / "bundle", *jobs("onnxruntime")).bundle.manifest
    names = [one.name for one in default_pipeline()]
    assert [(r.graph, r.name) for r in manifest.passes] == [(g, n) for g in ("back", "forth") for n in names]
    for record in manifest.passes:
        assert record.measured <= record.budget
        assert record.reason
        if not record.rewritten:
            assert record.nodes_before == record.nodes_after
    (fold,) = (r for r in manifest.passes if (r.graph, r.name) == ("back", "fold-constants"))
    assert fold.nodes_before == {"Concat": 1, "Conv": 1, "Tanh": 1}


def test_a_wrong_engine_fails_and_leaves_nothing(
    tmp_path: Path, install_backend: Callable[[Wrong], None]
) -> None:
    install_backend(Wrong())
    message = (
        r"wrong-cpu-fp32 differs from ONNX Runtime .* at frame \d, over its tolerance of 0.001 .* --bisect"
    )
    with pytest.raises(OutputsDifferError, match=message):
        compiled(recurrent(), tmp_path / "bundle", *jobs("wrong"))
    assert empty(tmp_path)


def test_a_tolerance_of_ones_own(tmp_path: Path, install_backend: Callable[[Wrong], None]) -> None:
    install_backend(Wrong())
    (variant,) = compiled(recurrent(), tmp_path / "b", *jobs("wrong"), atol=0.5).bundle.manifest.variants
    assert (variant.tolerance, variant.tolerance_reason) == (0.5, "--atol")
    assert variant.measured is not None
    assert 0.001 < max(variant.measured.max_abs) < 0.5


def test_keep_going_leaves_out_what_fails(tmp_path: Path, install_backend: Callable[[Wrong], None]) -> None:
    class Failing(Wrong):
        def compile(self, *_: object) -> Artifact:
            raise BuildFailedError("out of tactics")

    install_backend(Failing(name="failing"))
    with pytest.raises(BuildFailedError, match="out of tactics"):
        compiled(recurrent(), tmp_path / "bundle", *jobs("failing"), keep_going=True)
    assert empty(tmp_path)

    install_backend(Wrong())
    asked = jobs("wrong", "failing", "onnxruntime")
    result = compiled(recurrent(), tmp_path / "bundle", *asked, keep_going=True)
    assert [v.name for v in result.bundle.manifest.variants] == ["onnxruntime-cpu-fp32"]
    assert {f.job: type(f.error) for f in result.failures} == {
        "failing-cpu-fp32": BuildFailedError,
        "wrong-cpu-fp32": OutputsDifferError,
    }
    assert [p.name for p in (tmp_path / "bundle" / "variants").iterdir()] == ["onnxruntime-cpu-fp32"]
    with pytest.raises(OutputsDifferError):
        compiled(recurrent(), tmp_path / "none", *jobs("wrong"), keep_going=True)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_failing_build_keeps_the_bundle_that_was_there(
    tmp_path: Path, install_backend: Callable[[Wrong], None]
) -> None:
    install_backend(Wrong())
    before = compiled(recurrent(), tmp_path / "bundle", *jobs("onnxruntime")).bundle.manifest
    with pytest.raises(OutputsDifferError):
        compiled(window(), tmp_path / "bundle", *jobs("wrong"))
    assert Bundle.open(tmp_path / "bundle").manifest == before
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_nothing_is_left_of_a_stopped_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        assert any(tmp_path.iterdir())
        raise KeyboardInterrupt

    model, golden = recurrent(), golden_for(recurrent(), None, None)
    (job,) = jobs("onnxruntime")
    monkeypatch.setattr("superlower.driver.variants.build_engine", stop)
    with pytest.raises(KeyboardInterrupt):
        compile_bundle(model, [job], golden, tmp_path / "bundle", options=BuildOptions(threads=1))
    assert empty(tmp_path)


def test_only_files_of_the_engine_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.OnnxRuntime.compile

    def littering(self, model, target, options, workdir):
        artifact = real(self, model, target, options, workdir)
        (workdir / "build.log").write_text("a log")
        return artifact

    monkeypatch.setattr(onnxruntime.OnnxRuntime, "compile", littering)
    bundle = compiled(recurrent(), tmp_path / "bundle", *jobs("onnxruntime")).bundle
    place = bundle.folder / "variants" / "onnxruntime-cpu-fp32" / "step"
    assert [p.name for p in place.iterdir()] == ["model.onnx"]


def test_settings_go_to_their_backend_alone(tmp_path: Path) -> None:
    settings = {"onnxruntime.session.set_denormal_as_zero": "1", "openvino.NUM_STREAMS": "1"}
    model = recurrent()
    bundle = compile_bundle(
        model,
        jobs("onnxruntime"),
        golden_for(model, None, None),
        tmp_path / "bundle",
        options=BuildOptions(threads=1, settings=settings),
    ).bundle
    found = bundle.manifest.variants[0].engines["step"].settings
    assert found == {"session.set_denormal_as_zero": "1"}


def test_an_engine_wont_be_held_to_another_models_golden_clip(tmp_path: Path) -> None:
    golden = golden_for(recurrent(8, 8), None, None)
    with pytest.raises(BadInputError, match=r"takes float32 \[1, 3, 16, 16\], not float32 \[1, 3, 8, 8\]"):
        compile_bundle(recurrent(), jobs("onnxruntime"), golden, tmp_path / "b", options=BuildOptions())
    assert empty(tmp_path)


def test_an_unsupported_operator_is_named(tmp_path: Path) -> None:
    model = recurrent()
    graph = model.graphs["step"].clone()
    (node,) = (n for n in graph.graph if n.op_type == "Tanh")
    node.op_type, node.domain = "Swoosh", "ai.example"
    graph.opset_imports["ai.example"] = 1
    with pytest.raises(UnsupportedOperatorError, match=r"onnxruntime doesn't cover .*Swoosh"):
        compiled(model.with_graphs({"step": graph}), tmp_path / "bundle", *jobs("onnxruntime"))


def test_states_inside_openvino_over_two_clips(tmp_path: Path) -> None:
    """Eight frames, and again from the first: a state left over from the first clip would show."""
    pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")
    model = recurrent()
    bundle = compiled(model, tmp_path / "bundle", *jobs("openvino"), states_inside=True).bundle
    (variant,) = bundle.manifest.variants
    assert variant.engines["step"].stateful == (("tanh", "hidden"),)
    golden = bundle.golden()
    with open_runner(bundle, variant) as runner:
        first = list(runner.run(golden.frames, total=8))
        second = list(runner.run(golden.frames, total=8))
        streamed = list(runner.run(iter(golden.frames)))
    for clip in (first, second, streamed):
        worst = max(float(np.abs(a - b).max()) for a, b in zip(clip, golden.outputs, strict=True))
        assert worst <= variant.tolerance
    assert all(map(np.array_equal, first, second))
    # The state matters: with none, later frames are others.
    with reference_sessions(model) as sessions:
        blank = {"hidden": np.zeros((1, 4, 16, 16), np.float32)}
        stateless = interpret(model.program, golden.frames, lambda g, f: sessions[g].run({**f, **blank}))
    assert np.abs(stateless[7] - first[7]).max() > 0.01


def test_a_backend_without_inner_states_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="onnxruntime keeps no hidden states inside its engines"):
        compiled(recurrent(), tmp_path / "bundle", *jobs("onnxruntime"), states_inside=True)
    # A model without states has none to keep.
    assert compiled(window(), tmp_path / "bundle", *jobs("onnxruntime"), states_inside=True).failures == ()


def test_state_pairs_are_states_that_nobody_else_reads() -> None:
    assert state_pairs(recurrent().program, "step") == (("tanh", "hidden"),)
    assert state_pairs(window().program, "step") == ()
    # The forward sweep reads the backward one's states, and two equations share the flow network.
    program = basicvsr_program()
    assert state_pairs(program, "backward") == ()
    assert state_pairs(program, "forward") == (("hidden_out", "hidden"),)
    assert state_pairs(program, "flow") == ()


def changed(*, equations: tuple[Equation, ...] = (), edge: Edge = Edge.ZEROS, **fields: object) -> Program:
    """`recurrent` with its one equation, or its state's edge, changed, and further equations."""
    program = recurrent().program
    step = msgspec.structs.replace(program.equations[0], **fields)
    state = msgspec.structs.replace(program.streams["state"], edge=edge)
    streams = {**program.streams, "state": state}
    return msgspec.structs.replace(program, streams=streams, equations=(step, *equations))


@pytest.mark.parametrize(
    ("program", "pairs"),
    [
        (changed(), (("tanh", "hidden"),)),
        (changed(inputs={"x": "frame[t]", "hidden": "state[t+1]"}), (("tanh", "hidden"),)),
        (changed(inputs={"x": "frame[t]", "hidden": "state[t-2]"}), ()),
        (changed(inputs={"x": "frame[t]", "hidden": "state[t+2]"}), ()),
        (changed(inputs={"x": "state[t-1]", "hidden": "state[t-1]"}), ()),
        (changed(edge=Edge.REPLICATE), ()),
        (changed(edge=Edge.REFLECT), ()),
        # Every other frame, the state is that of no frame at all: an engine would hold the last but one.
        (changed(when="t % 2 == 0"), ()),
        (
            changed(
                when="t > 0",
                equations=(
                    Equation(
                        name="init",
                        graph="init",
                        inputs={"x": "frame[t]"},
                        outputs={"tanh": "state", "picture": "output"},
                        when="t == 0",
                    ),
                ),
            ),
            (),
        ),
        (
            changed(
                equations=(
                    Equation(name="more", graph="more", inputs={"x": "state[t]"}, outputs={"y": "output"}),
                ),
            ),
            (),
        ),
    ],
)
def test_a_state_that_an_engine_cant_hold_is_none_of_its_pairs(
    program: Program, pairs: tuple[tuple[str, str], ...]
) -> None:
    assert state_pairs(program, "step") == pairs


def test_a_state_that_a_second_equation_begins_is_the_hosts() -> None:
    """One writer by `when`, another at every frame of its own: the engine never sees the second's."""
    program = changed(
        equations=(
            Equation(
                name="init", graph="init", inputs={"x": "frame[t]"}, outputs={"y": "state"}, when="t == 0"
            ),
        )
    )
    assert state_pairs(program, "step") == ()


def test_backends_without_inner_states_are_left_out_unless_named(
    tmp_path: Path, install_backend: Callable[[Wrong], None], caplog: pytest.LogCaptureFixture
) -> None:
    class Keeping(Wrong):
        keeps_states = True

        def compile(self, model, target, options, workdir):
            assert options.stateful == (("tanh", "hidden"),)
            return super().compile(model, target, replace(options, stateful=()), workdir)

    install_backend(Keeping(name="keeping", factor=1.0))
    cpu = target("cpu")
    both = [Job(backend(name), cpu, FP32, named=False) for name in ("onnxruntime", "keeping")]
    made = compiled(recurrent(), tmp_path / "left", *both, states_inside=True)
    assert [v.name for v in made.bundle.manifest.variants] == ["keeping-cpu-fp32"]
    assert "keep no hidden states inside their engines: onnxruntime" in caplog.text
    with pytest.raises(BadInputError, match=r"no backend here keeps hidden states .*\(not onnxruntime\)"):
        compiled(recurrent(), tmp_path / "none", both[0], states_inside=True)
    # Without states there is nothing to keep.
    made = compiled(window(), tmp_path / "all", both[0], states_inside=True)
    assert len(made.bundle.manifest.variants) == 1
    assert [job.named for job in plan_jobs([cpu], [FP32], ["onnxruntime"])] == [True]
    assert not any(job.named for job in plan_jobs([cpu], [FP32]))
    inside = {"openvino", "tvm", "tensorrt", "tensorrt-rtx", "keeping"}
    assert {sdk.name for sdk in backends() if keeps_states(sdk)} == inside


def test_what_is_asked_for_twice_is_built_once() -> None:
    cpu = target("cpu")
    planned = plan_jobs([cpu, cpu], [FP32, FP16, FP32], ["onnxruntime", "onnxruntime"])
    assert [job.name for job in planned] == ["onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16"]


def test_jobs_are_planned_for_what_is_installed_and_serves(install_backend: Callable[[Wrong], None]) -> None:
    class Absent(Wrong):
        def missing(self) -> str:
            return "absent isn't installed: pip install absent"

    install_backend(Absent(name="absent"))
    cpu = target("cpu")
    planned = plan_jobs([cpu], [FP32, FP16], ["onnxruntime"])
    assert [j.name for j in planned] == ["onnxruntime-cpu-fp32", "onnxruntime-cpu-fp16"]
    assert "absent" not in {j.backend.name for j in plan_jobs([cpu], [FP32])}
    with pytest.raises(MissingSdkError, match="pip install absent"):
        plan_jobs([cpu], [FP32], ["absent"])
    with pytest.raises(BadInputError, match="no backend can compile for intel-gpu at fp32: onnxruntime: "):
        plan_jobs([target("intel-gpu")], [FP32], ["onnxruntime"])
    both = ["onnxruntime", "tensorrt-rtx"]
    if backend("tensorrt-rtx").missing() is None:
        with pytest.raises(BadInputError, match="tensorrt-rtx serves none of the targets: cpu: "):
            plan_jobs([cpu], [FP32], both)


def test_a_variant_that_cant_run_here_is_unchecked(
    tmp_path: Path, install_backend: Callable[[Wrong], None]
) -> None:
    class Elsewhere(Wrong):
        def runnable(self, target: object) -> str:
            return "no such device here"

    install_backend(Elsewhere())
    (variant,) = compiled(recurrent(), tmp_path / "bundle", *jobs("wrong")).bundle.manifest.variants
    assert (variant.measured, variant.unchecked) == (None, "no such device here")


def test_the_golden_outputs_are_the_models_own(tmp_path: Path) -> None:
    """A golden clip that the model doesn't reproduce: whoever made it, no engine passes."""
    model = recurrent()
    golden = golden_for(model, None, None)
    shifted = replace(golden, outputs=tuple(o + np.float32(0.01) for o in golden.outputs))
    with pytest.raises(OutputsDifferError, match=r"by 0\.01 at frame"):
        compile_bundle(model, jobs("onnxruntime"), shifted, tmp_path / "b", options=BuildOptions(threads=1))


def test_the_padded_size_is_what_engines_take(tmp_path: Path) -> None:
    model = recurrent(13, 18, multiple=4)
    assert model.program.frame.padded == (16, 20)
    bundle = compiled(model, tmp_path / "bundle", *jobs("onnxruntime")).bundle
    assert {f.shape for f in bundle.golden().frames} == {(1, 3, 16, 20)}
    assert {f.shape for f in bundle.golden().outputs} == {(1, 3, 32, 40)}
    assert msgspec.json.encode(bundle.program) == msgspec.json.encode(model.program)
