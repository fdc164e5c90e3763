"""DeformConv as samplings and a product, for backends without it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.passes._deform import Geometry, by_gathers, by_grid_sample, geometry
from superlower.passes._rules import Emitter, Lowering, apply_rules, maker
from superlower.passes.base import Applied, Budget, Pass
from superlower.passes.fold_constants import FoldConstants

GRID_SAMPLE = "grid-sample"
GATHER = "gather"


@dataclass(frozen=True)
class LowerDeformConv(Pass):
    """Replace DeformConv by what samples its taps and a product with its weights.

    ::

        DeformConv(x [N, C, H, W], w [M, C/g, kh, kw], offset [N, 2 G kh kw, H', W'], b, mask)
            form "grid-sample":
            ->  grid = offset * 2/size + (2 base + 1)/size - 1      [N G, kh kw H', W', 2]
                GridSample(x [N G, C/G, H, W], grid) * mask         [N G, C/G, kh kw H', W']
                Conv 1x1 of C kh kw channels, g groups
            form "gather":
            ->  4 Gathers of x, channels last, at base + floor(offset), weighted by offset - floor(offset)
                and by mask; MatMul with w as a matrix (g > 1: Conv 1x1)

    As in the operator's definition in the ONNX specification (Dai et al., "Deformable Convolutional
    Networks", 2017, section 2.1; the mask is Zhu et al.'s, 2018): bilinear, zeros outside the image.
    base = stride * output pixel - pad + dilation * tap, a whole number. Any kernel, stride, dilation, pads,
    groups and offset groups. Coordinates are fp32 (fp64 for fp64), whatever the type of x. Refused: other
    than two spatial axes, sizes that aren't static.

    Attributes:
        form: "grid-sample", whose positions are rounded at 2^-24 of the width, or "gather", whose aren't.
    """

    name: ClassVar[str] = "lower-deform-conv"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)
    budget: ClassVar[Budget] = Budget(
        1e-3,
        "a tap is within 2 roundings of 2^-24 W of where it was, 2.3e-4 px at W = 1920, and 1 px moves a "
        "bilinear sample by at most twice the largest value",
    )
    form: str = GRID_SAMPLE

    def __post_init__(self) -> None:
        """Check the option."""
        if self.form not in (GRID_SAMPLE, GATHER):
            raise BadInputError(
                f"lower-deform-conv.form is '{self.form}': it takes {GRID_SAMPLE} or {GATHER}"
            )

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        return apply_rules(model, [DeformConvDecomposed(self.form, model.opset_imports[""])])


class DeformConvDecomposed(Lowering):
    """The rewrite of `LowerDeformConv`."""

    def __init__(self, form: str, opset: int, chosen: Collection[ir.Node] | None = None) -> None:
        super().__init__("DeformConv", chosen)
        self.form = form
        self.opset = opset

    def why_not(self, node: ir.Node) -> str | None:
        """Other than two spatial axes, or sizes that aren't static or don't fit."""
        found = geometry(node)
        return None if isinstance(found, Geometry) else found

    def detail(self, node: ir.Node) -> str:
        """The form."""
        return self.form

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        """See `_deform`."""
        node = maker(out)
        sizes = geometry(node)
        assert isinstance(sizes, Geometry)
        if self.form == GATHER:
            return by_gathers(op, node, sizes)
        return by_grid_sample(op, node, sizes, self.opset)
