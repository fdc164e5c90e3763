"""Resize: modes, coordinate transformations, roundings, whole and fractional sizes, antialiasing, 4K."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from superlower.probes.case import Array, Arrays, Case, Tolerance
from superlower.probes.cases._build import (
    BF16,
    FP16,
    FP32,
    Draft,
    Fixed,
    Floats,
    Input,
    Kind,
    feeder,
    fixed,
    ints,
    kinds,
    named,
    probe,
    uniform,
)
from superlower.probes.cases._resampling import Axis, Resampling, matrix, resize
from superlower.probes.cases._sampling import CUBIC_SLOPE

MODES = ("nearest", "linear", "cubic")
TRANSFORMATIONS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")

# Odd sizes: even ones would put a pixel of an odd output just between two, by arithmetic that rounds.
_SHAPE = (2, 3, 7, 9)
_WIDE = (1, 1, 8, 1920)


@dataclass(frozen=True)
class _Form:
    """One setting. Factors and sizes are those of the last axes."""

    setting: str
    how: Resampling
    scales: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    shape: tuple[int, ...] = _SHAPE
    only_axes: bool = False
    policy: str = ""
    region: tuple[tuple[float, float], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def axes(self) -> list[Axis]:
        """What happens to each axis. Scales are read as the fp32 numbers that the model holds."""
        given = len(self.scales or self.sizes)
        made = [Axis(n, n, 1.0, float(n)) for n in self.shape[:-given]]
        resized = self.shape[-given:]
        common = None
        if self.policy:
            choose = min if self.policy == "not_larger" else max
            common = choose(size / old for size, old in zip(self.sizes, resized, strict=True))
        for index, old in enumerate(resized):
            start, end = self.region[index] if self.region else (0.0, 1.0)
            if self.scales:
                scale = float(np.float32(self.scales[index]))
                target = old * scale
                # The text takes the region of interest into the output's size.
                new = int(np.floor(old * (end - start) * scale))
            elif common is not None:
                scale, target = common, old * common
                new = int(np.floor(target + 0.5))
            else:
                new = self.sizes[index]
                scale, target = new / old, float(new)
            made.append(Axis(old, new, scale, target, start, end))
        return made


def cases() -> Iterator[Case]:
    """All of Resize's cases."""
    for opset in (13, 18, 19):
        for kind in kinds("Resize", opset):
            for form in _forms(opset, kind):
                yield _case(form, opset, kind)
    for mode in ("nearest", "linear"):
        yield _computed_sizes(mode)
    for mode, transformation in itertools.product(MODES, ("half_pixel", "align_corners", "asymmetric")):
        form = _Form(f"{mode}-{transformation}", Resampling(mode, transformation), scales=(1, 2), shape=_WIDE)
        if mode == "nearest" and transformation == "align_corners":
            continue  # 1919 / 3839 of a pixel apart: some lie so near to halves that any rounding decides.
        for kind in (FP32, FP16):
            yield _case(form, 19, kind, large=True)


def _forms(opset: int, kind: Kind) -> Iterator[_Form]:
    if kind is BF16:
        yield from (_Form(f"{m}-half_pixel", Resampling(m), scales=(2, 2)) for m in MODES)
        return
    for mode, transformation in itertools.product(MODES, TRANSFORMATIONS):
        if transformation == "half_pixel_symmetric" and opset < 19:
            continue
        how, name = Resampling(mode, transformation), f"{mode}-{transformation}"
        yield _Form(name, how, scales=(2, 2))
        yield _Form(f"{name}-sizes", how, sizes=(11, 13))
        if opset == 19 or kind is FP32:
            yield _Form(f"{name}-fractional", how, scales=(1.46, 1.61))
        if opset == 19 and kind is FP32:
            yield _Form(f"{name}-half", how, scales=(0.5, 0.5), shape=(2, 3, 8, 12))
            yield _Form(f"{name}-fractional-down", how, scales=(0.63, 0.71))
    if kind is FP32:
        yield from _roundings()
        yield from _options(opset)
    if opset >= 18:
        yield from _antialias()
        yield from _axes()
    if opset == 19 and kind is FP32:
        yield from _others()


def _roundings() -> Iterator[_Form]:
    """Nearest pixels: positions on and between pixels, for sizes that are exact in binary."""
    for rounding, transformation in itertools.product(ROUNDINGS, ("half_pixel", "asymmetric")):
        how = Resampling("nearest", transformation, nearest_mode=rounding)
        yield _Form(f"nearest-{rounding}-{transformation}", how, scales=(2, 2))
        yield _Form(f"nearest-{rounding}-{transformation}-half", how, scales=(0.5, 0.5), shape=(1, 2, 8, 10))
    for rounding in ROUNDINGS:
        how = Resampling("nearest", "align_corners", nearest_mode=rounding)
        yield _Form(f"nearest-{rounding}-align_corners", how, sizes=(9, 17), shape=(1, 2, 5, 9))


def _options(opset: int) -> Iterator[_Form]:
    for transformation in ("half_pixel", "align_corners"):
        how = Resampling("cubic", transformation, exclude_outside=True)
        yield _Form(f"cubic-{transformation}-exclude_outside", how, scales=(2, 2))
    how = Resampling("cubic", cubic_coeff_a=-0.5)
    yield _Form("cubic-half_pixel-keys", how, scales=(2, 2))
    for mode in ("nearest", "linear"):
        how = Resampling(mode, "tf_crop_and_resize", extrapolation_value=0.5)
        region = ((0.13, 0.77), (-0.21, 1.16))
        yield _Form(f"{mode}-tf_crop_and_resize", how, sizes=(5, 12), region=region)
    if opset == 13:
        return
    for policy, mode in itertools.product(("not_larger", "not_smaller"), ("nearest", "linear")):
        # Of 7x9, factors 11/7 and 15/9 or 16/9: neither output is the other factor's.
        form = _Form(f"{mode}-{policy}", Resampling(mode), sizes=(11, 16), only_axes=True, policy=policy)
        yield form


def _antialias() -> Iterator[_Form]:
    for mode, inside in itertools.product(("linear", "cubic"), (False, True)):
        how = Resampling(mode, antialias=True, exclude_outside=inside)
        name = f"{mode}-half_pixel-antialias{'-exclude_outside' if inside else ''}"
        yield _Form(f"{name}-half", how, scales=(0.5, 0.5), shape=(2, 3, 8, 12))
        yield _Form(f"{name}-sizes", how, sizes=(3, 4))
        yield _Form(f"{name}-up", how, scales=(2, 2))
    how = Resampling("cubic", antialias=True)
    yield _Form("cubic-half_pixel-antialias-fractional-down", how, scales=(0.45, 0.71))


def _axes() -> Iterator[_Form]:
    for mode in ("nearest", "linear"):
        yield _Form(f"{mode}-half_pixel-axes", Resampling(mode), scales=(2, 2), only_axes=True)
        yield _Form(f"{mode}-half_pixel-axes-sizes", Resampling(mode), sizes=(11, 13), only_axes=True)


def _others() -> Iterator[_Form]:
    for mode in MODES:
        how = Resampling(mode)
        yield _Form(f"{mode}-half_pixel-line", how, scales=(2,), shape=(2, 3, 9))
        yield _Form(f"{mode}-half_pixel-volume", how, scales=(2, 2, 2), shape=(1, 2, 3, 5, 4))
        yield _Form(f"{mode}-half_pixel-x3", how, scales=(3, 3))
        yield _Form(f"{mode}-half_pixel-x4", how, scales=(4, 4))
    for mode in ("nearest", "linear"):
        how = Resampling(mode, "pytorch_half_pixel")
        yield _Form(f"{mode}-pytorch_half_pixel-to-one", how, sizes=(1, 13))


def _case(form: _Form, opset: int, kind: Kind, large: bool = False) -> Case:
    axes = form.axes()
    given = len(form.scales or form.sizes)
    idle = len(form.shape) - given
    regions = [(a.start, a.end) for a in axes]
    roi = fixed(kind, [*(r[0] for r in regions), *(r[1] for r in regions)]) if form.region else None
    scales: Input = None
    sizes: Input = None
    lead = 0 if form.only_axes else idle
    if form.scales:
        scales = Fixed(np.array([1.0] * lead + list(form.scales), np.float32))
    else:
        sizes = ints(*form.shape[:lead], *form.sizes)
    if roi is not None:
        # The region is a constant in the case's own type: positions follow the rounded numbers.
        low, high = np.split(roi.array.astype(np.float64), 2)
        axes = [
            Axis(a.old, a.new, a.scale, a.target, float(start), float(end))
            for a, start, end in zip(axes, low, high, strict=True)
        ]

    def reference(x: Floats, *_: object) -> Floats:
        return resize(x, axes, form.how)

    inputs = [uniform(kind, *form.shape, low=0.0), roi, scales, sizes]
    while inputs[-1] is None:
        inputs.pop()
    return probe(
        "Resize",
        form.setting,
        opset,
        kind,
        inputs,
        reference,
        _tolerance(axes, form.how, kind),
        attributes=_attributes(form, idle, given),
        large=large,
    )


def _attributes(form: _Form, idle: int, given: int) -> dict[str, Any]:
    how = form.how
    made: dict[str, Any] = {
        "mode": how.mode,
        "coordinate_transformation_mode": how.coordinate_transformation_mode,
    }
    if how.mode == "nearest":
        made["nearest_mode"] = how.nearest_mode
    if how.cubic_coeff_a != Resampling.cubic_coeff_a:
        made["cubic_coeff_a"] = how.cubic_coeff_a
    if how.exclude_outside:
        made["exclude_outside"] = 1
    if how.antialias:
        made["antialias"] = 1
    if how.extrapolation_value:
        made["extrapolation_value"] = how.extrapolation_value
    if form.only_axes:
        made["axes"] = list(range(idle, idle + given))
    if form.policy:
        made["keep_aspect_ratio_policy"] = form.policy
    return made


def _computed_sizes(mode: str) -> Case:
    """Sizes that nodes compute from the input's own shape, as exporters write them."""
    image = uniform(FP32, *_SHAPE, low=0.0)
    how = Resampling(mode, "asymmetric", nearest_mode="floor")
    axes = [Axis(n, n * f, float(f), float(n * f)) for n, f in zip(_SHAPE, (1, 1, 2, 2), strict=True)]

    def model() -> ir.Model:
        draft = Draft()
        x = draft.input("in0", image)
        shape = draft.add("Shape", x)[0]
        sizes = draft.add("Mul", shape, draft.constant(ints(1, 1, 2, 2)))[0]
        attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
        if mode == "nearest":
            attributes["nearest_mode"] = "floor"
        return draft.model(draft.add("Resize", x, None, None, sizes, **attributes), 19)

    def reference(arrays: Arrays) -> dict[str, Array]:
        return {"out0": resize(arrays["in0"].astype(np.float64), axes, how)}

    name = named("Resize", f"{mode}-asymmetric-computed-sizes", 19, "fp32")
    return Case(name, "Resize", model, feeder({"in0": image}), reference, _tolerance(axes, how, FP32))


def _tolerance(axes: list[Axis], how: Resampling, kind: Kind) -> Tolerance:
    """What Resize may err by on an image in [0, 1]."""
    moved = [axis for axis in axes if axis.scale != 1 or axis.start != 0]
    if how.mode == "nearest":
        return Tolerance(0.0, "pixels are copied, from positions that no rounding moves to another pixel")
    weights = [matrix(axis, how) for axis in moved]
    gain = float(np.prod([np.abs(w).sum(axis=1).max() for w in weights]))
    terms = int(sum(np.count_nonzero(w, axis=1).max() for w in weights))
    # A weight takes up to 6 roundings (the cubic by Horner's rule), its normalization 2.
    rounding = (terms + 8 * len(moved)) * kind.roundoff * gain
    # A position is 5 roundings of numbers no larger than the longer of the lengths: of whole indices and a
    # scale that is fp32 whatever the image's type.
    longest = max(max(axis.old, axis.new) for axis in moved)
    position = 5 * FP32.roundoff * (longest + 1)
    # Pixels in [0, 1] differ by at most 1, and weights' derivatives sum to 0.
    slope = gain * (CUBIC_SLOPE / 2 if how.mode == "cubic" else 1.0)
    return Tolerance(
        rounding + len(moved) * slope * position,
        f"{rounding:.1e} for rounding {terms} terms, and {position:.1e} px off along each of {len(moved)} "
        f"axes, where an image in [0, 1] changes by up to {slope:.2g} a pixel",
    )
