"""Which rules hold for a build, at which nodes, and what is to be done about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from superlower.doctor.conditions import typed
from superlower.doctor.rules import Action, Rule, rules, within
from superlower.errors import BadInputError, SuperlowerError, UnsupportedOperatorError
from superlower.ir import node_name, node_op
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target

_NAMED = 5
"""Nodes that a message names; of more it says how many."""


@dataclass(frozen=True)
class Context:
    """What is to be built, the graph aside.

    Attributes:
        backend: its name.
        versions: its SDK's distributions -> versions; empty where it isn't here.
        target, precision: of the build.
        settings: the backend's own settings as the user gave them.
    """

    backend: str
    versions: Mapping[str, str]
    target: Target
    precision: Precision
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """A rule that holds.

    Attributes:
        rule: which.
        action: the rule's, or WARN where the user's settings take the symptom.
        nodes, ops: names and operators of the nodes it holds for, in graph order; empty for a rule about the
            graph as a whole or about no graph.
        detail: of the first node, as the condition tells it.
    """

    rule: Rule
    action: Action
    nodes: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    detail: str = ""

    @property
    def symptom(self) -> str:
        """The rule's, filled in."""
        return self.rule.symptom.replace("{detail}", self.detail)

    @property
    def reason(self) -> str:
        """Symptom and cure, without the nodes: why a node isn't served as it stands."""
        return f"{self.symptom}: {self.rule.cure}" if self.rule.cure else self.symptom

    @property
    def line(self) -> str:
        """Symptom, nodes and cure in one line."""
        return self.naming(_NAMED)

    def naming(self, count: int) -> str:
        """The same with so many nodes named, and the rest counted."""
        cure = f": {self.rule.cure}" if self.rule.cure else ""
        if not self.nodes:
            return f"{self.symptom}{cure}"
        more = f" and {len(self.nodes) - count} more" if len(self.nodes) > count else ""
        ops = ", ".join(dict.fromkeys(self.ops))
        return f"{self.symptom} ({ops} at {', '.join(self.nodes[:count])}{more}){cure}"


@dataclass(frozen=True)
class Findings:
    """Every rule that holds for one build of one graph, in the rules' order."""

    context: Context
    found: tuple[Finding, ...]

    def __contains__(self, rule_id: str) -> bool:
        return any(finding.rule.id == rule_id for finding in self.found)

    def acting(self, action: Action) -> list[Finding]:
        """Findings that ask for an action."""
        return [finding for finding in self.found if finding.action is action]

    def passes(self) -> tuple[Pass, ...]:
        """The passes prescribed, each once, in the rules' order."""
        uses = [use for finding in self.acting(Action.REWRITE) for use in finding.rule.passes]
        return tuple(use.make() for i, use in enumerate(uses) if use not in uses[:i])

    def settings(self) -> dict[str, str]:
        """Build settings prescribed; the user's own go over them."""
        return {k: v for finding in self.acting(Action.SET) for k, v in finding.rule.settings.items()}

    def warnings(self) -> tuple[str, ...]:
        """What to tell of the build, a line each, the first node named."""
        return tuple(f"{f.naming(1)} [{f.rule.id}]" for f in self.acting(Action.WARN))

    def after_passes(self) -> Findings:
        """The same, of a graph that the prescribed passes have been over: what they left can't be mended."""
        left = (
            Finding(f.rule, f.rule.leaves, f.nodes, f.ops, f.detail) if f.action is Action.REWRITE else f
            for f in self.found
        )
        return Findings(self.context, tuple(left))

    def refusal(self) -> SuperlowerError | None:
        """The error of the first finding that refuses the build; None if none does.

        BadInputError where it is about the graph as a whole or about none, else UnsupportedOperatorError.
        """
        refused = self.acting(Action.REFUSE)
        if not refused:
            return None
        kind = UnsupportedOperatorError if refused[0].nodes else BadInputError
        context = self.context
        return kind(f"{context.backend} on {context.target.name}: {refused[0].line} [{refused[0].rule.id}]")

    def require(self) -> None:
        """Raise the refusal, if there is one."""
        if (error := self.refusal()) is not None:
            raise error

    def by_node(self) -> dict[str, Finding]:
        """Node -> the first finding that refuses it, or failing that rewrites it."""
        told: dict[str, Finding] = {}
        for action in (Action.REFUSE, Action.REWRITE):
            for finding in self.acting(action):
                for name in finding.nodes:
                    told.setdefault(name, finding)
        return told


def applies(rule: Rule, context: Context) -> bool:
    """Whether a rule is about such a build, whatever the graph."""
    target = context.target
    if rule.backends and context.backend not in rule.backends:
        return False
    if rule.kinds and target.kind not in rule.kinds:
        return False
    if rule.sm and (target.compute_capability is None or not within(str(target.compute_capability), rule.sm)):
        return False
    if rule.precisions and context.precision not in rule.precisions:
        return False
    return concerns(rule, context.versions)


def concerns(rule: Rule, versions: Mapping[str, str]) -> bool:
    """Whether a rule is about these versions of a backend's distributions, none of them known if empty."""
    if not rule.versions:
        return True
    known = {name: versions[name] for name in rule.versions if versions.get(name)}
    if known:
        return all(within(version, rule.versions[name]) for name, version in known.items())
    # Of a graph the worst is assumed; for a build as a whole one may still pick a version that serves.
    return not any(versions.values()) and not rule.graph_free


def examine(found: Sequence[Rule], context: Context, model: ir.Model) -> Findings:
    """Which of the rules hold for a build of the graph.

    Args:
        found: usually `rules()`.
        model: as it would be handed to `Backend.compile`; types are inferred where they lack.
    """
    model = typed(model)
    return Findings(context, tuple(_findings((r for r in found if applies(r, context)), context, model)))


def _findings(held: Iterable[Rule], context: Context, model: ir.Model) -> Iterable[Finding]:
    for rule in held:
        matches = list(rule.condition.matches(model))
        if not matches:
            continue
        nodes = [match.node for match in matches if match.node is not None]
        yield Finding(
            rule,
            _action(rule, context),
            tuple(map(node_name, nodes)),
            tuple(map(node_op, nodes)),
            matches[0].detail,
        )


def _action(rule: Rule, context: Context) -> Action:
    taken = rule.unless and all(context.settings.get(k) == v for k, v in rule.unless.items())
    return Action.WARN if taken else rule.action


def unserved(found: Sequence[Rule], context: Context) -> str | None:
    """Why nothing can be built in the context, whatever the graph; None if something may be."""
    for rule in found:
        if rule.graph_free and _action(rule, context) is Action.REFUSE and applies(rule, context):
            return f"{rule.symptom}: {rule.cure}"
    return None


def settings(
    backend: str, versions: Mapping[str, str], target: Target, precision: Precision
) -> dict[str, str]:
    """Build settings that the rules prescribe for every graph."""
    context = Context(backend, versions, target, precision)
    held = [r for r in rules() if r.graph_free and r.action is Action.SET and applies(r, context)]
    return {key: value for rule in held for key, value in rule.settings.items()}
