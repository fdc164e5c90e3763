"""The catalogue as a whole: every case is a valid model, says what it is, and tells settings apart."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np
import onnx
import pytest

from superlower.errors import BadInputError
from superlower.ir import serialize
from superlower.probes.case import Arrays, Case
from superlower.probes.cases import cases
from support.probes import feeds_of

DTYPES = {"fp32", "fp16", "bf16", "int64", "int32", "uint8", "bool"}

WANTED = set(
    re.findall(
        r"\w+",
        """
        GridSample Resize DeformConv DepthToSpace SpaceToDepth ConvTranspose PRelu LeakyRelu ScatterND
        ScatterElements GatherND AveragePool InstanceNormalization LayerNormalization QuantizeLinear
        DequantizeLinear If Loop Einsum Conv Add Sub Mul Div Relu Clip Sigmoid Tanh Softmax Concat Split
        Slice Pad Transpose Reshape Gather Floor Round Abs Min Max Cast MatMul Gemm BatchNormalization
        GlobalAveragePool MaxPool ReduceMean ReduceSum Sqrt Exp Pow Where Less Equal Tile Expand Unsqueeze
        Squeeze Sum Erf HardSigmoid Constant Shape Identity
        """,
    )
)


def test_holds_the_operators_that_vsr_graphs_use() -> None:
    assert {case.op for case in cases()} >= WANTED


def test_names_are_unique_and_say_operator_setting_opset_and_type() -> None:
    names = [case.name for case in cases()]
    assert not [name for name, count in Counter(names).items() if count > 1]
    for case in cases():
        op, _, opset, dtype, *wide = case.name.split("/")
        assert op == case.op
        assert 13 <= int(opset) <= 22
        assert dtype in DTYPES
        assert wide == (["4k"] if case.large else [])
        assert re.fullmatch(r"[\w/.-]+", case.name)


@pytest.mark.parametrize("op", sorted({case.op for case in cases()}))
def test_models_are_valid_and_agree_with_feeds_and_references(op: str) -> None:
    for case in cases([op]):
        model = case.model()
        proto = onnx.load_from_string(serialize(model))
        onnx.checker.check_model(proto, full_check=True)
        # Types that the operator's definition doesn't take pass the checker: inference is asked to look.
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
        opset = int(case.name.split("/")[2])
        assert model.opset_imports[""] == opset, case.name
        feeds = feeds_of(case)
        assert {v.name: (tuple(v.shape), v.dtype.numpy()) for v in model.graph.inputs} == {
            name: (array.shape, array.dtype) for name, array in feeds.items()
        }, case.name
        expected = case.expected(feeds)
        assert {v.name: tuple(v.shape) for v in model.graph.outputs} == {
            name: array.shape for name, array in expected.items()
        }, case.name
        assert case.error(feeds, expected) == 0, case.name
        # An island's node is fp32, its graph's inputs fp16.
        assert case.key().dtype == case.name.split("/")[3] or "island" in case.name, case.name
        assert len(case.tolerance.reason) > 20, case.name
        # bf16 has 8 bits: worst cases of long sums leave little of them.
        share = 1.0 if "/bf16" in case.name else 0.35
        assert 0 <= case.tolerance.absolute <= share * _spread(expected), case.name


def _spread(outputs: Arrays) -> float:
    """Range of the outputs' numbers; of lone ones, as they are."""
    arrays = [np.asarray(array, np.float64) for array in outputs.values()]
    return max(float(np.ptp(a)) if a.size > 1 else float(np.abs(a).max()) for a in arrays)


def test_feeds_are_the_same_for_one_seed_and_others_for_another() -> None:
    for op in ("GridSample", "ScatterND", "QuantizeLinear", "Loop"):
        case = cases([op])[0]
        first, again = feeds_of(case), feeds_of(case)
        other = case.feeds(np.random.default_rng(1))
        assert all(np.array_equal(first[name], again[name]) for name in first)
        assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_constants_are_the_same_on_every_call() -> None:
    case = cases(["DeformConv"])[0]
    assert serialize(case.model()) == serialize(case.model())


def test_filters() -> None:
    assert cases(["Resize"], large=True) == tuple(c for c in cases() if c.op == "Resize" and c.large)
    assert len(cases(large=True)) + len(cases(large=False)) == len(cases())
    assert {case.op for case in cases(large=True)} == {"GridSample", "Resize"}
    with pytest.raises(BadInputError, match="unknown probed operator 'GridSampel': did you mean GridSample"):
        cases(["GridSampel"])


NOT_TOLD = {
    # An fp16 sum of 8 to 16 terms is no closer than the two settings are.
    ("Resize", "cubic-half_pixel-antialias-half", "cubic-half_pixel-antialias-exclude_outside-half"),
    # The two forms of Gelu are 5e-4 apart.
    ("Gelu", "plain", "tanh"),
}


def test_one_setting_taken_for_another_is_found() -> None:
    """What an SDK computes that swaps a mode, a padding, an alignment, any attribute, is out of tolerance.

    Each case judges the outputs of all cases of its operator, opset and type that differ in one thing, on its
    own inputs. Pairs that mean the same on these inputs are left out, and bf16, whose tolerances can't tell
    a cubic from a line.
    """
    alike: dict[object, list[Case]] = defaultdict(list)
    for case in cases(large=False):
        op, _, opset, dtype = case.name.split("/")
        if dtype != "bf16" and opset not in ("13", "16", "18"):
            feeds = feeds_of(case)
            alike[op, opset, dtype, tuple((n, a.shape, a.dtype) for n, a in feeds.items())].append(case)
    told = Counter[str]()
    missed = set()
    for group in alike.values():
        keys = [set(case.key().setting) for case in group]
        for judge, key in zip(group, keys, strict=True):
            feeds = feeds_of(judge)
            for other, other_key in zip(group, keys, strict=True):
                if len(key ^ other_key) != 2:
                    continue
                error = judge.error(feeds, other.expected(feeds))
                if error < 1e-9:
                    continue
                told[judge.op] += 1
                if error <= judge.tolerance.absolute:
                    names = sorted(c.name.split("/")[1] for c in (judge, other))
                    missed.add((judge.op, *names))
    assert {(op, *sorted(rest)) for op, *rest in NOT_TOLD} == missed
    assert told["GridSample"] > 400
    assert told["Resize"] > 1000
    assert min(told[op] for op in ("DeformConv", "ScatterND", "AveragePool", "DepthToSpace", "Pad")) >= 10
