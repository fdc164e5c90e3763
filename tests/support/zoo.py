"""What the tests of every architecture do alike: requests, clips, programs against networks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from superlower.driver.plain import method_call
from superlower.frontends.base import ExportRequest, ZooFrontend
from superlower.frontends.zoo.blueprint import Blueprint
from superlower.frontends.zoo.figures import Planned
from superlower.program import legality
from superlower.program.interpret import interpret
from superlower.program.legality import called_sizes
from superlower.program.model import TemporalModel

Array = NDArray[np.float32]
Caller = Callable[[TemporalModel], Callable[[str, Mapping[str, NDArray]], Mapping[str, NDArray]]]

PARITY = 1e-4
"""Of the reference's deviation: the same fp32 sums in another order (2^-24 each, thousands of them at random
in up to a hundred layers in a row) come to some 1e-5; a wrong tap, phase or edge to 1e-2 and more."""

THROUGH_ONNX = 1e-3
"""The same through exported graphs, which also fold constants, over a whole sequence."""


def request(
    height: int, width: int, weights: str | Path = "random:0", options: Mapping[str, str] | None = None
) -> ExportRequest:
    return ExportRequest(Path(weights), height, width, options or {}, str(weights))


def clip(height: int, width: int, frames: int, channels: int = 3) -> list[Array]:
    rng = np.random.default_rng(7)
    return [rng.random((1, channels, height, width), dtype=np.float32) for _ in range(frames)]


def keys_of(oracles: Path, name: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a public checkpoint."""
    lines = (oracles / "parity" / f"{name}.keys.txt").read_text().splitlines()
    pairs = (line.split(" ", 1) for line in lines if line)
    return {key: tuple(int(n) for n in shape.strip("()").split(",") if n.strip()) for key, shape in pairs}


def recipe(name: str, shape: Sequence[int]) -> Array:
    """A parameter of the reference runs, from its public name."""
    deviation = 0.02 if len(shape) < 2 else (0.3 if "offset" in name else 0.7) / np.sqrt(prod(shape[1:]))
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return (draw * deviation).astype(np.float32)


def relative_error(found: NDArray, expected: NDArray) -> float:
    """Largest difference, in deviations of what was expected."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / expected.std())


def run_program(model: TemporalModel, frames: Sequence[Array], caller: Caller) -> NDArray:
    """The clip [T, C, sH, sW] through the program's equations on ONNX Runtime, after it was found legal."""
    legality.verify(model.program)
    legality.verify_graphs(model)
    return np.concatenate(interpret(model.program, frames, caller(model)))


def partly_exported(plan: Blueprint, traced: Sequence[str]) -> TemporalModel:
    """A model with some of its graphs: enough for a network whose others are made of the same operators."""
    some = tuple(e for e in plan.program.equations if set(traced).intersection(e.graphs))
    part = replace(plan, program=msgspec.structs.replace(plan.program, equations=some))
    return TemporalModel(plan.program, part.export().graphs)


def by_methods(plan: Blueprint, model: TemporalModel, caller: Caller) -> Caller:
    """Calls the graphs that a model has, and the network's own methods in the place of others."""
    methods = {
        graph: method_call(plan.methods[graph], tuple(sizes), tuple(equation.outputs))
        for equation in plan.program.equations
        for graph, (sizes, _) in called_sizes(plan.program, equation).items()
    }
    traced = caller(model)

    def call(graph: str, feeds: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        return traced(graph, feeds) if graph in model.graphs else methods[graph](feeds)

    return lambda _: call


def assert_program_equals_network(
    frontend: ZooFrontend,
    asked: ExportRequest,
    frames: int,
    caller: Caller,
    tolerance: float = PARITY,
    shorter: Sequence[int] = (1, 2),
    traced: Sequence[str] | None = None,
) -> TemporalModel:
    """The program over clips of `frames` frames and of `shorter` ones is the network's own loop over them.

    Args:
        traced: graphs to export, the network's own methods standing for the others; None for all.
    """
    if traced is None:
        model = frontend.export(asked)
        legality.verify_graphs(model)
    else:
        assert isinstance(frontend, Planned)
        plan = frontend.blueprint(asked)
        model = partly_exported(plan, traced)
        caller = by_methods(plan, model, caller)
    legality.verify(model.program)
    reference = frontend.reference(asked)
    contract = model.program.frame
    given = clip(*contract.padded, frames, contract.channels)
    call = caller(model)
    for count in (*shorter, frames):
        found = np.concatenate(interpret(model.program, given[:count], call))
        expected = np.concatenate(reference(given[:count]))
        height, width = contract.padded
        assert expected.shape[2:] == (contract.scale * height, contract.scale * width)
        assert relative_error(found, expected) < tolerance, f"{count} frames"
    return model


def assert_order_matters(
    frontend: ZooFrontend, asked: ExportRequest, model: TemporalModel, tolerance: float = PARITY
) -> None:
    """Neighbours' share of an output is far above what `assert_program_equals_network` accepts."""
    contract = model.program.frame
    given = clip(*contract.padded, 3, contract.channels)
    run = frontend.reference(asked)
    forwards, backwards = run(given), run(given[::-1])[::-1]
    assert relative_error(np.concatenate(forwards), np.concatenate(backwards)) > 100 * tolerance
