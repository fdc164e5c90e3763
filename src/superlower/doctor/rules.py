"""Known bugs and limits as data: what a rule is, and reading rules/*.toml.

A rule is one entry: where it holds (backend, versions, target, precision, graph), what happens there without
superlower, what superlower does about it, and who says so. A new rule needs a scenario in tests/doctor.
"""

from __future__ import annotations

import tomllib
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final, cast

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from superlower import plugins
from superlower.doctor.conditions import Always, Condition
from superlower.errors import BadInputError, unknown_name
from superlower.passes.base import Pass
from superlower.targets.base import Precision
from superlower.targets.catalog import KINDS

BACKENDS: Final = ("onnxruntime", "openvino", "tvm", "tensorrt", "tensorrt-rtx")
"""Backends that rules may name. Rules about a third party's backend are that backend's own business."""


class Action(StrEnum):
    """What superlower does where a rule holds."""

    REWRITE = "rewrite"
    """Run passes before the build; what they leave is refused."""
    REFUSE = "refuse"
    """Build nothing and say what to do instead."""
    SET = "set"
    """Set build settings, which the user may set otherwise."""
    WARN = "warn"
    """Build, and say it in the log and in the bundle's manifest."""
    AVOID = "avoid"
    """Nothing is left to do: the named function is written so that it doesn't happen."""


class PassUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pass by name, with its options."""

    name: str
    options: dict[str, bool | int | str] = {}

    def make(self) -> Pass:
        """The pass.

        Raises:
            BadInputError: no such pass, or an option it doesn't have.
        """
        kind = cast("type[Pass]", plugins.load("pass", self.name))
        try:
            return kind(**self.options)
        except TypeError as error:
            raise BadInputError(f"pass {self.name} can't be made: {error}") from error


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One known bug or limit.

    Attributes:
        id: unique; its table's name.
        backends: that have it; empty for all.
        versions: distribution -> versions that have it, as a PEP 440 range ("" any). Those that the backend
            hasn't are passed over. Where none of its versions are known, a rule about graphs holds, and one
            about builds whatever the graph doesn't.
        kinds: kinds of targets; empty for all.
        sm: NVIDIA SM numbers, as a PEP 440 range (">=75,<80"); "" for any target.
        precisions: of the build; empty for all.
        condition: on the graph.
        symptom: what happens without superlower, as a clause; "{detail}" stands for the condition's detail.
        action: what superlower does.
        passes: for REWRITE.
        leaves: what becomes of nodes that the passes leave: REFUSE or WARN.
        settings: for SET, by the backend's own names.
        unless: settings of the backend with which the user takes the symptom: REFUSE becomes WARN.
        where: for AVOID, the function that avoids it ("module:name").
        cure: what the user can do.
        source: who says so: a document, an issue, or "measured: ..." with the version.
    """

    id: str
    symptom: str
    action: Action
    source: str
    backends: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    kinds: tuple[str, ...] = ()
    sm: str = ""
    precisions: tuple[Precision, ...] = ()
    condition: Condition = Always()
    passes: tuple[PassUse, ...] = ()
    leaves: Action = Action.REFUSE
    settings: dict[str, str] = {}
    unless: dict[str, str] = {}
    where: str = ""
    cure: str = ""

    @property
    def graph_free(self) -> bool:
        """Whether it holds whatever the graph."""
        return isinstance(self.condition, Always)


@cache
def rules() -> tuple[Rule, ...]:
    """superlower's rules, file by file; of the rules that refuse one node, the first is told.

    Raises:
        BadInputError: an entry is wrong; entry and field are named.
    """
    folder = files("superlower.doctor") / "rules"
    found: list[Rule] = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".toml"):
            found += parse(file.read_text("utf-8"), file.name)
    ids = [rule.id for rule in found]
    if doubled := [name for name in ids if ids.count(name) > 1]:
        raise BadInputError(f"rule '{doubled[0]}' is defined twice: rename one")
    return tuple(found)


def parse(text: str, where: str) -> list[Rule]:
    """Rules written as TOML, one table each, named by the table.

    Args:
        text: the TOML document; a table's fields are those of `Rule`, without `id`.
        where: what to call the document in messages.

    Raises:
        BadInputError: not TOML, or an unknown, missing or wrong field or name; entry and field are named.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{where} is not TOML: {error}") from error
    found = []
    for name, entry in document.items():
        if not isinstance(entry, dict) or "id" in entry:
            raise BadInputError(f"{where}: '{name}' is not a rule: write a table [{name}], without `id`")
        try:
            rule = msgspec.convert({"id": name, **entry}, Rule)
        except (msgspec.ValidationError, InvalidSpecifier) as error:
            raise BadInputError(f"{where}: rule '{name}': {error}") from error
        if (problem := _problem(rule)) is not None:
            raise BadInputError(f"{where}: rule '{name}', {problem}")
        found.append(rule)
    return found


_NEEDS: Final = {
    Action.REWRITE: ("passes",),
    Action.REFUSE: ("cure",),
    Action.SET: ("settings",),
    Action.WARN: ("cure",),
    Action.AVOID: ("where",),
}
"""Fields that an action can't do without; of those listed here, no other action takes them but `cure`."""


def _problem(rule: Rule) -> str | None:
    """What types can't say about a rule."""
    for kind, given, known in (
        ("backend", rule.backends, BACKENDS),
        ("kind of target", rule.kinds, KINDS),
        ("pass", [use.name for use in rule.passes], plugins.table("pass")),
    ):
        for name in given:
            if name not in known:
                return str(unknown_name(kind, name, known))
    for field, text in (("sm", rule.sm), *((f"versions.{k}", v) for k, v in rule.versions.items())):
        try:
            SpecifierSet(text)
        except InvalidSpecifier:
            return f"field `{field}`: '{text}' is no range: write >=75,<80"
    for name in ("symptom", "source"):
        if not getattr(rule, name).strip():
            return f"field `{name}`: is empty"
    for action, fields in _NEEDS.items():
        for name in fields:
            if bool(getattr(rule, name)) < (action is rule.action):
                return f"field `{name}`: {rule.action} needs it"
            if getattr(rule, name) and name != "cure" and action is not rule.action:
                return f"field `{name}`: goes with {action}, not with {rule.action}"
    if rule.unless and rule.action is not Action.REFUSE:
        return f"field `unless`: goes with refuse, not with {rule.action}"
    if rule.leaves not in (Action.REFUSE, Action.WARN):
        return "field `leaves`: is refuse or warn"
    return None


def within(version: str, range_: str) -> bool:
    """Whether a version lies in a PEP 440 range, pre-releases included."""
    return SpecifierSet(range_).contains(version, prereleases=True)
