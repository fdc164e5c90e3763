"""Upsampling and a convolution are a convolution and a pixel shuffle, to the borders' last pixel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from superlower.passes.resize_conv_to_sub_pixel import ResizeConvToSubPixel
from support.graphs import GraphBuilder, Outcome, outcome

EPS = 2.0**-24
HALF = {"mode": "nearest", "coordinate_transformation_mode": "half_pixel"}
ASYMMETRIC = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def upsampled(
    shape: tuple[int, ...],
    scale: int,
    resize: dict[str, str],
    *,
    outputs: int = 3,
    kernel: tuple[int, int] = (3, 3),
    bias: bool = True,
    sizes: bool = False,
    **attributes: object,
) -> ir.Model:
    g = GraphBuilder()
    rng = np.random.default_rng(0)
    x = g.input("x", *shape)
    if sizes:
        large = g.Resize(x, None, None, g.ints(*shape[:2], *(scale * n for n in shape[2:])), **resize)
    else:
        large = g.Resize(x, None, g.const([1, 1, scale, scale]), **resize)
    weight = g.const(rng.standard_normal((outputs, shape[1] // int(attributes.get("group", 1)), *kernel)))  # type: ignore[call-overload]
    operands = [large, weight, *([g.const(rng.standard_normal(outputs))] if bias else [])]
    return g.model(g.Conv(*operands, **attributes))


def bound(result: Outcome, products: int) -> float:
    """Weights below 4 are summed, so rounded, once more; all products' sums in either order."""
    return 2 * (products + 2) * EPS * products * 8 * 4


def test_a_doubling_takes_four_ninths() -> None:
    model = upsampled((1, 4, 5, 6), 2, HALF, pads=[1] * 4)
    result = outcome(model, ResizeConvToSubPixel())
    assert result.ops == {"Conv": 1, "DepthToSpace": 1, "Slice": 1}
    (convolution,) = (n for n in result.model.graph if n.op_type == "Conv")
    assert convolution.attributes.get_ints("kernel_shape") == (2, 2)
    assert result.moved() <= bound(result, 4 * 9)
    assert result.applied.rewritten[0].detail == "Conv of 2x2 to 12 channels, DepthToSpace"


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_setting(data: st.DataObject) -> None:
    draw = data.draw
    groups, scale = draw(st.integers(1, 2)), draw(st.integers(2, 4))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilations = [draw(st.integers(1, 2)) for _ in "hw"]
    shape = (
        draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        *(draw(st.integers(1, 5)) for _ in "hw"),
    )
    resize = draw(st.sampled_from([HALF, ASYMMETRIC, LINEAR]))
    attributes: dict[str, object] = {"group": groups, "dilations": dilations}
    if resize is not LINEAR:
        padding = draw(st.sampled_from(["pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
        if padding == "pads":
            attributes["pads"] = [draw(st.integers(0, 4)) for _ in range(4)]
        else:
            attributes["auto_pad"] = padding
            # ONNX Runtime, the reference here, has no dilation beside padding it works out itself.
            attributes["dilations"] = [1, 1] if padding != "VALID" else dilations
    try:
        model = upsampled(
            shape,
            scale,
            resize,
            outputs=groups * draw(st.integers(1, 2)),
            kernel=kernel,
            bias=draw(st.booleans()),
            sizes=draw(st.booleans()),
            **attributes,
        )
    except Exception:  # the kernel is larger than the picture
        assume(False)
    assume(min(int(str(d)) for d in model.graph.outputs[0].shape or ()) > 0)
    result = outcome(model, ResizeConvToSubPixel())
    assert "Resize" not in result.ops
    assert result.before["out0"].shape == result.after["out0"].shape
    assert result.moved() <= bound(result, shape[1] // groups * kernel[0] * kernel[1])


@pytest.mark.parametrize(
    ("resize", "scale", "attributes", "reason"),
    [
        (LINEAR, 2, {"pads": [1] * 4}, "linear upsampling repeats edges where the convolution pads zeros"),
        (
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            2,
            {},
            "coordinates align_corners aren't the same in every period of 2",
        ),
        ({"mode": "cubic"}, 2, {}, "mode cubic takes neighbours further off"),
        (
            {"mode": "nearest", "coordinate_transformation_mode": "align_corners"},
            3,
            {},
            "nearest by align_corners and round_prefer_floor doesn't repeat each pixel 3 times",
        ),
        (
            {**ASYMMETRIC, "nearest_mode": "ceil"},
            2,
            {},
            "nearest by asymmetric and ceil doesn't repeat each pixel 2 times",
        ),
        (HALF, 2, {"strides": [2, 2]}, "the convolution has a stride"),
    ],
)
def test_refused(resize: dict[str, str], scale: int, attributes: dict[str, list[int]], reason: str) -> None:
    applied = ResizeConvToSubPixel().run(upsampled((1, 2, 4, 5), scale, resize, **attributes))
    assert [site.detail for site in applied.refused] == [reason]
    assert not applied.changed


def test_other_factors_are_refused() -> None:
    for scales in ([1, 1, 1.5, 1.5], [1, 1, 2, 3]):
        g = GraphBuilder()
        large = g.Resize(g.input("x", 1, 2, 4, 4), None, g.const(scales), mode="nearest")
        (site,) = ResizeConvToSubPixel().run(g.model(g.Conv(large, g.const(np.ones((1, 2, 3, 3)))))).refused
        assert site.detail.endswith("isn't by one whole number")


def test_a_picture_with_other_uses_is_refused() -> None:
    g = GraphBuilder()
    large = g.Resize(g.input("x", 1, 2, 4, 4), None, g.const([1, 1, 2, 2]), mode="nearest")
    model = g.model(g.Conv(large, g.const(np.ones((1, 2, 3, 3)))), g.Relu(large))
    (site,) = ResizeConvToSubPixel().run(model).refused
    assert site.detail == "the upsampled picture has other uses"


def test_downsampling_is_left() -> None:
    g = GraphBuilder()
    small = g.Resize(g.input("x", 1, 2, 8, 8), None, g.const([1, 1, 0.5, 0.5]), mode="nearest")
    applied = ResizeConvToSubPixel().run(g.model(g.Conv(small, g.const(np.ones((1, 2, 3, 3))))))
    assert not applied.changed
    assert not applied.refused
