"""Pictures converted inside the graphs are those converted outside, bit for bit."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import pytest

from superlower.errors import BadInputError, OutputsDifferError
from superlower.ir import digest, serialize
from superlower.media.tensors import from_tensor, to_tensor
from superlower.passes._evaluate import prepare
from superlower.passes.batching import batched, validate_batched
from superlower.program import files
from superlower.program.interpret import interpret
from superlower.program.model import Edge, Equation, Frame, Program, Stream, TemporalModel
from superlower.rewrites.pixels import over_pixels
from superlower.rewrites.split_tail import SplitTail
from superlower.runtime.runner import Engine, Runner
from support.graphs import GraphBuilder
from support.models import bidirectional, luma_upscaler, recurrent, window
from support.windows import run


def pictures(frame: Frame, count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (frame.height, frame.width, 3), np.uint8) for _ in range(count)]


def still(frame: Frame, edge: Edge = Edge.REPLICATE, before: bool = False) -> TemporalModel:
    """Every frame times a number, or the frame before it."""
    g = GraphBuilder()
    height, width = frame.padded
    x = g.input("x", 1, 3, height, width)
    # Beyond both ends of the range, so that clamping shows.
    y = g.Add(g.Mul(x, g.const(1.37)), g.const(-0.11))
    program = Program(
        name="still",
        frame=frame,
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=edge),
            "output": Stream(shape=(1, 3, "H", "W")),
        },
        equations=(
            Equation(
                name="up",
                graph="up",
                inputs={"x": "frame[t-1]" if before else "frame[t]"},
                outputs={"out0": "output"},
            ),
        ),
    )
    return TemporalModel(program, {"up": g.model(y)})


def reread(frame: Frame) -> TemporalModel:
    """The output is the next frame's state, as in FRVSR."""
    g = GraphBuilder()
    sides = frame.padded
    x, last = g.input("x", 1, 3, *sides), g.input("last", 1, 3, *sides)
    program = Program(
        name="reread",
        frame=frame,
        streams={
            "frame": Stream(shape=(1, 3, "H", "W"), edge=Edge.REPLICATE),
            "output": Stream(shape=(1, 3, "H", "W")),
        },
        equations=(
            Equation(
                name="step",
                graph="step",
                inputs={"x": "frame[t]", "last": "output[t-1]"},
                outputs={"out0": "output"},
            ),
        ),
    )
    y = g.Sub(g.Mul(x, g.const(1.5)), g.Mul(last, g.const(0.4)))
    return TemporalModel(program, {"step": g.model(y)})


RANGES = [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)]


def same(model: TemporalModel, count: int = 4) -> TemporalModel:
    """The model over pixels, held to pictures converted outside."""
    before = {name: digest(graph.clone()) for name, graph in model.graphs.items()}
    fused = over_pixels(model)
    assert {name: digest(graph.clone()) for name, graph in model.graphs.items()} == before
    for graph in fused.graphs.values():
        onnx.checker.check_model(serialize(graph.clone()), full_check=True)
    frame = model.program.frame
    clip = pictures(frame, count)
    outputs, _ = run(model, [to_tensor(p, frame) for p in clip])
    expected = [from_tensor(o, frame, p) for o, p in zip(outputs, clip, strict=True)]
    found, _ = run(fused, [p[None] for p in clip])
    # The same operators in the same order, in fp32: no tolerance.
    assert all(np.array_equal(f[0], e) for f, e in zip(found, expected, strict=True))
    return fused


@pytest.mark.parametrize("value_range", RANGES)
@pytest.mark.parametrize("padding", list(Edge))
def test_values_and_padding(value_range: tuple[float, float], padding: Edge) -> None:
    same(still(Frame(height=13, width=10, scale=1, range=value_range, multiple=4, padding=padding)))


def test_every_level_comes_through() -> None:
    frame = Frame(height=16, width=16, scale=1)
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    picture = np.stack([ramp, ramp.T, ramp[::-1]], -1)
    fused = over_pixels(still(frame))
    expected, _ = run(still(frame), [to_tensor(picture, frame)])
    (found,), _ = run(fused, [picture[None]])
    assert np.array_equal(found[0], from_tensor(expected[0], frame, picture))


@pytest.mark.parametrize("build", [recurrent, window, bidirectional, lambda: recurrent(13, 15, 4)])
def test_small_models(build: object) -> None:
    model = build()  # type: ignore[operator]
    fused = same(model)
    assert "frame" not in fused.program.streams
    assert "output" not in fused.program.streams


def test_an_output_that_is_read_again_stays_beside_the_picture() -> None:
    fused = same(reread(Frame(height=8, width=8, scale=1)))
    assert "output" in fused.program.streams


def test_it_goes_with_tails_and_batches() -> None:
    cut = SplitTail().run(recurrent()).model
    fused = same(cut)
    tail = next(g for e in fused.program.equations if e.name == "step_tail" for g in e.graphs)
    rng = np.random.default_rng(0)
    feeds = [
        {
            str(v.name): rng.integers(0, 256, tuple(v.shape or ()), np.uint8).astype(v.dtype.numpy())
            for v in fused.graphs[tail].graph.inputs
            if v.dtype is not None
        }
        for _ in range(2)
    ]
    validate_batched(fused.graphs[tail], batched(fused.graphs[tail], 2), 2, feeds)


def test_a_picture_of_nan_stops_the_runner() -> None:
    g = GraphBuilder()
    frame = Frame(height=8, width=8, scale=1)
    model = still(frame)
    x = g.input("x", 1, 3, 8, 8)
    # 0 / 0 where the picture is black.
    fused = over_pixels(TemporalModel(model.program, {"up": g.model(g.Div(x, x))}))

    class Session:
        def __init__(self) -> None:
            self.call = prepare(fused.graphs["up"])

        def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return self.call(feeds)

        def submit(self, feeds: dict[str, np.ndarray]) -> object: ...
        def reset(self) -> None: ...
        def close(self) -> None: ...

    runner = Runner(fused.program, {"up": Engine(Session())})  # type: ignore[arg-type]
    assert len(list(runner.run([np.full((1, 8, 8, 3), 7, np.uint8)]))) == 1
    with pytest.raises(OutputsDifferError, match="NaN or infinity"):
        list(runner.run([np.zeros((1, 8, 8, 3), np.uint8)]))


def test_refusals() -> None:
    with pytest.raises(BadInputError, match="chroma"):
        over_pixels(luma_upscaler())
    with pytest.raises(BadInputError, match="over pixels already"):
        over_pixels(over_pixels(still(Frame(height=8, width=8, scale=1))))
    dark = still(Frame(height=8, width=8, scale=1, range=(-1.0, 1.0)), Edge.ZEROS, before=True)
    with pytest.raises(BadInputError, match="black isn't 0"):
        over_pixels(dark)
    same(still(Frame(height=8, width=8, scale=1), Edge.ZEROS, before=True))


def test_program_json_holds_pixels_from_version_2_on() -> None:
    program = over_pixels(recurrent()).program
    text = files.encode(program)
    assert msgspec.json.decode(text)["format"] == 2
    assert files.decode(text, "here").frame == program.frame
    assert b"pixels" not in files.encode(recurrent().program)
    assert msgspec.json.decode(files.encode(recurrent().program))["format"] == 1


def test_interpret_agrees() -> None:
    fused = over_pixels(recurrent())
    calls = {name: prepare(graph) for name, graph in fused.graphs.items()}
    frames = [p[None] for p in pictures(fused.program.frame, 3)]
    assert len(interpret(fused.program, frames, lambda g, f: calls[g](f))) == 3
