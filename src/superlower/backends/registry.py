"""Backends by name. Listing imports each backend's module, which by contract imports no SDK."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NoReturn, cast

import onnx_ir as ir

from superlower import plugins
from superlower.backends.base import Artifact, Backend, BuildOptions, NodeSupport
from superlower.errors import BadInputError
from superlower.passes.base import Pass
from superlower.targets.base import Precision, Target


@cache
def backend(name: str) -> Backend:
    """The backend called `name`.

    Raises:
        BadInputError: no such backend (with near matches), or a plug-in that can't be used.
    """
    try:
        made = plugins.load("backend", name)
        made = made() if inspect.isclass(made) else made
    except BadInputError:
        raise
    except Exception as error:
        value = plugins.table("backend")[name].value
        raise BadInputError(
            f"backend '{name}' ({value}) fails on import: {type(error).__name__}: {error}; "
            f"reinstall or remove it"
        ) from error
    if not isinstance(made, Backend):
        absent = [member for member in _MEMBERS if not hasattr(made, member)]
        raise BadInputError(f"'{name}' is no superlower backend: it lacks {', '.join(absent)}")
    return made


def backends() -> list[Backend]:
    """Every installed backend, by name. One that can't be imported is listed too: its `missing` says why."""
    return [_listed(name) for name in sorted(plugins.table("backend"))]


def _listed(name: str) -> Backend:
    try:
        return backend(name)
    except BadInputError as error:
        # Its name is an instance's, where the protocol has a class's: one class stands for any plug-in.
        return cast(Backend, _Broken(name, str(error)))


@dataclass(frozen=True)
class _Broken:
    """Stands in a listing for a plug-in that can't be imported, so that it hides no other."""

    name: str
    reason: str
    title: str = "(can't be imported)"

    def missing(self) -> str:
        return self.reason

    def versions(self) -> dict[str, str]:
        return {}

    def serves(self, target: Target, precision: Precision) -> str:
        return self.reason

    def coverage(self, model: ir.Model, target: Target, precision: Precision) -> Sequence[NodeSupport]:
        self._refuse()

    def legalize(self, target: Target, precision: Precision) -> Sequence[Pass]:
        self._refuse()

    def compile(self, model: ir.Model, target: Target, options: BuildOptions, workdir: Path) -> Artifact:
        self._refuse()

    def runnable(self, target: Target) -> str:
        return self.reason

    def load(self, artifact: Artifact, folder: Path) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BadInputError(self.reason)


_MEMBERS = (
    "name",
    "title",
    *(member for member, _ in inspect.getmembers(Backend, inspect.isfunction) if member[0] != "_"),
)
