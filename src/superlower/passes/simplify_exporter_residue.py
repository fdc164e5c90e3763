"""What an exporter leaves behind and no backend needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import MatchResult

from superlower.ir import constant_value, static_shape
from superlower.passes._affine import JOINS, Walk, emit, shrink
from superlower.passes._no_op import CHANGES_NOTHING, NoOp
from superlower.passes._rules import (
    Emitter,
    OnOperator,
    Rule,
    apply_rules,
    integer,
    maker,
    producer,
    text,
)
from superlower.passes.base import Applied, Pass
from superlower.passes.fold_constants import FoldConstants


@dataclass(frozen=True)
class SimplifyExporterResidue(Pass):
    """Say plainly what tracing said at length.

    ::

        y = ScatterElements/ScatterND/Concat of x's channels,     ->  Mul(x, [1, C, 1, 1])
            each scaled or shifted by a constant (x[:, 0] *= k)       and/or Add(x, [1, C, 1, 1]), or x itself
        Gather(x, constant run of indices)                        ->  Slice (and Squeeze for a scalar index)
        Unsqueeze(Squeeze(x, a), a)                               ->  x
        Resize(x, scales) whose scales are fractions              ->  Resize(x, sizes)
        Cast, Reshape, Expand, Transpose, Slice, Pad, Resize,     ->  x
            Concat that change nothing

    Exact: a channel rewrite is done where each element was rounded once at most, a Resize where the sizes
    give back the very scales (or where align_corners ignores them). Shapes must be static; fold constants
    first.
    """

    name: ClassVar[str] = "simplify-exporter-residue"
    after: ClassVar[tuple[type[Pass], ...]] = (FoldConstants,)

    def run(self, model: ir.Model) -> Applied:
        """See the class."""
        rules: list[Rule] = [NoOp(op) for op in CHANGES_NOTHING]
        rules += [_Channels(op) for op in sorted(JOINS)]
        return apply_rules(model, [*rules, _GatherToSlice(), _UnsqueezeSqueeze(), _ResizeSizes()])


class _Channels(OnOperator):
    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        walk = Walk()
        if walk.root(out) in (None, out):
            return self.skip(node)
        self.form = form = walk.form(out)
        if not form.in_place:
            return self.skip(node)
        if np.any(form.roundings > 1) or not np.all(form.scale):
            return self.refuse(node, "rounded more than once, or partly overwritten by a constant")
        shapes = [list(shrink(a).shape) for a in (form.scale, form.offset)]
        return self.accept(
            node, f"scale {shapes[0]} and offset {shapes[1]} on {cast(ir.Value, form.source).name}"
        )

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        form = self.form
        source, dtype = cast(ir.Value, form.source), cast(ir.DataType, out.dtype)
        return emit(op, source, form.scale, form.offset, dtype)


class _GatherToSlice(OnOperator):
    def __init__(self) -> None:
        super().__init__("Gather")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        shape, indices = static_shape(node.inputs[0]), constant_value(node.inputs[1])
        if shape is None or indices is None or indices.ndim > 1 or indices.size == 0:
            return self.skip(node)
        self.axis = integer(node, "axis", 0) % len(shape)
        run = np.asarray(indices, np.int64).reshape(-1) % shape[self.axis]
        if np.any(np.diff(run) != 1):
            return self.skip(node)
        self.first, self.last, self.scalar = int(run[0]), int(run[-1]), indices.ndim == 0
        return self.accept(node, f"Slice [{self.first}, {self.last + 1}) of axis {self.axis}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        data = maker(out).inputs[0]
        bounds = [op.Constant(value_ints=[i]) for i in (self.first, self.last + 1, self.axis)]
        part = op.Slice(data, *bounds)
        return op.Squeeze(part, bounds[2]) if self.scalar else part


class _UnsqueezeSqueeze(OnOperator):
    def __init__(self) -> None:
        super().__init__("Unsqueeze")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        squeeze = producer(node.inputs[0], "Squeeze")
        before, after = (static_shape(v) for v in (squeeze.inputs[0] if squeeze else None, out))
        if before is None or before != after:
            return self.skip(node)
        return self.accept(node, "Unsqueeze takes Squeeze back")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        squeeze = producer(maker(out).inputs[0], "Squeeze")
        assert squeeze is not None
        return op.Identity(squeeze.inputs[0])


class _ResizeSizes(OnOperator):
    def __init__(self) -> None:
        super().__init__("Resize")

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        node = maker(out)
        scales = constant_value(node.inputs[2]) if len(node.inputs) > 2 else None
        before, after = static_shape(node.inputs[0]), static_shape(out)
        if scales is None or scales.size == 0 or before is None or after is None or np.all(scales % 1 == 0):
            return self.skip(node)
        axes = node.attributes.get_ints("axes", range(len(before)))
        self.sizes = [after[axis] for axis in axes]
        derived = np.asarray([after[a] / before[a] for a in axes], np.float32)
        ignored = text(node, "coordinate_transformation_mode", "half_pixel") == "align_corners"
        if not ignored and not np.array_equal(derived, scales):
            return self.refuse(node, f"sizes {self.sizes} mean other scales than {scales.tolist()}")
        return self.accept(node, f"scales {scales.tolist()} as sizes {self.sizes}")

    def rewrite(self, op: Emitter, out: ir.Value) -> ir.Value:
        node = maker(out)
        sizes = op.Constant(value_ints=self.sizes)
        return op.Resize(node.inputs[0], None, None, sizes, **node.attributes)
