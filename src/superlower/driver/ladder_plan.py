"""The ladder as data: its rungs, and the published stages beside them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import msgspec

from superlower.errors import BadInputError, unknown_name
from superlower.targets.base import Precision

PYTORCH_BACKEND = "pytorch"
"""Stands for PyTorch eager in a rung."""

_FILE = "ladder.toml"


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A stage of a published ladder.

    Attributes:
        name: of the stage.
        parameters, gflops: of the network; operations a frame, 10^9.
        ms: a frame, as its reciprocal is published in frames a second.
        megabytes: of the accelerator's memory.
        quality: what was said of it.
    """

    name: str
    parameters: float
    gflops: float
    ms: float
    megabytes: float
    quality: str = ""


class PublishedLadder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A ladder of the literature.

    Attributes:
        name, source: what was measured, and where it stands.
        base: the stage that ratios are to.
        stage: stages in order.
    """

    name: str
    source: str
    base: str
    stage: tuple[Stage, ...]

    def ratio(self, name: str) -> float:
        """How many times as fast as the base a stage is."""
        by_name = {stage.name: stage for stage in self.stage}
        return by_name[self.base].ms / by_name[name].ms


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rung: all that makes it.

    Attributes:
        name: in tables.
        backend: whose engines, or "pytorch" for the network itself in PyTorch eager.
        precision: of the engines.
        pruned: of the pruned checkpoint instead of the whole one.
        passes: program passes with their defaults, before all others.
        clips: run side by side, each in a thread of its own.
        in_flight: calls of one clip at the same time, where they don't wait for each other.
        settings: of the backend, other than engines are compiled with.
        beside: the published stage it stands beside; empty for none.
    """

    name: str
    backend: str
    precision: Precision = Precision.FP32
    pruned: bool = False
    passes: tuple[str, ...] = ()
    clips: int = 1
    in_flight: int = 1
    settings: dict[str, str] = {}
    beside: str = ""


class Ladder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rungs in order, the first of which the others are compared with, and what was published.

    Attributes:
        rung: in order.
        published: None for nothing beside them.
    """

    rung: tuple[Rung, ...]
    published: PublishedLadder | None = None


def stored() -> Ladder:
    """superlower's own ladder."""
    return parse(files("superlower.driver").joinpath(_FILE).read_text("utf-8"), _FILE)


def read(path: Path) -> Ladder:
    """A ladder from a TOML file.

    Raises:
        BadInputError: no such file, or as `parse`.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"can't read ladder {path}: {error}") from error
    return parse(text, str(path))


def parse(text: str, where: str) -> Ladder:
    """A ladder written as TOML.

    Args:
        where: what to call the text in messages.

    Raises:
        BadInputError: not TOML; an unknown, missing or wrong field; two rungs of one name; a stage nobody
            published.
    """
    try:
        ladder = msgspec.convert(tomllib.loads(text), Ladder, strict=False)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadInputError(f"{where} is no ladder: {error}") from error
    names = [rung.name for rung in ladder.rung]
    if not names:
        raise BadInputError(f"{where} has no [[rung]]")
    for name in names:
        if names.count(name) > 1:
            raise BadInputError(f"{where} has two rungs named '{name}'")
    stages = [stage.name for stage in ladder.published.stage] if ladder.published else []
    for rung in ladder.rung:
        if rung.beside and rung.beside not in stages:
            raise unknown_name(f"published stage of rung '{rung.name}'", rung.beside, stages)
        if rung.clips < 1 or rung.in_flight < 1:
            raise BadInputError(f"{where}: rung '{rung.name}' has clips or in_flight under 1")
        if rung.backend == PYTORCH_BACKEND and (rung.passes or rung.settings or rung.clips > 1):
            raise BadInputError(
                f"{where}: rung '{rung.name}' is PyTorch eager, which has no passes, settings or streams here"
            )
    return ladder


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What rungs that share a bundle have in common: the network, and the program's passes."""

    pruned: bool = False
    passes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As the name of a folder."""
        return "-".join(["pruned" if self.pruned else "whole", *self.passes])


def groups(rungs: Sequence[Rung]) -> Mapping[Group, list[Rung]]:
    """Rungs by the bundle that they run, in order."""
    found: dict[Group, list[Rung]] = {}
    for rung in rungs:
        found.setdefault(Group(pruned=rung.pruned, passes=rung.passes), []).append(rung)
    return found
