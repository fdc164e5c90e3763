"""Validation finds what moved, names it, and isn't fooled."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from superlower.errors import BadInputError, OutputsDifferError
from superlower.passes.base import EXACT, Budget
from superlower.passes.validate import FLOW_PIXELS, Deviation, seeded_feeds, validate
from support.graphs import GraphBuilder


def doubler(factor: float, bias: float = 0.0, shape: tuple[int, ...] = (2, 3)) -> ir.Model:
    g = GraphBuilder()
    x = g.input("x", *shape)
    return g.model(g.Mul(x, g.const(factor)), g.Add(x, g.const(bias)))


FEEDS = [{"x": np.full((2, 3), 4.0, np.float32)}]


def test_equal_graphs_deviate_by_nothing() -> None:
    assert validate(doubler(2), doubler(2), EXACT, FEEDS, pass_name="p") == Deviation()


def test_the_last_bit_is_over_an_exact_budget() -> None:
    nearly = float(np.nextafter(np.float32(2), np.float32(3)))
    with pytest.raises(OutputsDifferError, match=r"pass p on graph 'graph' moved output 'out0' by 1\.19e-07"):
        validate(doubler(2), doubler(nearly), EXACT, FEEDS, pass_name="p")


def test_relative_to_the_outputs_range_and_to_one() -> None:
    found = validate(doubler(2), doubler(2.5), Budget(0.3, ""), FEEDS, pass_name="p")
    assert found == Deviation(relative=0.25, absolute=2.0, tensor="out0")
    small = [{"x": np.full((2, 3), 0.01, np.float32)}]
    found = validate(doubler(2), doubler(3), Budget(0.3, ""), small, pass_name="p")
    assert found.relative == pytest.approx(0.01)


def test_the_worst_of_all_feeds_and_outputs_counts() -> None:
    feeds = [*FEEDS, {"x": np.full((2, 3), 0.5, np.float32)}]
    found = validate(doubler(2), doubler(2, bias=2.0), Budget(2, ""), feeds, pass_name="p")
    assert (found.tensor, found.relative) == ("out1", 2.0)


def test_nan_that_appears_is_infinitely_far() -> None:
    with pytest.raises(OutputsDifferError, match="by inf"):
        validate(doubler(2), doubler(float("nan")), Budget(1e9, ""), FEEDS, pass_name="p")


def test_nan_that_was_there_is_equal() -> None:
    same = validate(doubler(float("nan")), doubler(float("nan")), EXACT, FEEDS, pass_name="p")
    assert same == Deviation()


def test_changed_outputs_and_shapes_are_named() -> None:
    g = GraphBuilder()
    x = g.input("x", 2, 3)
    other = g.model(g.Mul(x, g.const(2)), g.ReduceSum(x))
    with pytest.raises(OutputsDifferError, match=r"changed the shape of 'out1' from \(2, 3\) to \(1, 1\)"):
        validate(doubler(2), other, Budget(1e9, ""), FEEDS, pass_name="p")


def test_a_graph_that_does_not_run_is_the_passs_fault() -> None:
    g = GraphBuilder()
    broken = g.model(g.Gather(g.input("x", 2, 3), g.ints(0)))
    for value in broken.graph.initializers.values():
        value.const_value = ir.tensor(np.array([9]))
    with pytest.raises(OutputsDifferError, match="pass p on graph 'graph': it can't be run"):
        validate(doubler(2), broken, EXACT, FEEDS, pass_name="p")


def test_seeded_feeds_look_like_video() -> None:
    g = GraphBuilder()
    inputs = [
        g.input("x", 1, 3, 64, 64),
        g.input("motion", 1, 2, 64, 64),
        g.input("hidden", 1, 16, 64, 64),
        g.input("half", 1, 3, 8, 8, dtype=ir.DataType.FLOAT16),
    ]
    model = g.model(*(g.Relu(v) for v in inputs))
    feeds = seeded_feeds(model, 7)
    assert feeds["x"].min() >= 0 and feeds["x"].max() <= 1  # noqa: PT018
    # Standard errors of a deviation over n samples are 1 / sqrt(2 n): five of them.
    assert feeds["motion"].std() == pytest.approx(FLOW_PIXELS, rel=5 / np.sqrt(2 * 8192))
    assert feeds["hidden"].std() == pytest.approx(0.5, rel=5 / np.sqrt(2 * 65536))
    assert feeds["half"].dtype == np.float16
    again = seeded_feeds(model, 7)
    assert all(np.array_equal(feeds[k], again[k]) for k in feeds)
    assert not np.array_equal(feeds["x"], seeded_feeds(model, 8)["x"])


def test_seeded_feeds_do_not_depend_on_other_inputs() -> None:
    g, h = GraphBuilder(), GraphBuilder()
    one = g.model(g.Relu(g.input("x", 1, 3, 8, 8)))
    h.input("before", 1, 3, 8, 8)
    two = h.model(h.Relu(h.input("x", 1, 3, 8, 8)))
    assert np.array_equal(seeded_feeds(one, 0)["x"], seeded_feeds(two, 0)["x"])


def test_dynamic_sizes_are_refused() -> None:
    g = GraphBuilder()
    x = g.input("x", 1, 3, 8, 8)
    x.shape = ir.Shape([1, 3, "h", 8])
    with pytest.raises(BadInputError, match="input 'x' of graph 'graph' has no static shape"):
        seeded_feeds(g.model(g.Relu(x)), 0)
