from __future__ import annotations

from superlower.driver.receptive import reach
from superlower.program.model import TemporalModel
from support import models, windows
from support.windows import WindowBuilder


def window(*, warp: bool = False) -> TemporalModel:
    g = WindowBuilder()
    (x,) = g.frames(0)
    features = g.net(x)
    if warp:
        grid = g.Transpose(g.conv(features, 4, 2, 7), perm=[0, 2, 3, 1])
        features = g.GridSample(features, grid)
    return windows.window(g, g.conv(features, 4, 3, 5), [0])


def test_each_convolution_adds_its_half_width() -> None:
    assert reach(window()) == 3


def test_samples_where_data_decide_have_no_bound() -> None:
    assert reach(window(warp=True)) is None


def test_neighbouring_frames_look_no_further() -> None:
    assert reach(models.window()) == 3


def test_a_state_passed_on_through_convolutions_has_no_bound() -> None:
    assert reach(models.recurrent()) is None
    assert reach(models.bidirectional()) is None
