"""IconVSR: the network against the reference, its export against the network, windows at clips' ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.iconvsr import IconVsr, extractions
from superlower.frontends.zoo.iconvsr_torch import IconVsrNet
from superlower.program import analysis, when
from support.zoo import (
    PARITY,
    THROUGH_ONNX,
    assert_order_matters,
    assert_program_equals_network,
    keys_of,
    relative_error,
    request,
    run_program,
)


def test_is_a_zoo_frontend() -> None:
    assert isinstance(IconVsr(), ZooFrontend)


def test_names_and_shapes_are_those_of_public_checkpoints(oracles: Path) -> None:
    with torch.device("meta"):
        network = IconVsrNet(30, 5, 5)
    found = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert found == keys_of(oracles, "iconvsr_pad2_nb30")


@pytest.mark.parametrize(("window", "parameters"), [(5, 8_694_991), (7, 8_711_375)])
def test_parameters(window: int, parameters: int) -> None:
    with torch.device("meta"):
        network = IconVsrNet(30, window, 5)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.slow
def test_network_and_program_equal_the_reference(oracles: Path, caller) -> None:
    with np.load(oracles / "parity" / "iconvsr_pad2_nb30.npz") as parity:
        given, expected = parity["in0"][0], parity["out0"][0]
    height, width = given.shape[2:]
    asked = request(height, width)
    model = IconVsr().export(asked)
    padded = model.program.frame.padded
    assert padded == (40, 44)
    margins = ((0, 0), (0, 0), (0, padded[0] - height), (0, padded[1] - width))
    frames = list(np.pad(given, margins, mode="reflect")[:, None])
    crop = np.s_[:, :, : 4 * height, : 4 * width]
    assert relative_error(np.concatenate(IconVsr().reference(asked)(frames))[crop], expected) < PARITY
    assert relative_error(run_program(model, frames, caller)[crop], expected) < THROUGH_ONNX


ALL = ["flow", "extract", "backward", "backward_key", "forward", "forward_key"]


@pytest.mark.parametrize(
    "traced",
    [
        pytest.param(None, id="all six graphs", marks=pytest.mark.slow),
        pytest.param(["forward_key"], id="one graph"),
    ],
)
def test_program_equals_the_network_over_a_clip(caller, traced: list[str] | None) -> None:
    """Four frames: keyframes 0 and 2, whose window reaches over the end, and the last, 3."""
    asked = request(36, 36, options={"blocks": "1", "stride": "2"})
    model = assert_program_equals_network(IconVsr(), asked, 4, caller, shorter=[], traced=traced)
    assert model.graphs.keys() == set(traced or ALL)
    facts = analysis.analyze(model.program)
    assert facts.latency is None
    assert {name for name, stream in facts.streams.items() if stream.state} == {"hb", "hf"}
    assert_order_matters(IconVsr(), asked, model)


@pytest.mark.parametrize(("radius", "stride"), [(2, 5), (3, 5), (2, 1), (2, 2), (3, 7)])
def test_every_keyframe_of_every_clip_has_its_window_once(radius: int, stride: int) -> None:
    """Against the published rule: before a clip of frames 0, 1, ... stand radius + radius, ..., radius + 1,
    and alike after it."""
    equations = extractions(radius, stride)
    used = set()
    for frames in range(2 * radius + 1, 4 * radius + 2 * stride + 3):
        first = list(range(2 * radius, radius, -1))
        last = [frames - 1 - i for i in reversed(first)]
        padded = first + list(range(frames)) + last
        for t in range(frames):
            found = [e for e in equations if when.parse(e.when)(t, frames)]
            key = t % stride == 0 or t == frames - 1
            assert len(found) == key
            for equation in found:
                used.add(equation.name)
                reads = [t + read.offset for read in equation.reads.values()]
                assert reads == padded[t : t + 2 * radius + 1]
    assert used >= {"extract", f"extract_0_{radius}", f"extract_{radius}_0"}


def test_stride_and_window_are_options() -> None:
    network = IconVsr()._network(request(36, 36, options={"blocks": "1", "window": "7", "stride": "3"}))
    assert (network.blocks, network.window, network.stride) == (1, 7, 3)
    with pytest.raises(BadInputError, match="window=4 has no middle"):
        IconVsr()._network(request(36, 36, options={"window": "4"}))


def test_a_checkpoint_says_its_form(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"params": IconVsrNet(2, 7, 5).state_dict()}, path)
    network = IconVsr()._network(request(36, 36, path))
    assert (network.blocks, network.window) == (2, 7)
