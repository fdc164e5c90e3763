"""Weighted sums: Conv and ConvTranspose in every shape, MatMul, Gemm and Einsum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from superlower.probes.case import Case, Tolerance
from superlower.probes.cases._build import (
    BF16,
    OPSET,
    Fed,
    Fixed,
    Floats,
    Input,
    Kind,
    kinds,
    probe,
    rounded,
    uniform,
    weights,
)
from superlower.probes.cases._taps import Window, windows

_BATCH = 2
_OUT = 4
_SIZES = {1: (11,), 2: (7, 9), 3: (4, 5, 6)}


@dataclass(frozen=True)
class _Form:
    """A convolution, transposed or not."""

    setting: str
    kernel: tuple[int, ...] = (3, 3)
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    group: int = 1
    channels: int = 2
    bias: bool = True
    auto_pad: str = ""
    fed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of the input image."""
        return _SIZES[len(self.kernel)]

    def window(self) -> Window:
        """With what isn't given filled in."""
        ones = (1,) * len(self.kernel)
        pads = self.pads or (0,) * 2 * len(self.kernel)
        return Window(self.kernel, self.strides or ones, self.dilations or ones, pads)

    def attributes(self) -> dict[str, Any]:
        """As ONNX has them."""
        names = ("strides", "dilations", "pads", "auto_pad", "output_padding", "output_shape")
        made = {name: getattr(self, name) for name in names if getattr(self, name)}
        return {"kernel_shape": self.kernel, "group": self.group, **made}


_CONVS = (
    _Form("plain", pads=(1, 1, 1, 1)),
    _Form("no-bias", pads=(1, 1, 1, 1), bias=False),
    _Form("pointwise", kernel=(1, 1)),
    _Form("kernel5x3", kernel=(5, 3), pads=(2, 1, 2, 1)),
    _Form("uneven-pads", pads=(0, 2, 1, 0)),
    _Form("strides", strides=(2, 3), pads=(1, 1, 1, 1)),
    _Form("dilations", dilations=(2, 3), pads=(2, 3, 2, 3)),
    _Form("groups", group=2, channels=4, pads=(1, 1, 1, 1)),
    _Form("depthwise", group=4, channels=4, pads=(1, 1, 1, 1)),
    _Form("groups-dilations", group=2, channels=4, dilations=(2, 2), pads=(2, 2, 2, 2)),
    _Form("same-upper", auto_pad="SAME_UPPER", kernel=(4, 3), strides=(2, 2)),
    _Form("same-lower", auto_pad="SAME_LOWER", kernel=(4, 3), strides=(2, 2)),
    _Form("valid", auto_pad="VALID", strides=(2, 1)),
    _Form("computed-weights", pads=(1, 1, 1, 1), fed=True),
    _Form("line", kernel=(3,), pads=(1, 1)),
    _Form("volume", kernel=(3, 3, 3), pads=(1,) * 6, channels=1),
)
_TRANSPOSES = (
    _Form("plain"),
    _Form("no-bias", bias=False),
    _Form("doubling", kernel=(4, 4), strides=(2, 2), pads=(1, 1, 1, 1)),
    _Form("strides-uneven", strides=(2, 3), pads=(1, 0, 0, 1)),
    _Form("dilations", dilations=(2, 3)),
    _Form("groups", group=2, channels=4, strides=(2, 2), pads=(1, 1, 1, 1)),
    _Form("output_padding", strides=(2, 2), pads=(1, 1, 1, 1), output_padding=(1, 1)),
    _Form("output_shape", strides=(2, 2), output_shape=(14, 17)),
    _Form("same-upper", strides=(2, 2), auto_pad="SAME_UPPER"),
    _Form("same-lower", strides=(2, 2), auto_pad="SAME_LOWER"),
    _Form("line", kernel=(4,), strides=(2,), pads=(1, 1)),
    _Form("volume", kernel=(2, 2, 2), strides=(2, 2, 2), channels=1),
)


def cases() -> Iterator[Case]:
    """All cases of sums of products."""
    for op, forms, case in (("Conv", _CONVS, _conv), ("ConvTranspose", _TRANSPOSES, _transpose)):
        for opset in (OPSET, 22):
            for kind in kinds(op, opset):
                # What is new at 22 is bf16.
                some = forms if opset == OPSET or kind is BF16 else forms[:1]
                yield from (case(form, opset, kind) for form in some)
    for kind in kinds("MatMul", OPSET):
        yield from _products(kind)
    for kind in kinds("Einsum", OPSET):
        yield from _einsums(kind)


def _sum_of_products(kind: Kind, terms: int, total: float) -> Tolerance:
    """A sum in any order: Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1.

    Its error is at most `terms` roundings of the sum of the |products|; multiplying and storing are 2 more.
    """
    return rounded(kind, terms + 2, total, f"a sum of {terms} products in any order")


def _inputs(form: _Form, kind: Kind, shape: tuple[int, ...], out: int) -> list[Input]:
    weight: Input = uniform(kind, *shape) if form.fed else weights(kind, *shape)
    inputs = [uniform(kind, _BATCH, form.channels, *form.sizes), weight]
    return [*inputs, weights(kind, out)] if form.bias else inputs


def _conv(form: _Form, opset: int, kind: Kind) -> Case:
    window = form.window()
    if form.auto_pad.startswith("SAME"):
        window = window.same(form.sizes, form.auto_pad == "SAME_UPPER")
    shape = (_OUT, form.channels // form.group, *form.kernel)
    terms = int(np.prod(shape[1:]))
    inputs = _inputs(form, kind, shape, _OUT)

    def reference(x: Floats, w: Floats, b: Floats | None = None) -> Floats:
        taken = windows(x, window, window.output(form.sizes), 0.0)
        grouped = taken.reshape(_BATCH, form.group, -1, *window.output(form.sizes))
        kernels = w.reshape(form.group, _OUT // form.group, -1)
        out: Floats = np.einsum("ngk...,gok->ngo...", grouped, kernels)
        out = out.reshape(_BATCH, _OUT, *window.output(form.sizes))
        return out if b is None else out + b.reshape(-1, *(1,) * len(form.kernel))

    tolerance = _sum_of_products(kind, terms + 1, _total(inputs, terms, 0))
    return probe(
        "Conv", form.setting, opset, kind, inputs, reference, tolerance, attributes=form.attributes()
    )


def _total(inputs: list[Input], terms: int, axis: int) -> float:
    """Largest sum of |weights|, and the bias, for an image in [-1, 1]; fed weights are up to 1 each."""
    weight = inputs[1]
    if isinstance(weight, Fixed):
        values = np.abs(weight.array.astype(np.float64))
        other = tuple(i for i in range(values.ndim) if i != axis)
        return float(values.sum(axis=other).max()) + (len(inputs) - 2)
    return float(terms + len(inputs) - 2)


def _transpose(form: _Form, opset: int, kind: Kind) -> Case:
    window, sizes = form.window(), form.sizes
    extra = form.output_padding or (0,) * len(sizes)
    full = [s * (n - 1) + e for s, n, e in zip(window.strides, sizes, window.extent, strict=True)]
    before = list(window.before)
    made = [f + o - b - a for f, o, b, a in zip(full, extra, before, window.after, strict=True)]
    if form.output_shape or form.auto_pad:
        made = list(form.output_shape) or [n * s for n, s in zip(sizes, window.strides, strict=True)]
        total = [max(f + o - m, 0) for f, o, m in zip(full, extra, made, strict=True)]
        # The text gives the odd pixel to the end for SAME_UPPER, and to the start otherwise.
        before = [t // 2 if form.auto_pad == "SAME_UPPER" else t - t // 2 for t in total]
    shape = (form.channels, _OUT // form.group, *form.kernel)
    inputs = _inputs(form, kind, shape, _OUT)

    def reference(x: Floats, w: Floats, b: Floats | None = None) -> Floats:
        parts = x.reshape(_BATCH, form.group, -1, *sizes)
        kernels = w.reshape(form.group, form.channels // form.group, *shape[1:])
        room = [max(f, b + m) for f, b, m in zip(full, before, made, strict=True)]
        out = np.zeros((_BATCH, form.group, _OUT // form.group, *room))
        for tap in np.ndindex(*form.kernel):
            place = tuple(
                slice(t * d, t * d + (n - 1) * s + 1, s)
                for t, d, n, s in zip(tap, window.dilations, sizes, window.strides, strict=True)
            )
            kernel = kernels[(slice(None), slice(None), slice(None), *tap)]
            out[(slice(None), slice(None), slice(None), *place)] += np.einsum(
                "ngc...,gco->ngo...", parts, kernel
            )
        out = out.reshape(_BATCH, _OUT, *room)
        kept = tuple(slice(b, b + m) for b, m in zip(before, made, strict=True))
        out = out[(slice(None), slice(None), *kept)]
        return out if b is None else out + b.reshape(-1, *(1,) * len(sizes))

    # No output sees more than the whole kernel of every channel of its group.
    terms = int(np.prod(form.kernel)) * form.channels // form.group
    weight = inputs[1]
    assert isinstance(weight, Fixed)
    grouped = np.abs(weight.array.astype(np.float64)).reshape(form.group, -1, *shape[1:])
    total_weight = float(grouped.sum(axis=(1, *range(3, grouped.ndim))).max()) + form.bias
    return probe(
        "ConvTranspose",
        form.setting,
        opset,
        kind,
        inputs,
        reference,
        _sum_of_products(kind, terms + 1, total_weight),
        attributes=form.attributes(),
    )


def _products(kind: Kind) -> Iterator[Case]:
    def case(op: str, setting: str, inputs: list[Input], apply: Callable[..., Floats], **given: Any) -> Case:
        tolerance = _sum_of_products(kind, 7, 7.0)
        return probe(op, setting, OPSET, kind, inputs, apply, tolerance, attributes=given)

    left, right = uniform(kind, 5, 6), uniform(kind, 6, 4)
    yield case("MatMul", "plain", [left, right], np.matmul)
    yield case("MatMul", "weights", [left, weights(kind, 6, 4)], np.matmul)
    yield case("MatMul", "batch", [uniform(kind, 2, 3, 5, 6), uniform(kind, 3, 6, 4)], np.matmul)
    bias = weights(kind, 4)
    yield case("Gemm", "plain", [left, weights(kind, 6, 4), bias], lambda a, b, c: a @ b + c)
    yield case("Gemm", "no-bias", [left, weights(kind, 6, 4)], np.matmul)
    yield case("Gemm", "transB", [left, weights(kind, 4, 6), bias], lambda a, b, c: a @ b.T + c, transB=1)
    turned: list[Input] = [uniform(kind, 6, 5), weights(kind, 6, 4), bias]
    yield case("Gemm", "transA", turned, lambda a, b, c: a.T @ b + c, transA=1)
    both: list[Input] = [uniform(kind, 6, 5), weights(kind, 4, 6), weights(kind, 5, 4)]

    def scaled(a: Floats, b: Floats, c: Floats) -> Floats:
        return 0.5 * (a.T @ b.T) + 0.25 * c

    yield case("Gemm", "transA-transB-scaled", both, scaled, transA=1, transB=1, alpha=0.5, beta=0.25)


_EINSUMS: dict[str, tuple[str, tuple[tuple[int, ...], ...], int]] = {
    # equation, shapes, terms summed
    "matmul": ("ij,jk->ik", ((5, 6), (6, 4)), 6),
    "batch": ("bij,bjk->bik", ((2, 5, 6), (2, 6, 4)), 6),
    "transposed": ("bhid,bhjd->bhij", ((2, 2, 4, 5), (2, 2, 3, 5)), 5),
    "channels": ("bchw,oc->bohw", ((2, 3, 4, 5), (4, 3)), 3),
    "dot": ("i,i->", ((7,), (7,)), 7),
    "outer": ("i,j->ij", ((4,), (5,)), 1),
    "transpose": ("bij->bji", ((2, 4, 5),), 1),
    "sum": ("bij->b", ((2, 3, 4),), 12),
    "diagonal": ("bii->bi", ((2, 4, 4),), 1),
    "ellipsis": ("...ij,...jk->...ik", ((2, 3, 4, 5), (2, 3, 5, 4)), 5),
    "implicit": ("ij,jk", ((5, 6), (6, 4)), 6),
    "three": ("ij,jk,kl->il", ((3, 4), (4, 3), (3, 5)), 12),
}


def _einsums(kind: Kind) -> Iterator[Case]:
    for setting, (equation, shapes, terms) in _EINSUMS.items():
        inputs: list[Fed] = [uniform(kind, *shape) for shape in shapes]

        def apply(*arrays: Floats, equation: str = equation) -> Floats:
            return np.asarray(einsum(equation, *arrays))

        tolerance = _sum_of_products(kind, terms + len(shapes) - 1, float(terms))
        given = {"equation": equation}
        yield probe("Einsum", setting, OPSET, kind, inputs, apply, tolerance, attributes=given)


def einsum(equation: str, *arrays: Floats) -> Floats:
    """The sum an equation tells of, in float64; the text follows numpy's einsum."""
    found: Floats = np.einsum(equation, *arrays)
    return found
