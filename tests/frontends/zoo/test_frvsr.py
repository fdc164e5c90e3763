"""FRVSR, TecoGAN and EGVSR: the networks against the reference steps, programs against networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch

from superlower.errors import BadInputError
from superlower.frontends.base import ZooFrontend
from superlower.frontends.zoo.egvsr import Egvsr
from superlower.frontends.zoo.frvsr import FrameRecurrent, Frvsr
from superlower.frontends.zoo.frvsr_torch import BicubicUpsampler, FlowNet, FrameRecurrentNet, space_to_depth
from superlower.frontends.zoo.tecogan import TecoGan
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
    run_program,
)

STEPS = [
    (TecoGan(), "tecogan_frvsr_nb10_BD_step", "bd", 2_589_093),
    (Frvsr(), "tecogan_frvsr_nb10_BI_step", "bi", 2_589_093),
    (Egvsr(), "egvsr_nb10_BD_step", "bd", 2_587_473),
]


@pytest.mark.parametrize("frontend", [Frvsr(), TecoGan(), Egvsr()], ids=lambda f: f.name)
def test_is_a_zoo_frontend(frontend: FrameRecurrent) -> None:
    assert isinstance(frontend, ZooFrontend)


@pytest.mark.parametrize(("frontend", "name", "degradation", "parameters"), STEPS)
def test_names_and_shapes_are_those_of_public_checkpoints(
    frontend: FrameRecurrent, name: str, degradation: str, parameters: int, oracles: Path
) -> None:
    network = frontend.network(request(16, 16, options={"degradation": degradation}))
    assert {k: tuple(v.shape) for k, v in network.state_dict().items()} == keys_of(oracles, name)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("blocks", "parameters"),
    [(16, 3_032_229), (9, 2_515_237), (7, 2_367_525), (5, 2_219_813), (3, 2_072_101), (1, 1_924_389)],
)
def test_parameters_by_blocks(blocks: int, parameters: int) -> None:
    network = FrameRecurrentNet(blocks, bicubic=False, warm_up=0)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("frontend", "name", "degradation"),
    [
        pytest.param(*STEPS[0][:3], id="tecogan-bd"),
        pytest.param(*STEPS[1][:3], id="frvsr-bi", marks=pytest.mark.slow),
        pytest.param(*STEPS[2][:3], id="egvsr-bd"),
    ],
)
def test_step_equals_the_reference(
    frontend: FrameRecurrent, name: str, degradation: str, oracles: Path, caller
) -> None:
    with np.load(oracles / "parity" / f"{name}.npz") as parity:
        x, before, previous = (parity[f"in{i}"] for i in range(3))
        expected = [parity[f"out{i}"] for i in range(3) if f"out{i}" in parity]
    asked = request(*x.shape[2:], options={"degradation": degradation, "warmup": "0"})
    network = frontend.network(asked)
    with torch.no_grad():
        given = [torch.from_numpy(array) for array in (x, before, previous)]
        flow = network.estimate_flow(*given[:2])
        found = [network.upscale(given[0], flow, given[2]), *network.compensate(flow, given[2])]
    for one, reference in zip(found, expected, strict=False):
        assert relative_error(one.numpy(), reference) < PARITY
    call = caller(frontend.export(asked))
    through = call("flow", {"ref": x, "sup": before})["flow"]
    picture = call("upscale", {"x": x, "flow": through, "previous": previous})["output"]
    assert relative_error(picture, expected[0]) < THROUGH_ONNX


@pytest.mark.parametrize(
    ("frontend", "options"),
    [
        pytest.param(Frvsr(), {"degradation": "bi"}, id="frvsr"),
        pytest.param(TecoGan(), {"warmup": "2"}, id="tecogan", marks=pytest.mark.slow),
        pytest.param(Egvsr(), {"warmup": "0"}, id="egvsr"),
    ],
)
def test_program_equals_the_network_over_a_clip(
    frontend: FrameRecurrent, options: dict[str, str], caller
) -> None:
    asked = request(17, 24, options={"blocks": "1", **options})
    model = assert_program_equals_network(frontend, asked, 8, caller)
    assert_order_matters(frontend, asked, model)


def test_warm_up_is_what_clips_with_mirrored_frames_in_front_give(caller) -> None:
    frames = clip(16, 16, 5)
    asked = {"blocks": "1", "degradation": "bi"}
    bare = Frvsr().reference(request(16, 16, options={**asked, "warmup": "0"}))
    expected = bare([frames[3], frames[2], frames[1], *frames])[3:]
    model = Frvsr().export(request(16, 16, options={**asked, "warmup": "3"}))
    found = run_program(model, frames, caller)
    assert relative_error(found, np.concatenate(expected)) < PARITY
    assert relative_error(found[:1], bare(frames)[0]) > 100 * PARITY
    assert analysis.analyze(model.program).latency == 3


def test_bicubic_upsampling_is_keys_cubic_at_quarter_phases() -> None:
    """Against the definition, one output pixel at a time, in double precision."""

    def weight(distance: float, a: float = -0.75) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    image = np.random.default_rng(0).random((5, 6))
    expected = np.zeros((20, 24))
    for row, column in np.ndindex(20, 24):
        for i, j in np.ndindex(4, 4):
            y, x = row // 4 + i - 1, column // 4 + j - 1
            value = image[min(max(y, 0), 4), min(max(x, 0), 5)]
            expected[row, column] += value * weight(row / 4 - y) * weight(column / 4 - x)
    found = BicubicUpsampler()(torch.from_numpy(image[None, None]).float())[0, 0].numpy()
    # Sixteen products of numbers up to 1.3, each rounded to 2^-24.
    assert np.abs(found - expected).max() < 16 * 1.3 * 2**-23


def test_space_to_depth_is_onnx_order() -> None:
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    found = space_to_depth(x, 2)[0, :, 0, 0]
    assert found.tolist() == [0.0, 16.0, 1.0, 17.0, 4.0, 20.0, 5.0, 21.0]


def test_flow_covers_sides_that_eight_does_not_divide() -> None:
    frames = torch.rand(2, 1, 3, 21, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flow = FlowNet()(*frames)
    assert flow.shape == (1, 2, 21, 30)
    assert torch.equal(flow[:, :, 16:], flow[:, :, 10:15].flip(2))
    assert torch.equal(flow[:, :, :, 24:], flow[:, :, :, 17:23].flip(3))


def test_a_checkpoint_says_blocks_and_degradation(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(FrameRecurrentNet(3, bicubic=False, warm_up=0).state_dict(), path)
    network = Frvsr().network(request(16, 16, path))
    assert (len(network.inner), network.bicubic) == (3, False)
    with pytest.raises(
        BadInputError, match=r"FRVSR BD with 3 blocks: keys 2 missing \(upsample_func.kernels"
    ):
        Frvsr().network(request(16, 16, path, {"degradation": "bd"}))
    with pytest.raises(BadInputError, match="another architecture than EGVSR BI with 3 blocks"):
        Egvsr().network(request(16, 16, path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degradation": "blur"}, "degradation=blur is none of bi, bd"),
        ({"warmup": "-1"}, "warmup=-1 is not a whole number of frames"),
        ({"warm": "1"}, "did you mean warmup"),
    ],
)
def test_bad_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Frvsr().reference(request(16, 16, options=options))
