"""What the networks cost: the figures known of the published ones, from shapes alone.

Convolutions and deformable ones only; one frame of 180x320 to 720x1280 unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

pytest.importorskip("torch", reason="PyTorch isn't installed")

import torch
from torch import nn

from superlower.frontends.zoo.basicvsr_torch import BasicVsrNet
from superlower.frontends.zoo.basicvsrpp_torch import SWEEPS, BasicVsrPlusPlusNet
from superlower.frontends.zoo.edvr_torch import EdvrNet
from superlower.frontends.zoo.egvsr_torch import EgvsrNet
from superlower.frontends.zoo.espcn_torch import EspcnNet
from superlower.frontends.zoo.frvsr_torch import FrameRecurrentNet
from superlower.frontends.zoo.iconvsr_torch import IconVsrNet
from superlower.frontends.zoo.layers_torch import SpyNet
from superlower.frontends.zoo.rsdn_torch import RsdnNet
from superlower.frontends.zoo.sofvsr_accv_torch import SofVsrAccvNet
from superlower.frontends.zoo.sofvsr_torch import SofVsrNet
from superlower.frontends.zoo.vespcn_torch import VespcnNet
from support.zoo import convolution_macs

SIZE = (180, 320)
GIGA = 1e9


def picture(channels: int = 3, times: int = 1, size: tuple[int, int] = SIZE) -> tuple[int, ...]:
    return (1, channels, times * size[0], times * size[1])


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return make()


def frame_recurrent(network: FrameRecurrentNet, size: tuple[int, int] = SIZE, **options: bool) -> int:
    frame = picture(size=size)
    flow = convolution_macs(network, network.estimate_flow, frame, frame, **options)
    # The flow is enlarged, not convolved.
    shapes = (frame, picture(48, size=size))
    return flow + convolution_macs(network.srnet, network.srnet, *shapes, **options)


@pytest.mark.parametrize(
    ("make", "channels", "frames", "gmacs"),
    [
        (lambda: EdvrNet(64, 10, 5), 3, 5, 486.8),
        (lambda: EdvrNet(64, 10, 5, attention=False), 3, 5, 469.1),
        (lambda: EdvrNet(128, 40, 5), 3, 5, 2115.5),
        (lambda: EdvrNet(128, 40, 7), 3, 7, 2625.5),
        (lambda: VespcnNet(1), 1, 3, 48.3),
        (SofVsrAccvNet, 1, 3, 113.1),
        (lambda: SofVsrNet(2), 1, 3, 103.5),
        (lambda: SofVsrNet(3), 1, 3, 123.7),
        (lambda: SofVsrNet(4), 1, 3, 120.8),
    ],
)
def test_windows(make: Callable[[], nn.Module], channels: int, frames: int, gmacs: float) -> None:
    network = made(make)
    found = convolution_macs(network, network.upscale, *[picture(channels)] * frames)
    assert found / GIGA == pytest.approx(gmacs, abs=0.051)


def test_single_frames() -> None:
    network = made(EspcnNet)
    assert convolution_macs(network, network, picture(1)) / GIGA == pytest.approx(1.7, abs=0.051)
    spynet = made(SpyNet)
    assert convolution_macs(spynet, spynet, picture(), picture()) / GIGA == pytest.approx(19.65, abs=0.0051)


def test_recurrent_ones() -> None:
    rsdn = made(RsdnNet)
    states = (picture(128), picture(48), picture(48))
    found = convolution_macs(rsdn, rsdn.step, picture(), picture(), *states)
    assert found / GIGA == pytest.approx(355.7, abs=0.051)
    tecogan = made(lambda: FrameRecurrentNet(10, bicubic=False, warm_up=0))
    assert frame_recurrent(tecogan) / GIGA == pytest.approx(63.6, abs=0.051)


CLIP = 11
"""Frames of the clip that figures of bidirectional networks are means over: its ends cost less."""


def test_basicvsr() -> None:
    network = made(lambda: BasicVsrNet(30))
    hidden, flow = picture(64), picture(2)
    flows = 2 * convolution_macs(network, network.estimate_flow, picture(), picture())
    trunks = convolution_macs(network, network.propagate_backward, picture(), hidden, flow)
    trunks += convolution_macs(network, network.propagate_forward, picture(), hidden, flow, hidden)
    assert trunks / GIGA == pytest.approx(337.8, abs=0.051)
    found = (CLIP * trunks + (CLIP - 1) * flows) / CLIP
    assert found / GIGA == pytest.approx(373.5, abs=0.051)


@pytest.mark.parametrize(("window", "gmacs"), [(5, 477.4), (7, 516.7)])
def test_iconvsr(window: int, gmacs: float) -> None:
    network = made(lambda: IconVsrNet(30, window, 5))
    x, hidden, flow = picture(), picture(64), picture(2)
    flows = 2 * convolution_macs(network, network.estimate_flow, x, x)
    key = convolution_macs(network, network.extract, *[x] * window)
    key += convolution_macs(network, network.propagate_backward_key, x, hidden, flow, hidden)
    key += convolution_macs(network, network.propagate_forward_key, x, hidden, flow, hidden, hidden)
    rest = convolution_macs(network, network.propagate_backward, x, hidden, flow)
    rest += convolution_macs(network, network.propagate_forward, x, hidden, flow, hidden)
    keys = len([t for t in range(CLIP) if t % 5 == 0 or t == CLIP - 1])
    found = (keys * key + (CLIP - keys) * rest + (CLIP - 1) * flows) / CLIP
    assert found / GIGA == pytest.approx(gmacs, abs=0.051)


def test_basicvsr_plus_plus() -> None:
    network = made(lambda: BasicVsrPlusPlusNet(7))
    state, flow = picture(64), picture(2)
    found = CLIP * convolution_macs(network, network.extract, picture())
    found += CLIP * convolution_macs(network, network.reconstruct, picture(), *[state] * 5)
    found += (CLIP - 1) * 2 * convolution_macs(network, network.estimate_flow, picture(), picture())
    for i, sweep in enumerate(SWEEPS):
        others = [state] * i
        propagate, start = partial(network.propagate, sweep), partial(network.start, sweep)
        shapes = (state, state, state, flow, flow, *others)
        found += (CLIP - 1) * convolution_macs(network, propagate, *shapes)
        found += convolution_macs(network, start, state, *others)
    assert found / CLIP / GIGA == pytest.approx(422.2, abs=0.051)


def test_costs_that_egvsr_was_compared_with() -> None:
    """GFLOPs for 960x540 to 4K, as its authors count them: 869.46, 2035.11 and 1718.65. Their share of 257.10
    for EGVSR can't be met: the released network takes 927.4."""
    size = (540, 960)
    vespcn = made(lambda: VespcnNet(1))
    found = 2 * convolution_macs(vespcn, vespcn.upscale, *[picture(1, size=size)] * 3)
    assert found / GIGA == pytest.approx(869.46, abs=0.0051)
    sofvsr = made(SofVsrAccvNet)
    found = 2 * convolution_macs(sofvsr, sofvsr.upscale, *[picture(1, size=size)] * 3)
    assert found / GIGA == pytest.approx(2035.11, abs=0.0051)
    tecogan = made(lambda: FrameRecurrentNet(10, bicubic=False, warm_up=0))
    assert 2 * frame_recurrent(tecogan, size, transposed_at_output=True) / GIGA == pytest.approx(
        1718.65, abs=0.0051
    )
    assert 2 * frame_recurrent(tecogan, size) / GIGA == pytest.approx(1145.34, abs=0.0051)
    egvsr = made(lambda: EgvsrNet(10, bicubic=False, warm_up=0))
    assert 2 * frame_recurrent(egvsr, size) / GIGA == pytest.approx(927.4, abs=0.051)
