"""Deformable convolutions to try: their models, their inputs, and their outputs in float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.ir import OPSET
from superlower.probes.cases.deform_conv import deform_conv
from support.graphs import GraphBuilder

Array = NDArray[Any]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Deform:
    """One DeformConv; offsets are normal, `reach` pixels wide."""

    batch: int = 1
    channels: int = 8
    height: int = 7
    width: int = 9
    out_channels: int = 6
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    group: int = 1
    offset_group: int = 1
    mask: bool = True
    bias: bool = True
    constant_weight: bool = True
    reach: float = 3.0

    @property
    def out_size(self) -> tuple[int, int]:
        return tuple(
            (size + self.pads[a] + self.pads[a + 2] - self.dilations[a] * (self.kernel[a] - 1) - 1)
            // self.strides[a]
            + 1
            for a, size in enumerate((self.height, self.width))
        )  # type: ignore[return-value]

    def weights(self) -> dict[str, Floats]:
        """Weights whose products over all taps have the input's spread."""
        rng = np.random.default_rng(5)
        shape = (self.out_channels, self.channels // self.group, *self.kernel)
        found = {"w": rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))}
        return {**found, **({"b": rng.standard_normal(self.out_channels)} if self.bias else {})}

    def model(self, opset: int = OPSET, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Model:
        g, kind = GraphBuilder(), dtype.numpy().type
        taps = self.offset_group * self.kernel[0] * self.kernel[1]
        x = g.input("x", self.batch, self.channels, self.height, self.width, dtype=dtype)
        offset = g.input("offset", self.batch, 2 * taps, *self.out_size, dtype=dtype)
        arrays = self.weights()
        if self.constant_weight:
            w = g.const(arrays["w"], kind)
        else:
            w = g.input("w", *arrays["w"].shape, dtype=dtype)
        optional = [g.const(arrays["b"], kind) if self.bias else None]
        optional += [g.input("mask", self.batch, taps, *self.out_size, dtype=dtype)] if self.mask else []
        while optional and optional[-1] is None:
            optional.pop()
        out = g.DeformConv(
            x,
            w,
            offset,
            *optional,
            strides=self.strides,
            dilations=self.dilations,
            pads=self.pads,
            group=self.group,
            offset_group=self.offset_group,
            kernel_shape=self.kernel,
        )
        return g.model(out, opset=opset)

    def feeds(self, seed: int = 0, dtype: ir.DataType = ir.DataType.FLOAT) -> dict[str, Array]:
        """Inputs; a few offsets are whole, just outside the image, and far outside."""
        rng = np.random.default_rng(seed)
        taps = self.offset_group * self.kernel[0] * self.kernel[1]
        offset = self.reach * rng.standard_normal((self.batch, 2 * taps, *self.out_size))
        special = np.array([0.0, 1.0, -2.0, 0.5, -self.height - 0.25, self.width + 0.5, 1e4, -3e4])
        flat = offset.reshape(-1)
        where = rng.choice(flat.size, min(flat.size // 4, 64), replace=False)
        flat[where] = np.resize(special, where.size)
        found = {
            "x": rng.standard_normal((self.batch, self.channels, self.height, self.width)),
            "offset": offset,
        }
        if self.mask:
            found["mask"] = rng.random((self.batch, taps, *self.out_size))
        if not self.constant_weight:
            found["w"] = self.weights()["w"]
        return {name: array.astype(dtype.numpy()) for name, array in found.items()}

    def reference(
        self,
        feeds: Mapping[str, Array],
        dtype: ir.DataType = ir.DataType.FLOAT,
        weights: Mapping[str, Floats] | None = None,
    ) -> Floats:
        """The sum over channels and taps of weight * mask * bilinear sample, in float64.

        Args:
            dtype: of the model, which the weights are rounded to.
            weights: other ones than the model's.
        """
        given = {name: array.astype(np.float64) for name, array in feeds.items()}
        own = weights or self.weights()
        constants = {n: a.astype(dtype.numpy()).astype(np.float64) for n, a in own.items()}
        return deform_conv(
            given["x"],
            given.get("w", constants["w"]),
            given["offset"],
            constants.get("b"),
            given.get("mask"),
            self.strides,
            self.dilations,
            self.pads,
            self.group,
        )

    def magnitude(self, feeds: Mapping[str, Array]) -> Floats:
        """The sum of its terms' sizes, output by output: what rounding errors are in proportion to."""
        weights = {name: np.abs(array) for name, array in self.weights().items()}
        given = {name: array if name == "offset" else np.abs(array) for name, array in feeds.items()}
        return self.reference(given, weights=weights)
