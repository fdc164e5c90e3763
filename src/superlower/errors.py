"""Every failure a user can meet, each with the exit code the command line returns for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class SuperlowerError(Exception):
    """Base of all expected failures. The message is one line: what was wrong, where, and what to do."""

    exit_code: ClassVar[int] = 1


class BadInputError(SuperlowerError):
    """A file, option or name given by the user can't be used (exit code 2)."""

    exit_code = 2


class UnsupportedOperatorError(SuperlowerError):
    """A backend does not cover an operator of the model on the target (exit code 3)."""

    exit_code = 3


class OutputsDifferError(SuperlowerError):
    """Outputs left their error budget (exit code 4)."""

    exit_code = 4


NOT_FINITE = "the model's output holds NaN or infinity: try a higher --precision"


class BuildFailedError(SuperlowerError):
    """An SDK failed to build an engine, or ran past its time limit (exit code 5)."""

    exit_code = 5


class MissingSdkError(SuperlowerError):
    """A device or SDK this step needs isn't here (exit code 6)."""

    exit_code = 6


class StoppedError(SuperlowerError):
    """The user stopped the command (exit code 130)."""

    exit_code = 130


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> BadInputError:
    """An error for a name that isn't one of `choices`, with the nearest of them."""
    known = sorted(choices)
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return BadInputError(f"unknown {kind} '{name}': {guess}(known: {', '.join(known)})")
