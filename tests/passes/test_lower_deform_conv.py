"""The lowered DeformConv against the operator's definition, in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from superlower.errors import BadInputError
from superlower.ir import serialize
from superlower.passes._evaluate import evaluate
from superlower.passes.lower_deform_conv import GATHER, GRID_SAMPLE, LowerDeformConv
from superlower.passes.pipelines import count
from superlower.probes.case import Case, widen
from superlower.probes.cases.deform_conv import cases
from support.deform import Deform
from support.graphs import outcome

FORMS = (GRID_SAMPLE, GATHER)
EXACT = 1e-5
"""What the forms are held to in fp32, at sizes up to 64: 5 roundings of 2^-24 at 64 px are 2e-5 px at worst,
and products with some hundred weights of both signs average them out."""


def lowered(model: ir.Model, form: str) -> ir.Model:
    model = model.clone()
    applied = LowerDeformConv(form).run(model)
    assert [site.detail for site in applied.rewritten] == [form]
    assert "DeformConv" not in count(model)
    onnx.checker.check_model(serialize(model.clone()), full_check=True)
    return model


CASES = {case.name: case for case in cases() if "/bf16" not in case.name}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_probe_is_passed(case: Case, form: str) -> None:
    """Kernels, strides, dilations, pads, groups, masks and biases, as the backends are probed with them."""
    feeds = case.feeds(np.random.default_rng(0))
    expected = case.reference({name: widen(array) for name, array in feeds.items()})["out0"]
    model = lowered(case.model(), form)
    found = evaluate(model, feeds)["out0"]
    half = found.dtype == np.float16
    assert np.abs(found - expected).max() <= (case.tolerance.absolute if half else EXACT)


sizes = st.integers(1, 6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_any_geometry(data: st.DataObject) -> None:
    """Sizes, groups and windows drawn at random, with offsets far outside and just at the border."""
    group, offset_group = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from([1, 2, 3, 4]))
    kernel, strides, dilations = (
        data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(3)
    )
    pads = data.draw(st.tuples(*[st.integers(0, 3)] * 4))
    spans = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    smallest = [max(1, span - pads[a] - pads[a + 2]) for a, span in enumerate(spans)]
    case = Deform(
        batch=data.draw(st.integers(1, 2)),
        channels=group * offset_group * data.draw(st.integers(1, 2)),
        height=smallest[0] + data.draw(sizes),
        width=smallest[1] + data.draw(sizes),
        out_channels=group * data.draw(st.integers(1, 3)),
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=group,
        offset_group=offset_group,
        mask=data.draw(st.booleans()),
        bias=data.draw(st.booleans()),
        constant_weight=data.draw(st.booleans()),
    )
    feeds = case.feeds()
    expected = case.reference(feeds)
    for form in FORMS:
        found = evaluate(lowered(case.model(), form), feeds)["out0"]
        assert np.abs(found - expected).max() <= EXACT


@pytest.mark.parametrize("form", FORMS)
def test_structure(form: str) -> None:
    case = Deform(channels=8, offset_group=4, kernel=(3, 3))
    result = outcome(case.model(), LowerDeformConv(form), spread=1.0)
    samplers = {op: result.ops.get(op, 0) for op in ("GridSample", "Conv", "Gather", "MatMul", "Cast")}
    if form == GRID_SAMPLE:
        # One Gather of two numbers puts columns before rows.
        assert samplers == {"GridSample": 1, "Conv": 1, "Gather": 1, "MatMul": 0, "Cast": 0}
        (node,) = (n for n in result.model.graph if n.op_type == "GridSample")
        assert [list(v.shape) for v in node.inputs if v and v.shape] == [[4, 2, 7, 9], [4, 63, 9, 2]]
    else:
        assert samplers == {"GridSample": 0, "Conv": 0, "Gather": 4, "MatMul": 1, "Cast": 2}
    assert result.moved() <= 2 * EXACT


@pytest.mark.parametrize("form", FORMS)
def test_gathers_with_groups_end_in_a_grouped_convolution(form: str) -> None:
    model = lowered(Deform(group=2, offset_group=2).model(), form)
    (conv,) = (n for n in model.graph if n.op_type == "Conv")
    assert conv.attributes.get_int("group") == 2
    assert "MatMul" not in count(model)


@pytest.mark.parametrize(("opset", "mode"), [(19, "bilinear"), (20, "linear"), (22, "linear")])
def test_mode_is_named_as_the_opset_does(opset: int, mode: str) -> None:
    model = lowered(Deform().model(opset), GRID_SAMPLE)
    assert [n.attributes["mode"].value for n in model.graph if n.op_type == "GridSample"] == [mode]


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_keeps_its_positions_at_large_widths(form: str) -> None:
    """Positions in fp16 would be off by up to a pixel at W = 2048; its own offsets are exact numbers."""
    case = Deform(channels=2, height=4, width=2048, out_channels=2, bias=False, reach=2.0)
    half = ir.DataType.FLOAT16
    feeds = case.feeds(dtype=half)
    expected = case.reference(feeds, half)
    found = evaluate(lowered(case.model(dtype=half), form), feeds)["out0"]
    assert found.dtype == np.float16
    # A term is rounded 8 times to 11 bits (bilinear weights, products, sums, mask), the sum once a term; in
    # the grid-sample form positions are off by 5 roundings of 2^-24 W, which is 6e-4 px.
    terms = 2 * 9
    bound = (8 + terms) * 2.0**-11 * case.magnitude(feeds) + terms * 6e-4 * 2 * 4 / np.sqrt(terms)
    assert np.all(np.abs(found - expected) <= bound)
    # The bound is tight enough to tell: a pixel to the right is another picture.
    moved = case.reference({**feeds, "offset": feeds["offset"] + 0.5}, half)
    assert np.mean(np.abs(moved - expected) > bound) > 0.5


def test_gathers_round_nothing_at_the_width() -> None:
    """A normalised grid is off by up to 5 * 2^-24 W, 2.4e-3 px at 8192; base + floor(offset) isn't."""
    case = Deform(channels=2, height=3, width=8192, out_channels=2)
    feeds = case.feeds()
    expected = case.reference(feeds)
    errors = {
        form: np.abs(evaluate(lowered(case.model(), form), feeds)["out0"] - expected).max() for form in FORMS
    }
    # 18 terms of 10 roundings each, at the size of the largest sum.
    assert errors[GATHER] <= 28 * 2.0**-24 * case.magnitude(feeds).max()
    assert errors[GRID_SAMPLE] > 10 * errors[GATHER]


def test_an_offset_that_is_no_number_reads_within_the_image() -> None:
    case = Deform(height=4, width=5)
    feeds = case.feeds()
    feeds["offset"][0, :, 1, 2] = np.nan
    found = evaluate(lowered(case.model(), GATHER), feeds)["out0"]
    assert np.isnan(found[0, :, 1, 2]).all()
    assert np.isfinite(np.delete(found.reshape(6, 20), 7, axis=1)).all()


def test_unfit_offsets_are_refused() -> None:
    case = Deform()
    model = case.model()
    (node,) = (n for n in model.graph if n.op_type == "DeformConv")
    node.attributes["strides"] = ir.AttrInt64s("strides", [2, 2])
    applied = LowerDeformConv().run(model)
    assert not applied.changed
    assert "which don't fit [1, 8, 7, 9]" in applied.refused[0].detail


def test_symbolic_sizes_are_refused() -> None:
    model = Deform().model()
    model.graph.inputs[0].shape = ir.Shape([1, 8, "H", 9])
    applied = LowerDeformConv().run(model)
    assert [site.detail for site in applied.refused] == ["sizes aren't static"]


def test_unknown_form_is_named() -> None:
    with pytest.raises(BadInputError, match="takes grid-sample or gather"):
        LowerDeformConv("im2col")
