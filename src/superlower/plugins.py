"""Lazy tables of what is installed: superlower's own entries and third parties', by entry point.

Every kind (backend, frontend, target, pass, program pass) is one entry-point group: plug-ins are found as our
parts are.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

from superlower.errors import BadInputError, unknown_name

GROUPS = {
    "backend": "superlower.backends",
    "frontend": "superlower.frontends",
    "target": "superlower.targets",
    "pass": "superlower.passes",
    "program pass": "superlower.program_passes",
}


@cache
def table(kind: str) -> dict[str, EntryPoint]:
    """Entry points of a kind (a key of `GROUPS`) by name, none of them imported.

    Raises:
        BadInputError: two distributions claim one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUPS[kind]), key=lambda p: p.name):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise BadInputError(
                f"{kind} '{point.name}' is claimed twice, by {other.value} and {point.value}: uninstall one"
            )
        found[point.name] = point
    return found


def load(kind: str, name: str) -> object:
    """Import the entry called `name`.

    Raises:
        BadInputError: no such entry (with near matches), or a plug-in that can't be imported.
    """
    points = table(kind)
    if name not in points:
        raise unknown_name(kind, name, points)
    try:
        return points[name].load()
    except (ImportError, AttributeError) as error:
        raise BadInputError(
            f"{kind} '{name}' ({points[name].value}) can't be imported: {error}; reinstall or remove it"
        ) from error
