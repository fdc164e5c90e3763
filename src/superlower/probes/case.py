"""What a probe is: one operator in one setting, as a model, with inputs and its outputs in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.probes.key import Key, key_of

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Tolerance:
    """How far an SDK's outputs may be from the float64 ones, and where the number comes from.

    Attributes:
        absolute: largest |output - reference|.
        reason: its derivation, for the dtype's rounding and the sizes of the case.
    """

    absolute: float
    reason: str


def widen(array: Array) -> Array:
    """A floating-point array, bfloat16 too, as float64; integers and booleans as they are."""
    return array if array.dtype.kind in "iub" else array.astype(np.float64)


@dataclass(frozen=True)
class Case:
    """One probe.

    Attributes:
        name: unique and stable: "GridSample/bilinear-zeros-corners/16/fp16/4k".
        op: the operator probed.
        model: makes the model: static shapes, values typed, the probed operator and, where it needs them,
            constants. Its inputs and outputs have the case's dtype, cast from and to nothing.
        feeds: makes the inputs from a seeded generator, in the model's own types.
        reference: inputs widened to float64 (integers as they are) -> outputs in float64, by arithmetic of
            our own, never by an SDK.
        tolerance: what outputs are held to.
        large: whether it is one of the wide frames, which tables keep apart and quick runs leave out.
        corner: whether it is about a corner of the definition that few graphs meet: exact halves, windows
            that begin in the padding. Tables keep these apart too: an SDK that errs there serves the operator
            all the same.
    """

    name: str
    op: str
    model: Callable[[], ir.Model]
    feeds: Callable[[np.random.Generator], dict[str, Array]]
    reference: Callable[[Arrays], dict[str, Array]]
    tolerance: Tolerance
    large: bool = False
    corner: bool = False

    def key(self) -> Key:
        """The probed node's key."""
        model = self.model()
        node = next(n for n in model.graph if n.op_type == self.op)
        return key_of(node, model.opset_imports[node.domain])

    def expected(self, feeds: Arrays) -> dict[str, Array]:
        """The outputs in float64 (integers and booleans as they are) for inputs in the model's own types."""
        return self.reference({name: widen(array) for name, array in feeds.items()})

    def error(self, feeds: Arrays, outputs: Arrays) -> float:
        """Largest |output - reference| over all outputs.

        Infinite where an output is absent, of another shape, or not a number where a number is due.
        """
        worst = 0.0
        for name, expected in self.expected(feeds).items():
            found = outputs.get(name)
            if found is None or found.shape != expected.shape:
                return float("inf")
            with np.errstate(invalid="ignore"):
                apart = np.abs(widen(found).astype(np.float64) - expected.astype(np.float64))
            worst = max(worst, float(np.where(np.isnan(apart), np.inf, apart).max(initial=0.0)))
        return worst
