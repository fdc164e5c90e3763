"""A backend with one wrong operator: the check fails, and that operator's node is named."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower.backends.base import BuildOptions, Feeds, Outputs
from superlower.backends.registry import backend
from superlower.backends.session import PooledSession
from superlower.bundle.bundle import Bundle, seal
from superlower.check.bisect import Culprit, _Search, bisect
from superlower.check.crosscheck import check_variant
from superlower.driver.building import Job
from superlower.driver.compile import compile_bundle
from superlower.driver.export import golden_for
from superlower.ir import save
from superlower.program.model import TemporalModel
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.models import recurrent, window
from support.wrong import Wrong

LIMIT = 1e-3
"""The fp32 tolerance. A factor of 1.05 moves results of about 0.3 by 0.015, well over it."""


def compiled(
    model: TemporalModel, name: str, output: Path, precision: Precision = Precision.FP32, inside: bool = False
) -> Bundle:
    """With so large a tolerance that nothing stops it, as the message of a failed compile says to do."""
    return compile_bundle(
        model,
        [Job(backend(name), target("cpu"), precision)],
        golden_for(model, None, None),
        output,
        options=BuildOptions(threads=1),
        atol=1e6,
        states_inside=inside,
    ).bundle


def found(bundle: Bundle, atol: float = LIMIT) -> Culprit | None:
    golden, (variant,) = bundle.golden(), bundle.manifest.variants
    assert check_variant(bundle, variant, golden, atol=atol).passed is False
    return bisect(bundle, variant, golden, atol=atol)


@pytest.mark.parametrize(
    ("op", "node"), [("LeakyRelu", "lrelu"), ("Tanh", "tanh"), ("DepthToSpace", "picture")]
)
def test_marked_outputs_name_the_node(
    op: str, node: str, tmp_path: Path, install_backend: Callable[[Wrong], None]
) -> None:
    install_backend(Wrong(op))
    culprit = found(compiled(recurrent(), "wrong", tmp_path / "bundle"))
    assert culprit is not None
    assert (culprit.graph, culprit.call, culprit.node, culprit.op) == ("step", 0, node, op)
    assert (culprit.tensor, culprit.rebuilt, culprit.tolerance) == (node, True, LIMIT)
    assert culprit.error > LIMIT


@pytest.mark.parametrize(("op", "node"), [("LeakyRelu", "lrelu"), ("Tanh", "tanh")])
def test_prefixes_name_a_node_that_is_wrong_only_when_fused(
    op: str, node: str, tmp_path: Path, install_backend: Callable[[Wrong], None]
) -> None:
    install_backend(Wrong(op, fused=True))
    steps: list[str] = []
    bundle = compiled(window(), "wrong", tmp_path / "bundle")
    (variant,) = bundle.manifest.variants
    culprit = bisect(bundle, variant, bundle.golden(), atol=LIMIT, on_step=steps.append)
    assert culprit is not None
    assert (culprit.node, culprit.op, culprit.rebuilt) == (node, op, True)
    assert any("all 7 tensors as outputs" in step for step in steps)
    assert any("building up to node" in step for step in steps)


def test_a_node_wrong_only_inside_is_named_by_the_node_that_reads_it(
    tmp_path: Path, install_backend: Callable[[Wrong], None]
) -> None:
    """No cut shows it: whatever ends at the node makes its result an output."""
    install_backend(Wrong("LeakyRelu", inside=True))
    culprit = found(compiled(window(), "wrong", tmp_path / "bundle"))
    assert culprit is not None
    assert culprit.node == "middle"


def test_the_first_call_that_is_wrong(tmp_path: Path, install_backend: Callable[[Wrong], None]) -> None:
    """Tanh is right of zero: a state that begins at zero, on black frames, is wrong from when light comes."""
    model = recurrent()
    graph = ir.to_proto(model.graphs["step"])
    for weight in graph.graph.initializer:
        if weight.name.endswith("bias"):
            weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros(weight.dims, np.float32), weight.name))
    model = model.with_graphs({"step": ir.from_proto(graph)})
    install_backend(Wrong("Tanh"))
    golden = golden_for(model, None, None)
    golden = replace(golden, frames=(*(np.zeros_like(f) for f in golden.frames[:3]), *golden.frames[3:]))
    job = Job(backend("wrong"), target("cpu"), Precision.FP32)
    bundle = compile_bundle(model, [job], golden, tmp_path / "b", options=BuildOptions(threads=1), atol=1e6)
    culprit = found(bundle.bundle)
    assert culprit is not None
    assert (culprit.call, culprit.node) == (3, "tanh")


def test_half_precision(tmp_path: Path, install_backend: Callable[[Wrong], None]) -> None:
    """Results are then float16, and the node's still is the one that is wrong."""
    install_backend(Wrong("Tanh", factor=1.2))
    culprit = found(compiled(recurrent(), "wrong", tmp_path / "bundle", Precision.FP16), 2 / 255)
    assert culprit is not None
    assert (culprit.node, culprit.op) == ("tanh", "Tanh")


def test_a_model_in_0_to_255(tmp_path: Path, install_backend: Callable[[Wrong], None]) -> None:
    """Its tolerance is 255 times that in 0 to 1; that of the tensors inside it must not be."""
    model = recurrent()
    frame = msgspec.structs.replace(model.program.frame, range=(0.0, 255.0))
    graph = ir.to_proto(model.graphs["step"])
    for weight in graph.graph.initializer:
        if weight.name in ("first.weight", "last.weight"):
            factor = np.ones((1, weight.dims[1], 1, 1), np.float32)
            factor[:, :3] = 1 / 255
            whole = onnx.numpy_helper.to_array(weight) * (255 if weight.name == "last.weight" else factor)
            weight.CopyFrom(onnx.numpy_helper.from_array(whole.astype(np.float32), weight.name))
    program = msgspec.structs.replace(model.program, frame=frame)
    model = TemporalModel(program, {"step": ir.from_proto(graph)})
    install_backend(Wrong("Tanh"))
    culprit = found(compiled(model, "wrong", tmp_path / "bundle"), 0.255)
    assert culprit is not None
    assert (culprit.node, culprit.tolerance) == ("tanh", pytest.approx(0.001))


def test_a_stored_engine_that_is_not_what_its_graph_gives(
    recurrent_bundle: Path, copied: Callable[[Path], Path]
) -> None:
    """Its weights were changed, and the manifest made to agree: the graph and the compiler are fine."""
    folder = copied(recurrent_bundle)
    engine = folder / "variants/onnxruntime-cpu-fp32/step/model.onnx"
    model = onnx.load(engine)
    (bias,) = (w for w in model.graph.initializer if w.name == "last.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.1), bias.name))
    save(ir.from_proto(model), engine)
    before = Bundle(folder, Bundle.open(recurrent_bundle).manifest)
    seal(folder, before.program, before.golden(), before.manifest.variants, before.manifest.passes)
    culprit = found(Bundle.open(folder))
    assert culprit is not None
    assert (culprit.graph, culprit.call, culprit.node, culprit.rebuilt) == ("step", 0, "", False)
    assert culprit.error == pytest.approx(0.1, abs=1e-4)
    assert culprit.tensor == "picture"


def test_an_engine_without_fault_has_no_culprit(recurrent_bundle: Path) -> None:
    bundle = Bundle.open(recurrent_bundle)
    assert bisect(bundle, bundle.pick(), bundle.golden()) is None


def test_states_inside_the_engine(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO isn't installed: pip install 'superlower[openvino]'")
    bundle = compiled(recurrent(), "openvino", tmp_path / "bundle", inside=True)
    (variant,) = bundle.manifest.variants
    assert variant.engines["step"].stateful == (("tanh", "hidden"),)
    golden = bundle.golden()
    assert bisect(bundle, variant, golden, atol=LIMIT) is None
    # Held to nothing at all, the first rounding is a culprit: no state was asked for that isn't there.
    culprit = bisect(bundle, variant, golden, atol=0.0)
    assert culprit is not None
    assert culprit.graph == "step"


def test_no_tensor_is_kept_longer_than_its_readers(
    recurrent_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the eight calls makes two outputs, in the reference and in the engine."""
    made: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []
    run = PooledSession.run

    def watched(self: PooledSession, feeds: Feeds) -> Outputs:
        outputs = run(self, feeds)
        made.extend(weakref.ref(array) for array in outputs.values())
        alive.append(sum(ref() is not None for ref in made))
        return outputs

    monkeypatch.setattr(PooledSession, "run", watched)
    bundle = Bundle.open(recurrent_bundle)
    assert bisect(bundle, bundle.pick(), bundle.golden()) is None
    assert (len(made), len(alive)) == (32, 16)
    # The call's own four, the state that it reads, and the last call's until the next has answered.
    assert max(alive) <= 8


def test_sessions_are_closed_when_an_engine_fails(
    recurrent_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[PooledSession] = []
    close = PooledSession.close
    monkeypatch.setattr(PooledSession, "close", lambda self: (closed.append(self), close(self))[1])
    run, calls = PooledSession.run, itertools.count()

    def failing(self: PooledSession, feeds: Feeds) -> Outputs:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return run(self, feeds)

    monkeypatch.setattr(PooledSession, "run", failing)
    bundle = Bundle.open(recurrent_bundle)
    with pytest.raises(KeyboardInterrupt):
        bisect(bundle, bundle.pick(), bundle.golden())
    assert len(set(closed)) == 2


def test_a_graph_without_float_tensors_has_no_node_to_name() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.INT32, [4])
    nodes = [helper.make_node("Neg", ["x"], ["y"], name="neg")]
    out = helper.make_tensor_value_info("y", TensorProto.INT32, [4])
    proto = helper.make_model(helper.make_graph(nodes, "g", [value], [out]), ir_version=10)
    feeds = {"x": np.arange(4, dtype=np.int32)}
    model = ir.from_proto(proto)
    ort = backend("onnxruntime")
    search = _Search(ort, target("cpu"), BuildOptions(), model, feeds, LIMIT, lambda _: None)
    assert search.first() is None
