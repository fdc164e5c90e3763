"""Hardware rules and known refusals, held to what the SDK itself does: a table nobody checks grows wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from superlower.backends.base import BuildOptions
from superlower.backends.tensorrt.layers import read_layers
from superlower.backends.tensorrt.network import Sdk
from superlower.backends.tensorrt.rtx import TensorRtRtx
from superlower.backends.tensorrt.rtx_rules import ARCHITECTURES
from superlower.doctor.conditions import Operator
from superlower.doctor.examine import Context, Findings, examine
from superlower.doctor.rules import Action, Rule, rules
from superlower.errors import UnsupportedOperatorError
from superlower.ir import serialize
from superlower.targets.base import Precision, Target
from superlower.targets.catalog import load_catalog

OneNode = Callable[..., ir.Model]
F32, F16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


@pytest.fixture(scope="module")
def sdk() -> Sdk:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
    return Sdk("tensorrt_rtx", echo=False)


def _build(sdk: Sdk, model: ir.Model, sm: int) -> tuple[bool, str]:
    """Whether an engine is built, and the log."""
    sdk.clear()
    network, refusals = sdk.parse(serialize(model))
    assert not refusals
    config = sdk.builder.create_builder_config()
    config.num_compute_capabilities = 1
    assert config.set_compute_capability(getattr(sdk.module.ComputeCapability, f"SM{sm}"), 0)
    config.profiling_verbosity = sdk.module.ProfilingVerbosity.DETAILED
    built = sdk.builder.build_serialized_network(network, config) is not None
    return built, "\n".join(sdk.messages)


def _found(model: ir.Model, sm: int) -> Findings:
    """What the rules say of the model for an architecture."""
    card = next(t for t in load_catalog().values() if t.compute_capability == sm)
    known = [rule for rule in rules() if rule.backends == ("tensorrt-rtx",)]
    return examine(known, Context("tensorrt-rtx", TensorRtRtx().versions(), card, Precision.FP32), model)


def _weight(kind: int, *shape: int) -> object:
    values = np.random.default_rng(0).standard_normal(int(np.prod(shape))).tolist()
    return helper.make_tensor("w", kind, shape, values)


def _limited(one_node: OneNode, case: str, kind: int) -> ir.Model:
    image, clip = [1, 4, 8, 8], [1, 4, 4, 8, 8]
    match case:
        case "MatMul":
            return one_node(case, {"x": (kind, [4, 8])}, {"y": (kind, [4, 16])}, [_weight(kind, 8, 16)])
        case "Gemm":
            return one_node(case, {"x": (kind, [4, 8])}, {"y": (kind, [4, 16])}, [_weight(kind, 8, 16)])
        case "Einsum":
            outputs = {"y": (kind, [4, 16])}
            model_inputs = {"x": (kind, [4, 8])}
            return one_node(case, model_inputs, outputs, [_weight(kind, 8, 16)], equation="ij,jk->ik")
        case "Conv":
            return one_node(
                case, {"x": (kind, image)}, {"y": (kind, [1, 4, 6, 6])}, [_weight(kind, 4, 4, 3, 3)]
            )
        case "ConvTranspose":
            weight = _weight(kind, 4, 4, 3, 3)
            return one_node(case, {"x": (kind, image)}, {"y": (kind, [1, 4, 10, 10])}, [weight])
        case "Conv3d":
            weight = _weight(kind, 4, 4, 3, 3, 3)
            return one_node("Conv", {"x": (kind, clip)}, {"y": (kind, [1, 4, 2, 6, 6])}, [weight])
        case "ConvTranspose3d":
            weight = _weight(kind, 4, 4, 3, 3, 3)
            return one_node("ConvTranspose", {"x": (kind, clip)}, {"y": (kind, [1, 4, 6, 10, 10])}, [weight])
        case _:
            return one_node(case, {"x": (kind, image)}, {"y": (kind, image)})


@pytest.mark.parametrize("kind", [F32, F16, BF16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize(
    "case", ["MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "Conv3d", "ConvTranspose3d", "Relu"]
)
@pytest.mark.parametrize("sm", [75, 80, 120])
def test_the_rules_say_what_the_compiler_does(
    sdk: Sdk, one_node: OneNode, case: str, kind: int, sm: int
) -> None:
    model = _limited(one_node, case, kind)
    assert _build(sdk, model, sm)[0] == (_found(model, sm).refusal() is None)


def _quantized(kind: int, storage: int) -> ir.Model:
    zero = helper.make_tensor("zero", storage, [], [0])
    scale = helper.make_tensor("scale", kind, [], [0.02])
    nodes = []
    for read, made in (("x", "xd"), ("w", "wd")):
        nodes.append(
            helper.make_node("QuantizeLinear", [read, "scale", "zero"], [f"{made}q"], name=f"{made}.q")
        )
        nodes.append(
            helper.make_node("DequantizeLinear", [f"{made}q", "scale", "zero"], [made], name=f"{made}.dq")
        )
    nodes.append(helper.make_node("Conv", ["xd", "wd"], ["y"], name="conv"))
    infos = [
        helper.make_tensor_value_info(n, kind, s) for n, s in (("x", [1, 32, 8, 8]), ("y", [1, 32, 6, 6]))
    ]
    graph = helper.make_graph(nodes, "qdq", infos[:1], infos[1:], [_weight(kind, 32, 32, 3, 3), scale, zero])
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10))


@pytest.mark.parametrize(("sm", "computes"), [(75, "float32"), (80, "int8")])
def test_quantized_convolutions_run_as_float_on_turing_and_the_rule_is_silent(
    sdk: Sdk, sm: int, computes: str
) -> None:
    model = _quantized(F32, TensorProto.INT8)
    built, log = _build(sdk, model, sm)
    assert built
    convolution = next(layer for layer in read_layers(log).layers if layer.type == "correlation")
    assert convolution.inputs[0].dtype == computes
    refused = [node for finding in _found(model, sm).acting(Action.REFUSE) for node in finding.nodes]
    assert refused == ["xd.q", "xd.dq", "wd.q", "wd.dq"] * (sm < 80)


@pytest.mark.parametrize("sm", [86, 89])
def test_fp8_starts_with_ada(sdk: Sdk, sm: int) -> None:
    model = _quantized(F16, TensorProto.FLOAT8E4M3FN)
    assert _build(sdk, model, sm)[0] == (sm >= 89) == (_found(model, sm).refusal() is None)


def test_the_architectures_are_those_the_sdk_takes(sdk: Sdk) -> None:
    config = sdk.builder.create_builder_config()
    config.num_compute_capabilities = 1
    known = {
        int(value)
        for name, value in sdk.module.ComputeCapability.__members__.items()
        if name.startswith("SM") and config.set_compute_capability(value, 0)
    }
    assert known == set(ARCHITECTURES)


def _ints(name: str, *values: int) -> object:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _floats(name: str, *values: float) -> object:
    return numpy_helper.from_array(np.array(values, np.float32), name)


def _refusable(one_node: OneNode, op: str, **attributes: object) -> ir.Model:
    image, u8, i64 = [1, 4, 8, 8], TensorProto.UINT8, TensorProto.INT64
    x, y = {"x": (F32, image)}, {"y": (F32, image)}
    match op:
        case "DeformConv":
            inputs = {"x": (F32, image), "w": (F32, [4, 4, 3, 3]), "o": (F32, [1, 18, 8, 8])}
            return one_node(op, inputs, y, pads=[1, 1, 1, 1])
        case "Col2Im":
            held = [_ints("image", 5, 5), _ints("block", 1, 5)]
            return one_node(op, {"x": (F32, [1, 5, 5])}, {"y": (F32, [1, 1, 5, 5])}, held)
        case "AffineGrid":
            size = [_ints("size", 1, 4, 8, 8)]
            return one_node(op, {"t": (F32, [1, 2, 3])}, {"y": (F32, [1, 8, 8, 2])}, size, opset=20)
        case "QLinearConv":
            inputs = {"x": (u8, image), "xs": (F32, []), "xz": (u8, []), "w": (u8, [4, 4, 3, 3])}
            inputs |= {"ws": (F32, []), "wz": (u8, []), "ys": (F32, []), "yz": (u8, [])}
            return one_node(op, inputs, {"y": (u8, [1, 4, 6, 6])})
        case "ConvInteger":
            inputs = {"x": (u8, image), "w": (u8, [4, 4, 3, 3])}
            return one_node(op, inputs, {"y": (TensorProto.INT32, [1, 4, 6, 6])})
        case "DynamicQuantizeLinear":
            return one_node(op, x, {"y": (u8, image), "scale": (F32, []), "zero": (u8, [])})
        case "NonZero":
            return one_node(op, x, {"y": (i64, [4, 256])})
        case "RoiAlign":
            held = [_floats("rois"), _ints("index", 0)]
            held[0] = numpy_helper.from_array(np.array([[0, 0, 4, 4]], np.float32), "rois")
            return one_node(op, x, {"y": (F32, [1, 4, 2, 2])}, held, output_height=2, output_width=2)
        case "ScatterElements":
            inputs = {**x, "i": (i64, image), "u": (F32, image)}
            return one_node(op, inputs, y, **attributes)
        case "ScatterND":
            return one_node(op, {**x, "i": (i64, [1, 1]), "u": (F32, [1, 4, 8, 8])}, y, **attributes)
        case "Resize":
            nothing = numpy_helper.from_array(np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32), "roi")
            outputs = {"y": (F32, [1, 4, 16, 16])}
            return one_node(op, x, outputs, [nothing, _floats("s", 1, 1, 2, 2)], mode="linear", **attributes)
        case "AveragePool":
            outputs = {"y": (F32, None)}
            return one_node(op, x, outputs, kernel_shape=[2, 2], **attributes)
    raise AssertionError(f"no probe for {op}: add one")


def _refusals() -> list[tuple[Rule, str, dict[str, object]]]:
    """Every operator and setting that the parser is known to refuse."""
    found: list[tuple[Rule, str, dict[str, object]]] = []
    for rule in rules():
        told = rule.condition
        if rule.backends != ("tensorrt-rtx",) or rule.sm or not isinstance(told, Operator) or told.types:
            continue
        beyond = {"reduction": "add", "antialias": 1, "dilations": [2, 2]}
        settings = [{name: value} for name, values in told.where.items() for value in values]
        settings += [{name: beyond[name]} for name in told.beyond]
        found += [(rule, op, setting) for op in told.ops for setting in settings or [{}]]
    return found


@pytest.mark.parametrize(
    ("rule", "op", "attributes"), _refusals(), ids=lambda v: v.id if isinstance(v, Rule) else str(v)
)
def test_every_known_refusal_is_one(
    sdk: Sdk, one_node: OneNode, rule: Rule, op: str, attributes: dict[str, object]
) -> None:
    model = _refusable(one_node, op, **attributes)
    assert rule.id in _found(model, 120)
    assert sdk.parse(serialize(model))[1], f"the parser takes {op} with {attributes}"


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("ScatterElements", {"reduction": "none"}),
        ("ScatterND", {}),
        ("Resize", {"antialias": 0, "coordinate_transformation_mode": "half_pixel"}),
        ("AveragePool", {"dilations": [1, 1]}),
    ],
)
def test_the_table_refuses_no_more_than_the_parser(
    sdk: Sdk, one_node: OneNode, op: str, attributes: dict[str, object]
) -> None:
    model = _refusable(one_node, op, **attributes)
    assert _found(model, 120).refusal() is None
    assert sdk.parse(serialize(model))[1] == []


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        (
            "MatMul",
            F32,
            r"FP32 matrix products are not built for Turing \(MatMul at it\): build with --precision fp16",
        ),
        ("Conv3d", F32, r"FP32 3-D convolutions .* \(Conv at it\): build with --precision fp16"),
        ("Relu", BF16, r"Turing has no BF16 \(Relu at it\): build for a newer target"),
    ],
)
def test_a_build_is_refused_before_it_starts(
    one_node: OneNode, targets: dict[int, Target], tmp_path: Path, case: str, kind: int, message: str
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX isn't installed")
    with pytest.raises(UnsupportedOperatorError, match=message):
        TensorRtRtx().compile(_limited(one_node, case, kind), targets[75], BuildOptions(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sm", "precision", "served"),
    [
        (75, Precision.FP16, True),
        (75, Precision.BF16, False),
        (75, Precision.INT8, False),
        (80, Precision.INT8, True),
        (86, Precision.FP8, False),
        (89, Precision.FP8, True),
        (70, Precision.FP16, False),
        (90, Precision.FP32, False),
    ],
)
def test_what_is_served(targets: dict[int, Target], sm: int, precision: Precision, served: bool) -> None:
    reason = TensorRtRtx().serves(targets[sm], precision)
    assert (reason is None) == served
