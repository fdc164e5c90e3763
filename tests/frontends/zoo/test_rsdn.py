"""RSDN: the network against the reference outputs, and its export against the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.rsdn import Rsdn
from superlower.frontends.zoo.rsdn_torch import FEATURES, PICTURE, RsdnNet
from support.zoo import (
    PARITY,
    assert_order_matters,
    assert_program_equals_network,
    keys_of,
    relative_error,
    request,
)


def test_is_a_zoo_frontend() -> None:
    assert isinstance(Rsdn(), ZooFrontend)


def test_names_and_shapes_are_those_of_public_checkpoints(oracles: Path) -> None:
    network = RsdnNet()
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == keys_of(oracles, "rsdn9_128")
    assert sum(p.numel() for p in network.parameters()) == 6_180_236


def test_network_equals_the_reference(oracles: Path) -> None:
    """The reference was given frames and unrelated halves of them: `advance` takes them as they are."""
    with np.load(oracles / "parity" / "rsdn9_128.npz") as parity:
        frames, details, structures = (torch.from_numpy(parity[f"in{i}"][0]) for i in range(3))
        expected = [parity[f"out{i}"][0] for i in range(3)]
    network = Rsdn()._network(request(*frames.shape[2:]))
    hidden = torch.zeros(1, FEATURES, *frames.shape[2:])
    detail = structure = torch.zeros(1, PICTURE, *frames.shape[2:])
    found: list[list[torch.Tensor]] = [[], [], []]
    with torch.no_grad():
        for t in range(len(frames)):
            pair = [t - 1 if t else 1, t]
            hidden, detail, structure, output = network.advance(
                frames[t : t + 1],
                details[pair].flatten(0, 1)[None],
                structures[pair].flatten(0, 1)[None],
                hidden,
                detail,
                structure,
            )
            for row, picture in zip(found, (output, detail, structure), strict=True):
                row.append(picture if picture.shape[1] == 3 else torch.pixel_shuffle(picture, 4))
    for row, reference in zip(found, expected, strict=True):
        assert relative_error(torch.cat(row).numpy(), reference) < PARITY


def test_a_frame_is_structure_plus_detail() -> None:
    """What `step` hands to `advance` sums to the frames; a checkerboard is all detail."""
    network = RsdnNet()
    seen: list[torch.Tensor] = []
    network.advance = lambda *given: seen.extend(given)  # type: ignore[method-assign,assignment]
    board = (torch.arange(8).view(1, 1, 8, 1) + torch.arange(8)) % 2 * torch.ones(1, 3, 1, 1)
    flat = torch.full((1, 3, 8, 8), 0.25)
    network.step(board, flat, *(torch.zeros(1),) * 3)
    _, details, structures = seen[:3]
    assert torch.allclose(details + structures, torch.cat((flat, board), dim=1))
    assert torch.allclose(structures[:, 3:], torch.full((1, 3, 8, 8), 0.5))
    assert torch.equal(structures[:, :3], flat)


def test_program_equals_the_network_over_a_clip(caller) -> None:
    asked = request(15, 18)
    model = assert_program_equals_network(Rsdn(), asked, 4, caller)
    assert model.program.frame.padded == (16, 18)
    assert_order_matters(Rsdn(), asked, model)


def test_options_are_refused() -> None:
    with pytest.raises(BadInputError, match="rsdn has no options: leave blocks out"):
        Rsdn().reference(request(16, 16, options={"blocks": "3"}))
