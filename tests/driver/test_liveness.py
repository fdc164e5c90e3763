from __future__ import annotations

import pytest

from superlower.driver.liveness import activation_bytes, weight_bytes
from superlower.driver.memory import OVERHEADS, predict
from superlower.program import analysis
from support import models
from support.graphs import GraphBuilder

PLANE = 4 * 8 * 8
"""Bytes of one float32 channel of 8x8."""


def conv(g: GraphBuilder, x, into: int, out: int):
    return g.Conv(x, g.const([[[[0.5]]] * into] * out))


def test_a_chain_holds_what_a_node_reads_and_makes() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    y = conv(g, conv(g, conv(g, x, 3, 8), 8, 4), 4, 3)
    # The second convolution's: 8 channels in, 4 out. The graph's own input and output are others'.
    assert activation_bytes(g.model(y)) == (8 + 4) * PLANE


def test_elementwise_writes_over_what_dies_and_views_take_nothing() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    y = g.Reshape(g.Relu(conv(g, x, 3, 8)), g.ints(1, 8, 64))
    y = g.Reshape(g.Relu(y), g.ints(1, 8, 8, 8))
    assert activation_bytes(g.model(conv(g, y, 8, 3))) == 8 * PLANE


def test_what_is_read_later_stays_and_isnt_written_over() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    kept = conv(g, x, 3, 8)
    y = g.Add(conv(g, g.Relu(kept), 8, 8), kept)
    assert activation_bytes(g.model(conv(g, y, 8, 3))) == 3 * 8 * PLANE


def test_weights_count_as_constants_and_as_nodes() -> None:
    for as_nodes in (False, True):
        g = GraphBuilder(constants_as_nodes=as_nodes)
        x = g.input("x", 1, 3, 8, 8)
        assert weight_bytes(g.model(conv(g, x, 3, 8))) == 4 * 3 * 8


@pytest.mark.parametrize("backend", sorted(OVERHEADS))
def test_a_larger_frame_takes_more_of_engines_and_streams_alone(backend: str) -> None:
    small, large = (predict(models.recurrent(side, side), backend, 5) for side in (16, 32))
    assert small.process == large.process
    assert small.engines < large.engines < 4 * small.engines
    assert large.streams == 4 * small.streams == analysis.peak_bytes(models.recurrent().program, 5, 32, 32)
    assert large.total == large.process + large.engines + large.streams
