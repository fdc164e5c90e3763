"""BasicVSR's three graphs as plans for every RTX architecture, with warp coordinates in fp32 throughout."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx_ir as ir
import pytest

from superlower.backends.base import BuildOptions, Support
from superlower.backends.tensorrt.layers import EngineLayers
from superlower.backends.tensorrt.rtx import TensorRtRtx
from superlower.frontends.base import ExportRequest
from superlower.passes.pipelines import apply, default_pipeline
from superlower.program import files
from superlower.targets.base import Precision, Target

pytest.importorskip("torch", reason="PyTorch isn't installed")
pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")

GRAPHS = ("flow", "backward", "forward")


def _export(height: int, width: int, blocks: int) -> dict[str, ir.Model]:
    from superlower.frontends.zoo.basicvsr import BasicVsr

    options = {"blocks": str(blocks)}
    weights = Path("random:0")
    request = ExportRequest(weights=weights, height=height, width=width, options=options, source="random:0")
    return dict(BasicVsr().export(request).graphs)


@pytest.fixture(scope="module")
def small(basicvsr_folder: Path) -> dict[str, ir.Model]:
    """64x64, one block a trunk."""
    return dict(files.load_model(basicvsr_folder).graphs)


@pytest.fixture(scope="module")
def full() -> dict[str, ir.Model]:
    """As published: 180x320, 30 blocks a trunk."""
    return _export(180, 320, 30)


def _legal(model: ir.Model, target: Target, precision: Precision) -> ir.Model:
    passes = (*default_pipeline(), *TensorRtRtx().legalize(target, precision))
    return apply(model, passes)[0]


def _check_plan(model: ir.Model, target: Target, precision: Precision, folder: Path) -> None:
    """Build, then read the layers: coordinates in fp32, and the rest in the type asked for."""
    legal = _legal(model, target, precision)
    artifact = TensorRtRtx().compile(legal, target, BuildOptions(precision=precision), folder)
    written = (folder / artifact.files["layers"]).read_bytes()
    layers = msgspec.json.decode(written, type=EngineLayers)
    assert layers.unread == ()
    samples = {node.name: node for node in legal.graph if node.op_type == "GridSample"}
    assert {sampler.node for sampler in layers.samplers} == set(samples)
    assert {sampler.grid for sampler in layers.samplers} == {"float32"}
    for name in samples:
        kernel = next(layer for layer in layers.layers if name in layer.nodes)
        grids = [
            t for t in (*kernel.inputs, *kernel.constants) if t.shape and 2 in (t.shape[-1], *t.shape[1:2])
        ]
        assert grids, "the kernel that samples reads a flow or a grid"
        assert {tensor.dtype for tensor in grids} == {"float32"}
    expected = "float16" if precision is Precision.FP16 else "float32"
    convolutions = [layer for layer in layers.layers if layer.type == "correlation"]
    assert convolutions
    assert {layer.inputs[0].dtype for layer in convolutions} == {expected}
    if precision is Precision.FP32:
        assert artifact.facts["half_layers"] == 0


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("sm", [75, 120])
@pytest.mark.parametrize("graph", GRAPHS)
def test_small_plans(
    small: dict[str, ir.Model],
    targets: dict[int, Target],
    tmp_path: Path,
    graph: str,
    sm: int,
    precision: Precision,
) -> None:
    _check_plan(small[graph], targets[sm], precision, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
@pytest.mark.parametrize("sm", [75, 80, 86, 89, 120])
@pytest.mark.parametrize("graph", GRAPHS)
def test_full_plans(
    full: dict[str, ir.Model],
    targets: dict[int, Target],
    tmp_path: Path,
    graph: str,
    sm: int,
    precision: Precision,
) -> None:
    _check_plan(full[graph], targets[sm], precision, tmp_path)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_half_plan_takes_less_memory(
    small: dict[str, ir.Model], targets: dict[int, Target], tmp_path: Path, graph: str
) -> None:
    facts = {}
    for precision in (Precision.FP32, Precision.FP16):
        legal = _legal(small[graph], targets[86], precision)
        options = BuildOptions(precision=precision)
        facts[precision] = TensorRtRtx().compile(legal, targets[86], options, tmp_path / precision).facts
    half, single = facts[Precision.FP16], facts[Precision.FP32]
    assert int(half["activation_bytes"]) < int(single["activation_bytes"])
    # Weights are halved; biases stay float, and layouts are padded.
    assert int(half["weights_bytes"]) < 0.6 * int(single["weights_bytes"])


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_every_node_is_covered(
    small: dict[str, ir.Model], targets: dict[int, Target], precision: Precision
) -> None:
    found = TensorRtRtx().coverage(small["flow"], targets[86], precision)
    assert len(found) == len(list(small["flow"].graph))
    assert {n.support for n in found} == {Support.NATIVE}
