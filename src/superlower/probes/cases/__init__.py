"""The catalogue of probes: one module a family of operators."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from superlower.errors import unknown_name
from superlower.probes.case import Case


def cases(ops: Iterable[str] | None = None, large: bool | None = None) -> tuple[Case, ...]:
    """Probes in the catalogue's order, which is stable; names are unique.

    Args:
        ops: operators to keep; all if None.
        large: only the wide frames (True), only the others (False), both (None).

    Raises:
        BadInputError: the catalogue has no case of an operator.
    """
    found = _all()
    if ops is not None:
        wanted, known = set(ops), {case.op for case in found}
        for op in sorted(wanted - known):
            raise unknown_name("probed operator", op, known)
        found = tuple(case for case in found if case.op in wanted)
    return tuple(case for case in found if large is None or case.large == large)


@cache
def _all() -> tuple[Case, ...]:
    from superlower.probes.cases import (
        activations,
        control_flow,
        deform_conv,
        elementwise,
        grid_sample,
        indexing,
        linear,
        movement,
        normalization,
        pooling,
        quantize,
        resize,
    )

    families = (
        grid_sample,
        deform_conv,
        resize,
        linear,
        pooling,
        normalization,
        activations,
        elementwise,
        movement,
        indexing,
        quantize,
        control_flow,
    )
    return tuple(case for family in families for case in family.cases())
