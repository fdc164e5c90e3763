"""Our references against two others that were written apart from them: ONNX's own evaluator, and PyTorch."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from superlower.ir import serialize
from superlower.probes.case import Case
from superlower.probes.cases import cases
from support.probes import feeds_of

# What ONNX's evaluator (1.23) does otherwise than the operators' texts, or can't do, by the case's name.
AT_ODDS = {
    # Clamps the position before it takes the four cubic taps. "Use border values for out-of-bound grid
    # locations" allows that, but PyTorch, to which the text refers, ONNX Runtime and OpenVINO clamp each tap.
    "GridSample/cubic-border": "clamps positions",
    # Takes `length_resized` to be the fractional length, not the resized tensor's.
    "Resize/nearest-align_corners-fractional": "fractional length",
    "Resize/linear-align_corners-fractional": "fractional length",
    "Resize/cubic-align_corners-fractional": "fractional length",
    "ConvTranspose/groups/": "fails",
    "ConvTranspose/output_shape/": "fails",
    "MaxPool/same-lower/": "another shape than the text's",
    "Pad/cut/": "fails: no negative pads",
    # Concatenates what the rounds give along their first axis, instead of a new one.
    "Loop/": "scan outputs",
}
NOT_IMPLEMENTED = {"GridSample/16", "DequantizeLinear/13"}


def evaluated(case: Case) -> bool:
    """fp32 and integers: the evaluator computes in the case's own type, and DeformConv takes it seconds."""
    op, setting, opset, dtype = case.name.split("/")
    return (
        dtype not in ("fp16", "bf16")
        and f"{op}/{opset}" not in NOT_IMPLEMENTED
        and not (op == "Resize" and opset == "18")
        and (op != "DeformConv" or (setting, opset) in (("everything", "19"), ("plain", "19")))
    )


@pytest.mark.parametrize("op", sorted({case.op for case in cases()}))
def test_onnx_evaluator(op: str) -> None:
    from onnx.reference import ReferenceEvaluator

    for case in filter(evaluated, cases([op], large=False)):
        odd = any(case.name.startswith(name) for name in AT_ODDS)
        feeds = feeds_of(case)
        try:
            session = ReferenceEvaluator(onnx.load_from_string(serialize(case.model())))
            found = dict(zip(session.output_names, session.run(None, dict(feeds)), strict=True))
            error = case.error(feeds, {name: np.asarray(array) for name, array in found.items()})
        except (ValueError, RuntimeError):
            error = np.inf
        # Those at odds must be so still: a newer ONNX may come round, and the list is then too long.
        assert (error > case.tolerance.absolute) == odd, f"{case.name}: {error}"


torch = pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")


def chosen(op: str, dtype: str = "fp32") -> list[tuple[Case, dict[str, object], dict[str, torch.Tensor]]]:
    """Cases of an operator with their attributes, and their inputs in float64 as PyTorch has them."""
    found = []
    for case in cases([op], large=False):
        if not case.name.endswith(f"/{dtype}"):
            continue
        model = case.model()
        node = next(node for node in model.graph if node.op_type == op)
        given = {name: attribute.value for name, attribute in node.attributes.items()}
        arrays = {}
        for i, value in enumerate(node.inputs):
            if value is not None:
                held = value.const_value
                array = feeds_of(case)[f"in{i}"] if held is None else held.numpy()
                arrays[f"in{i}"] = torch.from_numpy(array.astype(np.float64))
        found.append((case, given, arrays))
    return found


def same(case: Case, found: torch.Tensor) -> None:
    expected = case.expected(feeds_of(case))["out0"]
    assert found.shape == expected.shape, case.name
    # Both are float64; the largest position, 300 pixels, costs it 2^-44 of one.
    assert float(np.abs(found.numpy() - expected).max()) < 1e-10, case.name


def test_torch_grid_sample() -> None:
    names = {"linear": "bilinear", "cubic": "bicubic"}
    cubic_volumes = 0
    for case, given, arrays in chosen("GridSample"):
        mode = str(given["mode"])
        if mode == "cubic" and arrays["in0"].ndim == 5:
            cubic_volumes += 1
            continue  # PyTorch has none.
        same(
            case,
            torch.nn.functional.grid_sample(
                arrays["in0"],
                arrays["in1"],
                mode=names.get(mode, mode),
                padding_mode=str(given["padding_mode"]),
                align_corners=bool(given["align_corners"]),
            ),
        )
    assert cubic_volumes == 12


RESIZES = {
    # Our case -> interpolate's mode, align_corners, antialias. PyTorch antialiases from inside the image
    # only, and its cubic kernel then has another coefficient.
    **{
        f"{mode}-{transformation}{size}": (mode, transformation == "align_corners", False)
        for mode in ("linear", "cubic")
        for transformation in ("half_pixel", "align_corners")
        for size in ("", "-sizes", "-half")
    },
    "linear-half_pixel-antialias-exclude_outside-half": ("linear", False, True),
    "linear-half_pixel-antialias-exclude_outside-sizes": ("linear", False, True),
    "linear-half_pixel-antialias-exclude_outside-up": ("linear", False, True),
}


def test_torch_resizes() -> None:
    found = {}
    for case in cases(["Resize"], large=False):
        _, setting, opset, dtype = case.name.split("/")
        if (opset, dtype) != ("19", "fp32") or setting not in RESIZES:
            continue
        mode, corners, antialias = RESIZES[setting]
        feeds = feeds_of(case)
        found[setting] = torch.nn.functional.interpolate(
            torch.from_numpy(feeds["in0"].astype(np.float64)),
            size=case.expected(feeds)["out0"].shape[2:],
            mode={"linear": "bilinear", "cubic": "bicubic"}[mode],
            align_corners=None if antialias else corners,
            antialias=antialias,
        )
        same(case, found[setting])
    assert set(found) == set(RESIZES)


def test_torch_convolutions() -> None:
    functional = torch.nn.functional
    for case, given, arrays in chosen("Conv"):
        if "auto_pad" in given:
            continue
        axes = arrays["in0"].ndim - 2
        pads = list(given.get("pads", [0] * 2 * axes))  # type: ignore[call-overload]
        around = [n for axis in reversed(range(axes)) for n in (pads[axis], pads[axes + axis])]
        convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[axes - 1]
        found = convolve(
            functional.pad(arrays["in0"], around),
            arrays["in1"],
            arrays.get("in2"),
            stride=given.get("strides", 1),
            dilation=given.get("dilations", 1),
            groups=given["group"],
        )
        same(case, found)
    for case, given, arrays in chosen("ConvTranspose"):
        axes = arrays["in0"].ndim - 2
        pads = list(given.get("pads", [0] * 2 * axes))  # type: ignore[call-overload]
        if "auto_pad" in given or "output_shape" in given or pads[:axes] != pads[axes:]:
            continue
        names = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
        found = getattr(functional, names[axes - 1])(
            arrays["in0"],
            arrays["in1"],
            arrays.get("in2"),
            stride=given.get("strides", 1),
            padding=pads[:axes],
            output_padding=given.get("output_padding", 0),
            groups=given["group"],
            dilation=given.get("dilations", 1),
        )
        same(case, found)


def test_torch_average_pools() -> None:
    checked = 0
    for case, given, arrays in chosen("AveragePool"):
        pads = list(given.get("pads", [0, 0, 0, 0]))  # type: ignore[call-overload]
        if arrays["in0"].ndim != 4 or "dilations" in given or "auto_pad" in given or pads[:2] != pads[2:]:
            continue
        found = torch.nn.functional.avg_pool2d(
            arrays["in0"],
            given["kernel_shape"],
            stride=given.get("strides", 1),
            padding=pads[:2],
            ceil_mode=bool(given.get("ceil_mode", 0)),
            count_include_pad=bool(given.get("count_include_pad", 0)),
        )
        same(case, found)
        checked += 1
    assert checked >= 8


def test_torch_pixel_shuffles() -> None:
    shuffle = torch.nn.functional.pixel_shuffle
    for case, given, arrays in chosen("DepthToSpace"):
        if given["mode"] == "CRD":
            same(case, shuffle(arrays["in0"], int(given["blocksize"])))  # type: ignore[call-overload]


def test_torch_norms() -> None:
    functional = torch.nn.functional
    for case, _, arrays in chosen("InstanceNormalization"):
        same(
            case, functional.instance_norm(arrays["in0"], weight=arrays["in1"], bias=arrays["in2"], eps=1e-5)
        )
    for case, _, arrays in chosen("LayerNormalization"):
        shape = arrays["in1"].shape
        same(case, functional.layer_norm(arrays["in0"], shape, arrays["in1"], arrays.get("in2"), eps=1e-5))
    for case, _, arrays in chosen("GroupNormalization"):
        same(case, functional.group_norm(arrays["in0"], 2, arrays["in1"], arrays["in2"], eps=1e-5))
