"""Any torch.nn.Module as a temporal model: a per-frame network, or steps wired over time by equations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

import onnx_ir as ir

from superlower.errors import BadInputError, MissingSdkError
from superlower.frontends.contract import frame_contract, stream_sizes
from superlower.ir import io_shapes
from superlower.program import legality
from superlower.program.model import Edge, Equation, Program, Read, Stream, TemporalModel

if TYPE_CHECKING:
    from torch import Tensor, nn

FRAME = "frame"
OUTPUT = "output"


@dataclass(frozen=True)
class Step:
    """One module, called once per frame, and what it reads and writes.

    Attributes:
        name: of the equation and its graph.
        module: returns a tensor, or a tuple of tensors.
        examples: input name -> tensor of the exact static shape, in the order of the module's arguments.
        reads: input name -> stream read ("frame[t]", "hidden[t-1]").
        writes: output name -> stream written, in the order the module returns them.
        when: predicate over t and T.
    """

    name: str
    module: nn.Module = field(repr=False)
    examples: Mapping[str, Tensor] = field(repr=False)
    reads: Mapping[str, str]
    writes: Mapping[str, str]
    when: str = "true"


def from_module(module: nn.Module, frame: Tensor, *, name: str = "model") -> TemporalModel:
    """A network that makes one upscaled frame [1, C, sH, sW] from one frame [1, C, H, W].

    Args:
        module: takes a frame like `frame`, RGB or luma in 0..1.
        frame: gives the exact shape; its values don't matter.
        name: what the model is called.

    Raises:
        BadInputError, UnsupportedOperatorError, MissingSdkError: as `from_steps`.
    """
    step = Step("upscale", module, {FRAME: frame}, {FRAME: f"{FRAME}[t]"}, {OUTPUT: OUTPUT})
    return from_steps([step], name=name)


def from_steps(
    steps: Sequence[Step], *, name: str = "model", edges: Mapping[str, Edge] | None = None
) -> TemporalModel:
    """A recurrent or sliding-window model from its steps. Frames arrive in stream "frame", leave in "output".

    Args:
        steps: in any order.
        name: what the model is called.
        edges: stream name -> what it is outside the clip; else replicated for "frame", zeros for others.

    Raises:
        BadInputError: a module that can't be traced, an example without a read, streams of unequal shapes, or
            equations that aren't legal.
        UnsupportedOperatorError: an operator of a module has no ONNX form.
        MissingSdkError: PyTorch isn't installed.
    """
    if find_spec("torch") is None:
        raise MissingSdkError("PyTorch isn't installed: pip install 'superlower[torch]'")

    from superlower.frontends.torch_export import export_module

    names = [step.name for step in steps]
    if len(set(names)) != len(names):
        raise BadInputError(f"two steps of {name} share a name: {', '.join(sorted(names))}")
    for step in steps:
        if set(step.examples) != set(step.reads):
            raise BadInputError(
                f"step {step.name} has examples for {', '.join(step.examples)} "
                f"but reads for {', '.join(step.reads)}: give both for every input"
            )
    graphs = {
        step.name: export_module(step.module, step.examples, list(step.writes), name=step.name)
        for step in steps
    }
    model = TemporalModel(_program(steps, graphs, name, edges or {}), graphs)
    legality.verify(model.program)
    legality.verify_graphs(model)
    return model


def _program(
    steps: Sequence[Step], graphs: Mapping[str, ir.Model], name: str, edges: Mapping[str, Edge]
) -> Program:
    values: dict[str, tuple[tuple[int, ...], str]] = {}
    for step in steps:
        graph = graphs[step.name]
        inputs, outputs = io_shapes(graph)
        types = {v.name: v.dtype for v in (*graph.graph.inputs, *graph.graph.outputs)}
        bound = [(inputs[k], types[k], Read.parse(read).stream) for k, read in step.reads.items()]
        bound += [(outputs[k], types[k], stream) for k, stream in step.writes.items()]
        for shape, dtype, stream in bound:
            values[stream] = (shape, "float32" if dtype is None else dtype.numpy().name)
    for stream in (FRAME, OUTPUT):
        if stream not in values:
            raise BadInputError(f"no step of {name} {'reads' if stream == FRAME else 'writes'} '{stream}'")
    frame = frame_contract(values[FRAME][0], values[OUTPUT][0], name=name)
    default = {FRAME: Edge.REPLICATE}
    streams = {
        stream: Stream(
            shape=stream_sizes(shape, frame),
            dtype=dtype,
            edge=edges.get(stream, default.get(stream, Edge.ZEROS)),
        )
        for stream, (shape, dtype) in values.items()
    }
    equations = tuple(
        Equation(
            name=step.name,
            graph=step.name,
            inputs=dict(step.reads),
            outputs=dict(step.writes),
            when=step.when,
        )
        for step in steps
    )
    provenance = {"architecture": ", ".join(type(step.module).__name__ for step in steps)}
    return Program(name=name, frame=frame, streams=streams, equations=equations, provenance=provenance)
