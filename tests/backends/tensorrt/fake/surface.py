"""Classes that have just the members of real bindings, as a file of `bindings` lists them.

What isn't listed is an AttributeError, a call that no listed signature takes a TypeError, and what is listed
but isn't made here a NotImplementedError.
"""

from __future__ import annotations

import enum
import functools
import json
import os
import re
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

LISTED = json.loads(Path(os.environ["FAKE_TENSORRT"]).read_text())
VERSION = LISTED["version"]
MAJOR, MINOR = (int(part) for part in VERSION.split(".")[:2])


class _Enum(enum.Enum):
    """pybind11's: an int on demand, but not one itself."""

    def __int__(self) -> int:
        return int(self.value)


ENUMS = {name: _Enum(name, members) for name, members in LISTED["enums"].items()}
SEVERITY = _Enum("Severity", LISTED["severities"])


class Parameter(NamedTuple):
    name: str
    kind: str
    optional: bool


@functools.cache
def parameters(signature: str) -> list[Parameter]:
    """Of "(self: Builder, flags: int = 0) -> INetworkDefinition", without self."""
    inner = signature[1 : signature.rindex(") ->")]
    found = []
    for part in re.split(r",\s*(?![^\[\]]*\])", inner):
        name, _, rest = part.partition(":")
        kind, given, _ = rest.partition("=")
        if name.strip() not in ("self", ""):
            found.append(Parameter(name.strip(), kind.strip(), bool(given)))
    return found


class Gated:
    """Base of the classes made here: a listed method NAME is `_do_NAME`, an attribute is in `_values`."""

    made: ClassVar[dict[str, type[Gated]]] = {}
    types: ClassVar[dict[str, type]] = {}
    """Of attributes that may be set."""

    def __init_subclass__(cls) -> None:
        Gated.made[cls.__name__] = cls

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "_values", {})
        if "__init__" in self._listed()["methods"]:
            check(f"{type(self).__name__}.__init__", self._listed()["methods"]["__init__"], args, kwargs)
        self._start(*args, **kwargs)

    def _start(self, *args: Any, **kwargs: Any) -> None:
        """What the constructor does."""

    @classmethod
    def _listed(cls) -> dict[str, Any]:
        listed: dict[str, Any] = LISTED["classes"][cls.__name__]
        return listed

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_"):
            return object.__getattribute__(self, name)
        listed = self._listed()
        if name in listed["methods"]:
            return functools.partial(_call, self, name, listed["methods"][name])
        if name not in listed["attributes"]:
            raise AttributeError(f"TensorRT {VERSION}'s {type(self).__name__} has no {name}")
        if name not in self._values:
            raise NotImplementedError(f"{type(self).__name__}.{name}")
        return self._values[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
            return
        access = self._listed()["attributes"].get(name)
        if access != "read-write":
            raise AttributeError(f"TensorRT {VERSION}'s {type(self).__name__}.{name} can't be set")
        if not isinstance(value, type(self).types.get(name, object)):
            raise TypeError(f"{type(self).__name__}.{name} = {value!r}")
        self._values[name] = value


def _call(instance: Gated, name: str, signatures: list[str], /, *args: Any, **kwargs: Any) -> Any:
    check(f"{type(instance).__name__}.{name}", signatures, args, kwargs)
    try:
        body = object.__getattribute__(instance, f"_do_{name}")
    except AttributeError:
        raise NotImplementedError(f"{type(instance).__name__}.{name}") from None
    return body(*args, **kwargs)


def check(name: str, signatures: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError unless one of the overloads takes the arguments."""
    if not any(_fits(parameters(signature), args, kwargs) for signature in signatures):
        raise TypeError(f"{name}(): incompatible function arguments {args} {kwargs}: {signatures}")


def _fits(wanted: list[Parameter], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if len(args) > len(wanted):
        return False
    given = dict(zip((p.name for p in wanted), args, strict=False))
    if given.keys() & kwargs.keys() or kwargs.keys() - {p.name for p in wanted}:
        return False
    given |= kwargs
    return all(p.optional if p.name not in given else _is(given[p.name], p.kind) for p in wanted)


def _is(value: Any, kind: str) -> bool:
    kind = kind.rpartition("::")[2]
    if kind in ENUMS:
        return isinstance(value, ENUMS[kind])
    if kind in Gated.made:
        return isinstance(value, Gated.made[kind])
    if kind in ("int", "typing.SupportsInt"):
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in ("buffer", "typing_extensions.Buffer"):
        try:
            memoryview(value)
        except TypeError:
            return False
        return True
    if kind == "Dims":
        return isinstance(value, tuple | list) and all(isinstance(size, int) for size in value)
    simple = {"bool": bool, "str": str}
    return isinstance(value, simple.get(kind, object))
