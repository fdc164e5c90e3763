"""Passes as the command line asks for them, with their options; what those that cost quality cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import cast, get_type_hints

import msgspec

from superlower import plugins
from superlower.bundle.manifest import PassRecord
from superlower.errors import BadInputError, unknown_name
from superlower.metrics.loss import ASSUMED_DB
from superlower.passes.base import Pass
from superlower.rewrites.base import ProgramPass

_YES_NO = {"yes": "true", "no": "false"}
"""How switches may be written, besides what msgspec takes."""


def check_owners(settings: Mapping[str, str], owners: Sequence[str], what: str) -> None:
    """Every setting is one's of these: a misspelt one would do nothing, silently.

    Args:
        settings: OWNER.KEY -> value.
        what: the owners are, for the message.

    Raises:
        BadInputError: it isn't.
    """
    for key in settings:
        owner, dot, _ = key.partition(".")
        if not dot or owner not in owners:
            raise unknown_name(f"{what} of --set", owner, owners)


def chosen_pass(name: str, settings: Mapping[str, str]) -> Pass | ProgramPass:
    """A pass, of graphs or of programs, with the options that settings named NAME.OPTION give it."""
    group = "program pass" if name in plugins.table("program pass") else "pass"
    kind = cast("type[Pass] | type[ProgramPass]", plugins.load(group, name))
    types = get_type_hints(kind)
    known = {field.name: types[field.name] for field in fields(kind)}
    given: dict[str, object] = {}
    for key, value in settings.items():
        owner, _, option = key.partition(".")
        if owner != name:
            continue
        if option not in known:
            raise unknown_name(f"option of pass {name}", option, known)
        try:
            meant = _YES_NO.get(value, value) if known[option] is bool else value
            given[option] = msgspec.convert(meant, known[option], strict=False)
        except msgspec.ValidationError as error:
            raise BadInputError(f"--set {key}={value}: {error}") from None
    return kind(**given)


def quality_lines(records: Sequence[PassRecord]) -> list[str]:
    """What each pass that costs quality cost, a line each."""
    lines = []
    for record in records:
        if (loss := record.quality) is None:
            continue
        basis = (
            f"{loss.before_db:.2f} -> {loss.after_db:.2f} dB against the ground truth"
            if loss.before_db is not None and loss.after_db is not None
            else f"an estimate, without a ground truth, for a model that scores {ASSUMED_DB:.0f} dB"
        )
        lines.append(
            f"{record.name} costs {loss.db:.3f} dB of PSNR, {loss.worst_db:.3f} at the worst frame, of "
            f"{loss.budget_db:g} allowed ({basis}; {loss.psnr_db:.1f} dB between before and after)"
        )
    return lines
