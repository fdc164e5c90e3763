"""ESPCN: the network against the reference output, its export against the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.espcn import TAILS, Espcn
from superlower.frontends.zoo.espcn_torch import EspcnNet
from superlower.program import analysis
from support.zoo import (
    PARITY,
    THROUGH_ONNX,
    assert_program_equals_network,
    keys_of,
    relative_error,
    request,
    run_program,
)


def test_is_a_zoo_frontend() -> None:
    assert isinstance(Espcn(), ZooFrontend)


def test_names_and_shapes_are_those_of_public_checkpoints(oracles: Path) -> None:
    network = EspcnNet()
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == keys_of(oracles, "espcn_x4")
    assert sum(p.numel() for p in network.parameters()) == 30_738


def test_network_and_program_equal_the_reference(oracles: Path, caller) -> None:
    with np.load(oracles / "parity" / "espcn_x4.npz") as parity:
        frames, expected = parity["in0"], parity["out0"]
    asked = request(*frames.shape[2:])
    assert relative_error(Espcn().reference(asked)([frames])[0], expected) < PARITY
    assert relative_error(run_program(Espcn().export(asked), [frames], caller), expected) < THROUGH_ONNX


@pytest.mark.parametrize("tail", TAILS)
def test_program_equals_the_network_over_a_clip(tail: str, caller) -> None:
    model = assert_program_equals_network(Espcn(), request(13, 18, options={"tail": tail}), 3, caller)
    assert model.program.frame.color == "y"
    facts = analysis.analyze(model.program)
    assert facts.latency == 0
    assert not any(stream.state for stream in facts.streams.values())


def test_tails_are_three_networks() -> None:
    frame = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)
    pictures = [Espcn().reference(request(8, 8, options={"tail": tail}))([frame])[0] for tail in TAILS]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert relative_error(one, other) > 100 * PARITY


def test_an_unknown_tail_is_refused() -> None:
    with pytest.raises(
        BadInputError, match="espcn option tail=subconv is none of shuffle, resize, transposed"
    ):
        Espcn().reference(request(8, 8, options={"tail": "subconv"}))
