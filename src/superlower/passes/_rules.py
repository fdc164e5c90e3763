"""What the passes share: rules that account for each site, and the clean-up after a rewrite."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common
from onnxscript.rewriter import MatchContext, MatchResult, RewriteRule, RewriteRuleClassBase, RewriteRuleSet
from onnxscript.rewriter.pattern import OpsetPatternBuilder

from superlower.passes.base import Applied, Site

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


class Emitter(Protocol):
    """The rewriter's builder, typed: `op.Mul(a, b)` emits a node and gives its output."""

    def __getattr__(self, op: str) -> Callable[..., ir.Value]:
        """The emitting function of an ONNX operator."""
        ...


class Rule(RewriteRuleClassBase):
    """A rewrite rule that keeps its account: `accept` a site, `refuse` it with a reason, or `skip` it.

    A site is skipped when there is nothing to rewrite, and refused when a reader would expect a rewrite. A
    rule matches one node and calls `accept` last in `check`: what is accepted is rewritten.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rewritten: dict[str, Site] = {}
        self.refused: dict[str, Site] = {}

    def setup(self) -> None:
        """Forget an earlier sweep's refusals: this sweep meets those nodes again."""
        self.refused.clear()

    def accept(self, node: ir.Node, detail: str) -> MatchResult:
        """Rewrite the node."""
        self.rewritten[label(node)] = Site(label(node), detail)
        return MatchResult()

    def refuse(self, node: ir.Node, reason: str) -> MatchResult:
        """Leave a node alone that the pass is for, and say why."""
        self.refused[label(node)] = Site(label(node), reason)
        return MatchResult().fail(reason, node)

    def skip(self, node: ir.Node) -> MatchResult:
        """Leave a node alone that the pass isn't for."""
        return MatchResult().fail("nothing to rewrite", node)

    def _check_in_graph(self, context: MatchContext, **bindings: object) -> MatchResult:
        # Bodies of functions hold attributes that are references, with no value to look at.
        if isinstance(context.graph_or_function, ir.Function):
            return MatchResult().fail("in a function's body")
        return self.check(context, **bindings)

    def bound(self) -> RewriteRule:
        """This very instance as a rewriter rule (`rule()` of the base class makes another one)."""
        return RewriteRule(
            self.pattern,
            self.rewrite,
            self._check_in_graph,
            name=self.name,
            remove_nodes=self.remove_nodes,
            graph_pre_visitor=self.setup,
            graph_post_visitor=self.cleanup,
        )


class OnOperator(Rule):
    """A rule on every node of one ONNX operator; `check` and `rewrite` get its first output."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op = op

    def pattern(self, op: OpsetPatternBuilder) -> object:
        """One node, whatever its inputs and attributes."""
        return getattr(op, self.op)(_allow_other_inputs=True, _allow_other_attributes=True, _outputs=["out"])


class Lowering(OnOperator):
    """Another form for the nodes of one operator, or for some of them.

    Attributes:
        chosen: the nodes to rewrite; None for all that can be.
    """

    def __init__(self, op: str, chosen: Collection[ir.Node] | None = None) -> None:
        super().__init__(op)
        self.chosen = chosen

    @abstractmethod
    def why_not(self, node: ir.Node) -> str | None:
        """Why the node has no such form; None if it has."""

    @abstractmethod
    def detail(self, node: ir.Node) -> str:
        """What is done at the node."""

    def check(self, _context: object, out: ir.Value) -> MatchResult:
        """Accept what is chosen and can be rewritten."""
        node = maker(out)
        if self.chosen is not None and node not in self.chosen:
            return self.skip(node)
        reason = self.why_not(node)
        return self.accept(node, self.detail(node)) if reason is None else self.refuse(node, reason)


def apply_rules(model: ir.Model, rules: Sequence[Rule]) -> Applied:
    """Sweep the rules over the model until nothing matches, tidy up if anything did, and account for it."""
    bound = RewriteRuleSet([rule.bound() for rule in rules])
    while bound.apply_to_model(model):
        tidy(model)
    return Applied(
        tuple(site for rule in rules for site in rule.rewritten.values()),
        tuple(site for rule in rules for site in rule.refused.values()),
    )


def tidy(model: ir.Model) -> bool:
    """Drop what is dead, merge equal initializers, lift Constant nodes, name and type new values.

    Returns:
        Whether nodes or initializers are others than before (naming and typing aside).
    """
    changed = [
        step(model).modified
        for step in (
            common.IdentityEliminationPass(),
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.RemoveUnusedNodesPass(),
            common.DeduplicateHashedInitializersPass(),
        )
    ]
    common.NameFixPass()(model)
    type_values(model)
    return any(changed)


def type_values(model: ir.Model) -> None:
    """Give values their types and shapes, where any lacks its own."""
    if any(v.shape is None or v.dtype is None for node in model.graph for v in node.outputs if v.name):
        common.ShapeInferencePass(check_type=False, strict_mode=False)(model)


def label(node: ir.Node) -> str:
    """What a site is called: the node's name, or its operator and first output where it has none."""
    return node.name or f"{node.op_type}({node.outputs[0].name})"


def maker(value: ir.Value) -> ir.Node:
    """The node that makes the value, which must not be an input or initializer."""
    node = value.producer()
    assert node is not None
    return node


def producer(value: ir.Value | None, op: str) -> ir.Node | None:
    """The node that makes the value, if it is an ONNX `op`."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and node.domain == "" else None


def read_once(value: ir.Value | None) -> bool:
    """Whether one node alone reads the value, once."""
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()


def as_before(made: ir.Value, node: ir.Node) -> ir.Value:
    """A new value, its node called as the one it takes the place of: the same operator, spelled anew."""
    maker(made).name = node.name
    return made


def integer(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    return node.attributes.get_int(name, default)


def integers(node: ir.Node, name: str, default: Sequence[int] = ()) -> tuple[int, ...]:
    """A list of integers, or its default."""
    return tuple(node.attributes.get_ints(name, default))


def text(node: ir.Node, name: str, default: str) -> str:
    """A string attribute, or its default."""
    return node.attributes.get_string(name, default)


def tensor(array: NDArray[np.generic], dtype: ir.DataType) -> ir.TensorProtocol:
    """A contiguous constant of the element type given."""
    return ir.tensor(np.ascontiguousarray(array).astype(dtype.numpy()), dtype=dtype)
