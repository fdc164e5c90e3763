"""EDVR: the networks against the reference outputs, their export against the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.edvr import Edvr, EdvrL, EdvrM
from superlower.frontends.zoo.edvr_torch import EdvrNet
from superlower.program import analysis
from support.zoo import (
    PARITY,
    THROUGH_ONNX,
    assert_order_matters,
    assert_program_equals_network,
    clip,
    keys_of,
    relative_error,
    request,
)

PUBLISHED = [
    (EdvrM(), "edvr_m", {}),
    (EdvrL(), "edvr_l_woTSA_c128b4", {"blocks": "4", "tsa": "no"}),
]

TOLERANCE = PARITY / 10
"""Seeded, nearly all of an output is the frame itself, enlarged; neighbours' part is a few thousandths."""


@pytest.mark.parametrize("frontend", [EdvrM(), EdvrL()], ids=lambda f: f.name)
def test_is_a_zoo_frontend(frontend: Edvr) -> None:
    assert isinstance(frontend, ZooFrontend)


@pytest.mark.parametrize(("frontend", "name", "options"), PUBLISHED)
def test_names_and_shapes_are_those_of_public_checkpoints(
    frontend: Edvr, name: str, options: dict[str, str], oracles: Path
) -> None:
    network = frontend._network(request(16, 16, options=options))
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == keys_of(oracles, name)


@pytest.mark.parametrize(
    ("frames", "sizes", "attention", "parameters"),
    [
        (5, (64, 10), True, 3_300_131),
        (5, (64, 10), False, 2_996_259),
        (5, (128, 40), True, 20_633_827),
        (7, (128, 40), True, 20_699_363),
    ],
)
def test_parameters(frames: int, sizes: tuple[int, int], attention: bool, parameters: int) -> None:
    with torch.device("meta"):
        network = EdvrNet(*sizes, frames, attention=attention)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("frontend", "name", "options"),
    [pytest.param(*PUBLISHED[0], id="m"), pytest.param(*PUBLISHED[1], id="l", marks=pytest.mark.slow)],
)
def test_network_and_graph_equal_the_reference(
    frontend: Edvr, name: str, options: dict[str, str], oracles: Path, caller
) -> None:
    with np.load(oracles / "parity" / f"{name}.npz") as parity:
        frames, expected = list(parity["in0"][0][:, None]), parity["out0"]
    asked = request(*frames[0].shape[2:], options=options)
    network = frontend._network(asked)
    with torch.no_grad():
        found = network.upscale(*(torch.from_numpy(frame) for frame in frames))
    assert relative_error(found.numpy(), expected) < TOLERANCE
    model = frontend.export(asked)
    feeds = dict(zip(model.program.equations[0].inputs, frames, strict=True))
    assert relative_error(caller(model)("upscale", feeds)["output"], expected) < THROUGH_ONNX / 10


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"frames": "3"}, id="three-frames"),
        pytest.param({"tsa": "no", "frames": "7"}, id="seven-frames", marks=pytest.mark.slow),
    ],
)
def test_program_equals_the_network_over_a_clip(options: dict[str, str], caller) -> None:
    asked = request(11, 16, options={"features": "16", "blocks": "1", **options})
    model = assert_program_equals_network(EdvrM(), asked, 5, caller, TOLERANCE, shorter=[1])
    assert model.program.frame.padded == (12, 16)
    assert analysis.analyze(model.program).latency == int(options["frames"]) // 2
    operators = [node.op_type for node in model.graphs["upscale"].graph]
    assert operators.count("DeformConv") == 4 * int(options["frames"])
    assert_order_matters(EdvrM(), asked, model, TOLERANCE)


def test_frames_beyond_the_ends_mirror_those_within() -> None:
    asked = request(12, 12, options={"features": "16", "blocks": "1"})
    run = EdvrM().reference(asked)
    frames = clip(12, 12, 4)
    with torch.no_grad():
        window = [torch.from_numpy(frames[i]) for i in (2, 1, 0, 1, 2)]
        expected = EdvrM()._network(asked).upscale(*window).numpy()
    np.testing.assert_array_equal(run(frames)[0], expected)


def test_a_checkpoint_says_its_form(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(EdvrNet(24, 3, 7, attention=False).state_dict(), path)
    network = EdvrL()._network(request(16, 16, path))
    assert (network.features, network.blocks, network.frames, network.attention) == (24, 3, 7, False)
    with pytest.raises(
        BadInputError, match="24 channels, 3 blocks and 5 frames, without attention: keys 1 of"
    ):
        EdvrL()._network(request(16, 16, path, {"frames": "5"}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": "4"}, "edvr-m option frames=4 has no middle"),
        ({"frames": "1"}, "frames=1 is not a whole number of frames, 3 or more"),
        ({"features": "20"}, "features=20 is no multiple of 8"),
        ({"tsa": "maybe"}, "tsa=maybe is none of yes, no"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        EdvrM().reference(request(16, 16, options=options))
