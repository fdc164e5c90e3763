"""How a variant's backends and its plan were chosen, as bundle.json says it."""

from __future__ import annotations

import msgspec

from superlower.backends.base import Artifact
from superlower.program.plan import ExecutionPlan


class RacedEngine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One backend's engine of one graph, in a race of backends.

    Attributes:
        backend: whose.
        ms: median milliseconds of a call on inputs of a real run, or as estimated; None if neither.
        rounds_ms: of each round; empty for an estimate.
        error: its outputs' largest difference there, relative to the largest value of the reference's output,
            at least 1; None if not compared.
        out: why it can't be taken; "" for one that could.
    """

    backend: str
    ms: float | None = None
    rounds_ms: tuple[float, ...] = ()
    error: float | None = None
    out: str = ""


class RacedProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The whole program on engines of one backend, or of several.

    Attributes:
        name: the backend's, or "mixed".
        backends: graph -> backend.
        expected_ms: of a frame, by its engines' times; None if nothing is known of them.
        ms: median milliseconds of a frame, as measured; None if it wasn't.
        rounds_ms: of each round.
        out: why it wasn't taken; "" for the one that was.
    """

    name: str
    backends: dict[str, str]
    expected_ms: float | None
    ms: float | None = None
    rounds_ms: tuple[float, ...] = ()
    out: str = ""


class RaceRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a variant's backends were chosen, graph by graph.

    Attributes:
        basis: "measured"; "estimated" where no device for the engines was at hand; "unknown" where the
            catalogue has no figures for it either, and the backends' order decided.
        device: measured on, or estimated for.
        graphs: graph -> every backend's engine.
        programs: whole programs that were considered.
        reason: of the choice, in words.
    """

    basis: str
    device: str
    graphs: dict[str, tuple[RacedEngine, ...]]
    programs: tuple[RacedProgram, ...]
    reason: str


class TriedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A way to run a variant that was measured, or would have been.

    Attributes:
        name: in words.
        plan: the way.
        against: the way it was measured beside, in turns.
        ms: median milliseconds a frame, from uint8 picture to uint8 picture; None if it wasn't timed.
        ratios: how many times as fast as that, round by round.
        out: why it wasn't taken; "" if it was.
    """

    name: str
    plan: ExecutionPlan
    against: str = ""
    ms: float | None = None
    ratios: tuple[float, ...] = ()
    out: str = ""


class Planned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a variant is best run, and the engines that takes beside its own.

    Attributes:
        plan: the way.
        reason: why this one.
        program: file in the bundle that holds the program the engines are of; "" for the bundle's own.
        engines: graph of that program -> engine in variants/NAME/plan/GRAPH; empty for the variant's own.
        batched: graph -> engine for so many calls as the plan has it, in variants/NAME/plan/GRAPH.batch.
        tried: in order.
    """

    plan: ExecutionPlan
    reason: str
    program: str = ""
    engines: dict[str, Artifact] = {}
    batched: dict[str, Artifact] = {}
    tried: tuple[TriedPlan, ...] = ()
