"""The targets `--target` takes: superlower's own (catalog.toml and this machine's CPU) and third parties'.

A third party adds targets with an entry point of the group `superlower.targets`: a callable that returns a
dictionary of name -> Target, as `load_catalog` here is.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import cast

import msgspec

from superlower import plugins
from superlower.errors import BadInputError, unknown_name
from superlower.targets.base import TYPES, Figure, Precision, Target
from superlower.targets.detect import cpu_target

KINDS = ("cpu", "nvidia-gpu", "intel-gpu")
PEAKS = (*TYPES, "tf32")

_SPECIFIER = re.compile(r"(?:==|!=|~=|<=|>=|<|>)[0-9]+(?:\.[0-9]+)*(?:\.post[0-9]+|\.\*)?")


def load_catalog() -> dict[str, Target]:
    """superlower's own targets by name: the entries of catalog.toml, and `cpu`, read off this machine.

    Raises:
        BadInputError: an entry of catalog.toml is wrong; entry and field are named.
    """
    text = files("superlower.targets").joinpath("catalog.toml").read_text("utf-8")
    return {"cpu": cpu_target(), **parse(text, "catalog.toml")}


def parse(text: str, where: str) -> dict[str, Target]:
    """Targets written as TOML, one table each, named by the table.

    Args:
        text: the TOML document; a table's fields are those of `Target`, without `name`.
        where: what to call the document in messages.

    Raises:
        BadInputError: not TOML, or an unknown, missing or wrong field; the entry and the field are named.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{where} is not TOML: {error}") from error
    found = {}
    for name, entry in document.items():
        if not isinstance(entry, dict):
            raise BadInputError(f"{where}: '{name}' is not a target: write a table [{name}]")
        if "name" in entry:
            raise BadInputError(f"{where}: target '{name}', field `name`: the table's name is the target's")
        found[name] = _convert({"name": name, **entry}, f"{where}: target '{name}'")
    return found


@cache
def catalog() -> Mapping[str, Target]:
    """Every target installed, by name, in the order of listings: superlower's, then each other catalog's.

    Raises:
        BadInputError: a catalog can't be loaded, holds a wrong entry, or has a name that another one has.
    """
    found: dict[str, Target] = {}
    owner: dict[str, str] = {}
    points = plugins.table("target")
    for point in sorted(points, key=lambda name: (not points[name].value.startswith("superlower."), name)):
        value = points[point].value
        where = f"target catalog '{point}' ({value})"
        for name, entry in _call(plugins.load("target", point), where).items():
            if not isinstance(entry, Target) or entry.name != name:
                raise BadInputError(f"{where}: '{name}' is not a Target of that name; fix or remove it")
            if name in found:
                raise BadInputError(
                    f"target '{name}' is defined twice, by {owner[name]} and {value}: uninstall one"
                )
            found[name] = _convert(msgspec.to_builtins(entry), f"{where}: target '{name}'")
            owner[name] = value
    return found


def targets() -> list[Target]:
    """Every target installed, in the order of listings."""
    return list(catalog().values())


def target(name: str) -> Target:
    """The target `--target NAME` means.

    Raises:
        BadInputError: no such target; the message has near matches.
    """
    found = catalog().get(name)
    if found is None:
        raise unknown_name("target", name, catalog())
    return found


def _call(maker: object, where: str) -> Mapping[str, object]:
    if not callable(maker):
        raise BadInputError(f"{where} is not callable: it must return a dictionary of targets")
    try:
        made = cast(Callable[[], object], maker)()
    except BadInputError:
        raise
    except Exception as error:
        raise BadInputError(f"{where} failed: {type(error).__name__}: {error}; fix or remove it") from error
    if not isinstance(made, Mapping):
        raise BadInputError(f"{where} must return a dictionary of targets, not {type(made).__name__}")
    return cast(Mapping[str, object], made)


def _convert(entry: object, where: str) -> Target:
    try:
        made = msgspec.convert(entry, Target)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{where}, {_field_of(str(error))}") from error
    for field, problem in _problems(made):
        raise BadInputError(f"{where}, field `{field}`: {problem}")
    return made


def _field_of(message: str) -> str:
    """msgspec's message, the field first: "Expected `str`, got `int` - at `$.title`" and its like."""
    reason, _, path = message.partition(" - at `$.")
    named = re.search(r"(?:unknown|required) field `(\w+)`", reason)
    field = ".".join(part for part in (path.rstrip("`"), named[1] if named else "") if part)
    return f"field `{field}`: {reason}" if field else reason


def _problems(entry: Target) -> list[tuple[str, str]]:
    """What types can't say about an entry: (field, problem) pairs."""
    found = [("kind", f"'{entry.kind}' is none of {', '.join(KINDS)}")] if entry.kind not in KINDS else []
    found += [(f, "is empty") for f in ("name", "title", "architecture") if not getattr(entry, f).strip()]
    if (entry.kind == "nvidia-gpu") != (entry.compute_capability is not None):
        found.append(("compute_capability", "an NVIDIA GPU has one (70, 75, ...), and nothing else does"))
    if Precision.FP32 not in entry.precisions or len(set(entry.precisions)) != len(entry.precisions):
        found.append(("precisions", "must hold fp32, and each precision once"))
    if Precision.MIXED in entry.precisions:
        found.append(("precisions", "mixed is no element type: list those that may be mixed"))
    if "kind" not in entry.tvm:
        found.append(("tvm", "a TVM target dictionary has a `kind`"))
    for backend, ranges in entry.backends.items():
        bad = [part for part in ranges.split(",") if ranges and not _SPECIFIER.fullmatch(part.strip())]
        if bad:
            found.append((f"backends.{backend}", f"'{bad[0]}' is no version range: write >=10.0,<10.5"))
    for backend, reason in entry.unserved.items():
        if backend in entry.backends:
            found.append((f"unserved.{backend}", "is listed under backends too"))
        if not reason.strip():
            found.append((f"unserved.{backend}", "has no reason"))
    found += [(f"peak_tops.{k}", f"is none of {', '.join(PEAKS)}") for k in entry.peak_tops if k not in PEAKS]
    figures = {f"peak_tops.{k}": v for k, v in entry.peak_tops.items()}
    for field, figure in {
        **figures,
        "memory_gb": entry.memory_gb,
        "bandwidth_gbs": entry.bandwidth_gbs,
    }.items():
        found += [(f"{field}.{part}", problem) for part, problem in _figure_problems(figure)]
    return found


def _figure_problems(figure: Figure | None) -> list[tuple[str, str]]:
    if figure is None:
        return []
    found = []
    if not (math.isfinite(figure.value) and figure.value > 0):
        found.append(("value", f"{figure.value:g} is not above zero"))
    if figure.source.strip().lower() in {"", "memory", "unknown", "todo", "tbd"}:
        found.append(("source", "names no document: a figure without a source is left out"))
    return found
