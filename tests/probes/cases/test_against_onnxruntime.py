"""Every case in ONNX Runtime: what it runs is right, what it refuses is known, broken models are found."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir
import pytest

from superlower.probes.case import Case
from superlower.probes.cases import cases
from support.probes import feeds_of, run

# In fp32 and in integers ONNX Runtime's CPU kernels lack nothing else.
REFUSED = {
    "Resize/cubic-half_pixel-line/19/fp32": "'Cubic' mode only support",
    "Resize/cubic-half_pixel-volume/19/fp32": "'Cubic' mode only support",
    **{
        f"GridSample/cubic-{padding}{aligned}-volume/{opset}/fp32": "GridSample Cubic mode in 4-D"
        for padding in ("zeros", "border", "reflection")
        for aligned in ("", "-corners")
        for opset in (20, 22)
    },
}


@pytest.mark.parametrize("op", sorted({case.op for case in cases()}))
def test_what_it_runs_is_right(op: str) -> None:
    verdicts, refusals = Counter[str](), dict[str, str]()
    for case in cases([op], large=False):
        feeds = feeds_of(case)
        ran = run(case.model(), feeds)
        dtype = case.name.split("/")[3]
        if ran.refusal:
            verdicts[f"{dtype} refused"] += 1
            refusals[case.name] = ran.refusal
            continue
        verdicts[f"{dtype} right"] += 1
        error = case.error(feeds, ran.outputs)
        assert error <= case.tolerance.absolute, f"{case.name}: {error}, {case.tolerance}"
    print(op, dict(verdicts))
    for name, refusal in refusals.items():
        if "fp16" not in name and "bf16" not in name:
            assert REFUSED.get(name, "?") in refusal, f"{name}: {refusal}"


def test_a_grid_in_fp16_misses_4k_by_tenths_and_an_fp32_island_does_not() -> None:
    for case in cases(["GridSample"], large=True):
        feeds = feeds_of(case)
        error = case.error(feeds, run(case.model(), feeds).outputs)
        naive = "/warp-" in case.name and "island" not in case.name and "fp16" in case.name
        if naive:
            # Half a pixel of an image whose neighbours differ by up to 1.
            assert error > 0.2, case.name
        else:
            assert error <= case.tolerance.absolute, case.name


def test_wide_frames_are_resized_right() -> None:
    for case in cases(["Resize"], large=True):
        feeds = feeds_of(case)
        assert case.error(feeds, run(case.model(), feeds).outputs) <= case.tolerance.absolute, case.name


def _named(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


MUTATIONS: list[tuple[str, str, object]] = [
    ("GridSample/bilinear-zeros/16/fp32", "mode", "nearest"),
    ("GridSample/bilinear-zeros/16/fp16", "mode", "nearest"),
    ("GridSample/linear-zeros/20/fp32", "mode", "nearest"),
    ("GridSample/linear-zeros/20/fp16", "mode", "nearest"),
    ("GridSample/linear-zeros/20/fp32", "mode", "cubic"),
    ("GridSample/linear-zeros/20/fp32", "padding_mode", "border"),
    ("GridSample/linear-border/20/fp32", "padding_mode", "reflection"),
    ("GridSample/linear-reflection/20/fp16", "padding_mode", "zeros"),
    ("GridSample/linear-border/20/fp32", "align_corners", 1),
    ("GridSample/linear-border-corners/20/fp16", "align_corners", 0),
    ("GridSample/nearest-zeros-corners/20/fp32", "align_corners", 0),
    ("DeformConv/offset-groups/19/fp32", "pads", [0, 2, 2, 0]),
    ("DeformConv/uneven-pads/19/fp32", "pads", [1, 0, 0, 2]),
    ("Resize/linear-half_pixel/19/fp32", "coordinate_transformation_mode", "asymmetric"),
    ("Resize/linear-half_pixel/19/fp16", "coordinate_transformation_mode", "align_corners"),
    ("Resize/cubic-half_pixel/19/fp32", "cubic_coeff_a", -0.5),
    ("Resize/cubic-half_pixel/19/fp32", "exclude_outside", 1),
    ("Resize/nearest-half_pixel-sizes/19/fp32", "nearest_mode", "floor"),
    ("Resize/linear-half_pixel-antialias-half/19/fp32", "antialias", 0),
    ("Resize/linear-tf_crop_and_resize/19/fp32", "extrapolation_value", 0.0),
    ("DepthToSpace/DCR-x2/19/fp32", "mode", "CRD"),
    ("AveragePool/pads/19/fp32", "count_include_pad", 1),
    ("Conv/uneven-pads/19/fp32", "pads", [1, 0, 0, 2]),
    ("ConvTranspose/strides-uneven/19/fp32", "pads", [0, 1, 1, 0]),
    ("ConvTranspose/same-upper/19/fp32", "auto_pad", "SAME_LOWER"),
    ("LeakyRelu/plain/19/fp16", "alpha", 0.2),
    ("ScatterElements/add-plain/19/fp32", "reduction", "max"),
    ("ScatterND/add-elements/19/fp32", "reduction", "none"),
    ("InstanceNormalization/plain/19/fp32", "epsilon", 1e-2),
    ("Pad/reflect/19/fp32", "mode", "edge"),
    ("Softmax/last/19/fp32", "axis", 1),
]


@pytest.mark.parametrize(("name", "attribute", "value"), MUTATIONS)
def test_a_kernel_that_takes_one_attribute_for_another_is_wrong(
    name: str, attribute: str, value: object
) -> None:
    case = _named(name)
    feeds = feeds_of(case)
    model = case.model()
    node = next(node for node in model.graph if node.op_type == case.op)
    node.attributes[attribute] = ir.convenience.convert_attribute(attribute, value)  # type: ignore[arg-type]
    ran = run(model, feeds)
    assert not ran.refusal
    assert case.error(feeds, ran.outputs) > case.tolerance.absolute


def test_swapped_flow_components_are_found() -> None:
    for name in ("DeformConv/plain/19/fp32", "DeformConv/plain/19/fp16"):
        case = _named(name)
        feeds = feeds_of(case)
        offset = feeds["in2"].reshape(2, 9, 2, *feeds["in2"].shape[2:])
        swapped = {**feeds, "in2": offset[:, :, ::-1].reshape(feeds["in2"].shape)}
        assert case.error(feeds, run(case.model(), swapped).outputs) > case.tolerance.absolute
