"""What EGVSR (Cao et al., IEEE TIP 2021) weighs against one another, as small graphs and as networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from superlower.driver.small_graphs import CHANNELS, SmallGraph

LAYERS = 4
"""Convolutions in a row where a batch norm follows each: one alone is over too soon to be timed."""


@dataclass(frozen=True)
class Case:
    """One of several forms of one thing.

    Attributes:
        group: the thing; forms of a group are compared with its first.
        name: the form.
        build: its graph.
    """

    group: str
    name: str
    build: Callable[[SmallGraph], ir.Value]


@dataclass(frozen=True)
class Network:
    """A network of the zoo with seeded weights.

    Attributes:
        name: in tables.
        model: its frontend.
        options: of it.
    """

    name: str
    model: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What was published of a form or network.

    Attributes:
        group, name: of which.
        text: the claim.
        ratio: how many times as fast as the first of its group, where that was given.
    """

    group: str
    name: str
    text: str
    ratio: float | None = None


UPSAMPLING = "upsampling x2 of 64 channels"
NORM = f"{LAYERS} convolutions with batch norms"
CONVOLUTION = "3x3 convolution of 64 channels"
NETWORKS_GROUP = "networks"


def _resized(g: SmallGraph) -> ir.Value:
    large = g.add("Resize", g.x, None, g.constant([1, 1, 2, 2]), mode="nearest")
    return g.add("Conv", large, g.weight(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)


def _transposed(g: SmallGraph) -> ir.Value:
    weight = g.weight(CHANNELS, CHANNELS, 3, 3)
    return g.add("ConvTranspose", g.x, weight, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])


def _sub_pixel(g: SmallGraph) -> ir.Value:
    wide = g.add("Conv", g.x, g.weight(4 * CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)
    return g.add("DepthToSpace", wide, blocksize=2, mode="CRD")


def _row(norm: Callable[[SmallGraph, ir.Value, int], ir.Value] | None) -> Callable[[SmallGraph], ir.Value]:
    """Convolutions, each with its norm; None for one that is in their weights and biases already."""

    def build(g: SmallGraph) -> ir.Value:
        value = g.x
        for index in range(LAYERS):
            weight = g.weight(CHANNELS, CHANNELS, 3, 3)
            if norm is None:
                shift = g.constant(g.rng.standard_normal(CHANNELS))
                value = g.add("Conv", value, weight, shift, pads=[1] * 4)
            else:
                value = norm(g, g.add("Conv", value, weight, pads=[1] * 4), index)
            value = g.add("Relu", value)
        return value

    return build


def _unfolded(g: SmallGraph, x: ir.Value, index: int) -> ir.Value:
    """Scale and shift as inputs, or the SDK would fold them."""
    return g.add("Add", g.add("Mul", x, g.given(f"scale{index}")), g.given(f"shift{index}"))


def _pointwise(g: SmallGraph, x: ir.Value, index: int) -> ir.Value:
    """A diagonal 1x1 convolution, which is how the paper folds it into its matrix product."""
    scale = np.diag(g.rng.uniform(0.5, 2, CHANNELS)).reshape(CHANNELS, CHANNELS, 1, 1)
    return g.add("Conv", x, g.constant(scale), g.constant(g.rng.standard_normal(CHANNELS)))


def _direct(g: SmallGraph) -> ir.Value:
    return g.add("Conv", g.x, g.weight(CHANNELS, CHANNELS, 3, 3), pads=[1] * 4)


def _im2col(g: SmallGraph) -> ir.Value:
    """Nine shifted copies side by side, [1, 9 C, H W], and one product with the weights [C, 9 C]."""
    assert g.x.shape is not None
    height, width = (int(size) for size in g.x.shape[2:])  # type: ignore[arg-type]
    padded = g.add("Pad", g.x, g.integers(0, 0, 1, 1, 0, 0, 1, 1))
    axes = g.integers(2, 3)
    taps = [
        g.add("Slice", padded, g.integers(y, x), g.integers(y + height, x + width), axes)
        for y in range(3)
        for x in range(3)
    ]
    columns = g.add("Reshape", g.add("Concat", *taps, axis=1), g.integers(1, 9 * CHANNELS, height * width))
    made = g.add("MatMul", g.weight(CHANNELS, 9 * CHANNELS), columns)
    return g.add("Reshape", made, g.integers(1, CHANNELS, height, width))


CASES = (
    Case(UPSAMPLING, "resize-convolution", _resized),
    Case(UPSAMPLING, "transposed convolution", _transposed),
    Case(UPSAMPLING, "sub-pixel convolution", _sub_pixel),
    Case(NORM, "not folded", _row(_unfolded)),
    Case(NORM, "as 1x1 convolutions", _row(_pointwise)),
    Case(NORM, "folded", _row(None)),
    Case(CONVOLUTION, "im2col and matrix product", _im2col),
    Case(CONVOLUTION, "direct", _direct),
)

NETWORKS = (
    Network("TecoGAN", "tecogan", {"degradation": "bi", "warmup": "0"}),
    Network("FRVSR", "frvsr", {"degradation": "bi", "warmup": "0"}),
    Network("EGVSR", "egvsr", {"degradation": "bi", "warmup": "0"}),
    Network("VESPCN", "vespcn", {"channels": "1"}),
    Network("SOF-VSR", "sofvsr-accv"),
)

CLAIMS = (
    Claim(UPSAMPLING, "sub-pixel convolution", "the fastest of the three"),
    Claim(NORM, "folded", "about 5 % faster", 1.05),
    Claim(NETWORKS_GROUP, "EGVSR", "7.92 times TecoGAN on a GPU, 9.05 times on a CPU", 9.05),
)
