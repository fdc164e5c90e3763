"""Which rules hold where, and what they add up to."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower.doctor.examine import Context, applies, examine, settings, unserved
from superlower.doctor.rules import Action, Rule, parse, rules
from superlower.errors import BadInputError, UnsupportedOperatorError
from superlower.passes.convert_opset import ConvertOpset
from superlower.targets.base import Precision
from superlower.targets.catalog import target
from support.scenarios.base import F16, F32, MEASURED, graph, one, quantized, relu

RTX = Context("tensorrt-rtx", MEASURED["tensorrt-rtx"], target("t4"), Precision.FP32)


def rule(name: str) -> Rule:
    (found,) = (r for r in rules() if r.id == name)
    return found


def of(**fields: object) -> Rule:
    entries = {
        "symptom": '"it fails"',
        "action": '"refuse"',
        "cure": '"wait"',
        "source": '"a paper"',
        **fields,
    }
    return parse("[it]\n" + "\n".join(f"{k} = {v}" for k, v in entries.items()), "rules.toml")[0]


def only(*names: str) -> list[Rule]:
    return [rule(name) for name in names]


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({}, True),
        ({"backends": '["tensorrt-rtx", "tvm"]'}, True),
        ({"backends": '["tvm"]'}, False),
        ({"kinds": '["nvidia-gpu"]'}, True),
        ({"kinds": '["cpu"]'}, False),
        ({"sm": '">=75,<80"'}, True),
        ({"sm": '">=80"'}, False),
        ({"precisions": '["fp16", "fp32"]'}, True),
        ({"precisions": '["fp16"]'}, False),
        ({"versions": '{ tensorrt-rtx = "<=1.7.1.116" }'}, True),
        ({"versions": '{ tensorrt-rtx = "<1.7" }'}, False),
        ({"versions": '{ tensorrt-rtx = "<=1.7.1.116", tensorrt = "<9" }'}, True),
        ({"versions": '{ tensorrt = "<12" }'}, False),
    ],
)
def test_a_rule_applies_where_all_it_says_holds(fields: dict[str, object], holds: bool) -> None:
    assert applies(of(**fields), RTX) == holds


def test_of_unknown_versions_graphs_are_held_to_the_worst_and_builds_are_not() -> None:
    """Whoever installs the SDK picks a version that serves; what it does to a graph can't be known."""
    unknown, versions = replace(RTX, versions={}), '{ tensorrt-rtx = "<=1.7" }'
    assert applies(of(versions=versions, condition='{ is = "operator", ops = ["Relu"] }'), unknown)
    assert not applies(of(versions=versions), unknown)
    assert applies(of(), unknown)


def test_an_sm_range_leaves_cpus_alone() -> None:
    assert not applies(of(sm='">=0"'), replace(RTX, target=target("cpu")))


def test_grid_sample_of_opset_20_is_left_to_the_rtx_release_that_reads_it() -> None:
    sampler = rule("grid-sample-opset-20")
    classic = replace(RTX, backend="tensorrt", versions={"tensorrt": "10.4.0"})
    assert applies(sampler, classic)
    assert applies(sampler, replace(classic, versions={"tensorrt": "11.1.0.106"}))
    assert not applies(sampler, replace(classic, versions={"tensorrt": "11.2.0"}))
    assert not applies(sampler, RTX)
    assert applies(sampler, replace(RTX, versions={"tensorrt-rtx": "1.2.0.54"}))


def test_nodes_are_told_in_one_line_with_the_cure() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], [f"y{i}"], name=f"m{i}") for i in range(7)]
    outputs = {f"y{i}": (F32, [4, 4]) for i in range(7)}
    model = graph(nodes, {"x": (F32, [4, 8]), "w": (F32, [8, 4])}, outputs)
    error = examine(rules(), RTX, model).refusal()
    assert isinstance(error, UnsupportedOperatorError)
    assert str(error) == (
        "tensorrt-rtx on t4: FP32 matrix products are not built for Turing (MatMul at m0, m1, m2, m3, m4 and "
        "2 more): build with --precision fp16 [rtx-fp32-matmul-turing]"
    )


def test_a_refusal_without_nodes_is_bad_input() -> None:
    volta = replace(RTX, backend="tensorrt", versions={"tensorrt": "10.9.0"}, target=target("v100"))
    found = examine(rules(), volta, relu()())
    with pytest.raises(BadInputError, match=r"tensorrt on v100: TensorRT 10\.5 dropped Volta: install"):
        found.require()
    assert "10.4" in str(unserved(rules(), volta))
    assert unserved(rules(), replace(volta, versions={"tensorrt": "10.4.0"})) is None


def test_nodes_in_bodies_are_found() -> None:
    body = [helper.make_node("MatMul", ["x", "w"], ["b"], name="inner")]
    branch = helper.make_graph(body, "branch", [], [helper.make_tensor_value_info("b", F32, [4, 4])])
    node = helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch, else_branch=branch)
    inputs = {"c": (TensorProto.BOOL, []), "x": (F32, [4, 8]), "w": (F32, [8, 4])}
    found = examine(rules(), RTX, graph([node], inputs, {"y": (F32, [4, 4])}))
    assert found.by_node()["inner"].rule.id == "rtx-fp32-matmul-turing"


def test_a_setting_takes_the_symptom() -> None:
    model, strict = quantized(), only("rtx-int8-graph-turing")
    assert examine(strict, RTX, model).acting(Action.REFUSE)
    allowed = examine(strict, replace(RTX, settings={"int8_as_float": "allow"}), model)
    assert allowed.refusal() is None
    assert ["run as FP32" in line for line in allowed.warnings()] == [True]
    assert examine(strict, replace(RTX, settings={"int8_as_float": "refuse"}), model).refusal() is not None


def test_passes_are_prescribed_once_and_what_they_leave_is_refused() -> None:
    volume = one(
        "GridSample",
        {"x": (F32, [1, 2, 4, 4, 4]), "grid": (F32, [1, 4, 4, 4, 3])},
        {"y": (F32, [1, 2, 4, 4, 4])},
        opset=20,
        mode="linear",
    )
    classic = replace(RTX, backend="tensorrt", versions={"tensorrt": "10.4.0"})
    found = examine([*rules(), replace_id(rule("grid-sample-opset-20"))], classic, volume)
    assert found.passes() == (ConvertOpset(19),)
    assert found.refusal() is None
    # Of five dimensions there is no older form, so the pass leaves it.
    ConvertOpset(19).run(volume)
    left = examine(rules(), classic, volume).after_passes()
    with pytest.raises(
        UnsupportedOperatorError, match=r"as nearest, without a word \(GridSample at it\): export"
    ):
        left.require()


def replace_id(one_rule: Rule) -> Rule:
    import msgspec

    return msgspec.structs.replace(one_rule, id="twin")


def test_a_grid_that_no_pass_can_mend_is_warned_of() -> None:
    inputs = {"x": (F16, [1, 2, 4, 1024]), "grid": (F16, [1, 4, 1024, 2])}
    model = one("GridSample", inputs, {"y": (F16, [1, 2, 4, 1024])})
    context = Context("openvino", MEASURED["openvino"], target("intel-gpu"), Precision.FP16)
    left = examine(rules(), context, model).after_passes()
    assert left.refusal() is None
    # Half a step of 2^-11 at 512 pixels from the centre.
    assert ["off by 0.12 px and more (GridSample at it)" in line for line in left.warnings()] == [True]


def test_settings_are_prescribed_for_cpus_only() -> None:
    versions = MEASURED["openvino"]
    assert settings("openvino", versions, target("cpu"), Precision.FP32) == {
        "INFERENCE_PRECISION_HINT": "f32"
    }
    assert settings("openvino", versions, target("intel-gpu"), Precision.FP16) == {}
    assert settings("tvm", MEASURED["tvm"], target("cpu"), Precision.FP32) == {}


def test_a_sound_graph_meets_nothing() -> None:
    for backend, name in (("onnxruntime", "cpu"), ("tensorrt-rtx", "rtx4090"), ("tvm", "cpu")):
        context = Context(backend, MEASURED[backend], target(name), Precision.FP32)
        found = examine(rules(), context, relu()())
        assert [f for f in found.found if f.action not in (Action.AVOID, Action.SET)] == []


def test_types_are_inferred_where_they_lack() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("MatMul", ["r", "w"], ["y"], name="m")]
    model: ir.Model = graph(nodes, {"x": (F32, [4, 8]), "w": (F32, [8, 4])}, {"y": (F32, [4, 4])})
    assert "m" in examine(rules(), RTX, model).by_node()
