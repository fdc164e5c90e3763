"""BasicVSR++: the network against the reference output, its export against the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.basicvsr import MMAGIC_RULES
from superlower.frontends.zoo.basicvsrpp import BasicVsrPlusPlus
from superlower.frontends.zoo.basicvsrpp_torch import BasicVsrPlusPlusNet
from superlower.frontends.zoo.checkpoint import rename
from superlower.program import analysis
from support.parity import mmagic_checkpoint
from support.zoo import (
    PARITY,
    THROUGH_ONNX,
    assert_order_matters,
    assert_program_equals_network,
    keys_of,
    recipe,
    relative_error,
    request,
    run_program,
)

NAME = "basicvsrpp_c64n7"


@pytest.fixture(scope="module")
def checkpoint(oracles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as mmagic writes them, with the reference's weights."""
    return mmagic_checkpoint(oracles, tmp_path_factory.mktemp("basicvsrpp"))


def test_is_a_zoo_frontend() -> None:
    assert isinstance(BasicVsrPlusPlus(), ZooFrontend)


def test_names_and_shapes_are_those_of_public_checkpoints(oracles: Path) -> None:
    with torch.device("meta"):
        network = BasicVsrPlusPlusNet(7)
    expected = {rename(key, MMAGIC_RULES): shape for key, shape in keys_of(oracles, NAME).items()}
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == expected
    assert sum(p.numel() for p in network.parameters()) == 7_322_927


@pytest.mark.slow
def test_network_and_program_equal_the_reference(oracles: Path, checkpoint: Path, caller) -> None:
    with np.load(oracles / "parity" / f"{NAME}.npz") as parity:
        frames, expected = list(parity["in0"][0][:, None]), parity["out0"][0]
    asked = request(64, 64, checkpoint)
    assert relative_error(np.concatenate(BasicVsrPlusPlus().reference(asked)(frames)), expected) < PARITY
    assert (
        relative_error(run_program(BasicVsrPlusPlus().export(asked), frames, caller), expected) < THROUGH_ONNX
    )


@pytest.mark.parametrize(
    ("traced", "aligned"),
    [
        pytest.param(None, 4, id="all twelve graphs", marks=pytest.mark.slow),
        pytest.param(["compose", "forward_2"], 1, id="two graphs"),
    ],
)
def test_program_equals_the_network_over_a_clip(caller, traced: list[str] | None, aligned: int) -> None:
    """Three frames: each sweep begins, has one state before it, has two."""
    asked = request(64, 64, options={"blocks": "1"})
    model = assert_program_equals_network(BasicVsrPlusPlus(), asked, 3, caller, shorter=[], traced=traced)
    assert len(model.graphs) == (12 if traced is None else len(traced))
    facts = analysis.analyze(model.program)
    assert {name for name, stream in facts.streams.items() if stream.state} == {"b1", "f1", "b2", "f2"}
    assert (
        sum(node.op_type == "DeformConv" for graph in model.graphs.values() for node in graph.graph)
        == aligned
    )
    assert_order_matters(BasicVsrPlusPlus(), asked, model)


def test_alignment_reads_along_the_flow() -> None:
    """With offsets, masks and weights of an identity, the first state comes back as its flow moves it."""
    network = BasicVsrPlusPlusNet(1)
    align = network.deform_align["forward_1"]
    state = torch.rand(1, 64, 6, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in align.parameters():
            parameter.zero_()
        align.weight[:, :64, 1, 1] = torch.eye(64)
        flow = torch.zeros(1, 2, 6, 8)
        flow[:, 0], flow[:, 1] = 2.0, 1.0
        found = align(torch.zeros_like(state), state, torch.zeros_like(state), flow, torch.zeros_like(flow))
    # A mask of zeros' sigmoid is a half.
    assert torch.allclose(found[:, :, :5, :6], 0.5 * state[:, :, 1:, 2:], atol=1e-5)
    assert torch.allclose(found[:, :, 5:], torch.zeros(1, 64, 1, 8), atol=1e-5)


def test_a_checkpoint_of_mmagic_is_read(checkpoint: Path) -> None:
    network = BasicVsrPlusPlus()._network(request(64, 64, checkpoint))
    assert network.blocks == 7
    name = "upsample1.upsample_conv.weight"
    np.testing.assert_array_equal(network.upconv1.weight.detach().numpy(), recipe(name, (256, 64, 3, 3)))
