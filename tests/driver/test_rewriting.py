"""Operations and time a frame before and after a program pass."""

from __future__ import annotations

import pytest

from superlower.driver.flops import clip_macs
from superlower.driver.rewriting import frame_flops, measure
from superlower.program.model import TemporalModel
from superlower.rewrites.hoist_frames import HoistFrames
from support.windows import SIDE, WindowBuilder, clip, window

NET = 9 * (3 * 4 + 4 * 4)
"""Products of one pixel of `WindowBuilder.net` with 3 channels in, 4 between and 4 out."""


@pytest.fixture
def model() -> TemporalModel:
    g = WindowBuilder()
    nets = [g.net(x) for x in g.frames(-1, 0, 1)]
    return window(g, g.conv(g.Concat(*nets, axis=1), 12, 3, 9), (-1, 0, 1))


def test_a_frame_costs_what_its_convolutions_say(model: TemporalModel) -> None:
    fusion = 9 * 12 * 3
    assert frame_flops(model) == 2 * SIDE**2 * (3 * NET + fusion)
    gain = measure(model, [HoistFrames()], clip(5), rounds=2)
    assert gain.before.flops == frame_flops(model)
    assert gain.after.flops == 2 * SIDE**2 * (NET + fusion) == frame_flops(gain.model)
    assert clip_macs(gain.model, 5) == 5 * SIDE**2 * (NET + fusion)
    assert len(gain.before.rounds_ms) == len(gain.after.rounds_ms) == 2
    assert min(gain.before.ms, gain.after.ms, gain.ratio) > 0
    (report,) = gain.reports
    assert report.deviation is not None
    assert report.deviation.absolute == 0


def test_frames_at_the_ends_are_not_counted() -> None:
    """Pairs are shared inside the clip; its first frame computes both of its own."""
    g = WindowBuilder()
    a, b, c = g.frames(-1, 0, 1)
    pairs = [g.net(g.Concat(x, y, axis=1), 1, 6) for x, y in ((a, b), (b, c))]
    model = window(g, g.conv(g.Concat(*pairs, axis=1), 8, 3, 9), (-1, 0, 1))
    after = HoistFrames().run(model).model
    pair, fusion = 9 * (6 * 4 + 4 * 4), 9 * 8 * 3
    assert frame_flops(after) == 2 * SIDE**2 * (pair + fusion)
    assert clip_macs(after, 4) == SIDE**2 * (4 * (pair + fusion) + 2 * pair)
