"""What a user without superlower would run: graphs as exported in an SDK as it comes, and torch.compile."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from superlower.backends.base import Feeds, Outputs, Session
from superlower.backends.openvino_deform import shared_core
from superlower.backends.sdk import first_line
from superlower.errors import BadInputError, BuildFailedError, MissingSdkError
from superlower.frontends.base import ExportRequest, ZooFrontend
from superlower.frontends.zoo.build import missing_torch
from superlower.frontends.zoo.figures import Planned
from superlower.program.files import GRAPH_FOLDER
from superlower.program.legality import called_sizes
from superlower.program.model import Program

Call = Callable[[Feeds], Outputs]
"""Runs a graph once and waits."""


class PlainSession:
    """A function of a graph's inputs, one call at a time."""

    def __init__(self, call: Call) -> None:
        self._call: Call | None = call

    def run(self, feeds: Feeds) -> Outputs:
        """Run once and wait."""
        assert self._call is not None
        return self._call(feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Run once; the future is done."""
        done: Future[Outputs] = Future()
        done.set_result(self.run(feeds))
        return done

    def reset(self) -> None:
        """Nothing: states are the host's."""

    def close(self) -> None:
        """Release the engine."""
        self._call = None


def onnxruntime_sessions(folder: Path, program: Program, threads: int) -> dict[str, Session]:
    """Every graph of a program folder in ONNX Runtime's own defaults, but for the number of threads.

    Raises:
        BuildFailedError: it can't load or run a graph.
    """
    return _sessions(folder, program, "onnxruntime", lambda path: onnxruntime_call(path, threads))


def onnxruntime_call(path: Path, threads: int) -> Call:
    """A graph in ONNX Runtime's own defaults, but for the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


def openvino_sessions(folder: Path, program: Program, threads: int) -> dict[str, Session]:
    """Every graph of a program folder in OpenVINO, as `openvino_call` has it.

    Raises:
        BuildFailedError: it can't load or run a graph.
    """
    return _sessions(folder, program, "openvino", lambda path: openvino_call(path, threads))


def openvino_call(path: Path, threads: int) -> Call:
    """A graph in OpenVINO's defaults, but for fp32 and the number of threads.

    On a CPU that computes in bf16, OpenVINO would do so unasked, sampling grids and all.
    """
    core = shared_core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled: Any = core.compile_model(core.read_model(path), "CPU", settings)
    request = compiled.create_infer_request()
    names = [output.any_name for output in compiled.outputs]

    def run(feeds: Feeds) -> Outputs:
        found = request.infer(dict(feeds))
        return {name: np.array(found[index]) for index, name in enumerate(names)}

    return run


def compiled_sessions(
    architecture: ZooFrontend, request: ExportRequest, program: Program
) -> dict[str, Session]:
    """Every graph as torch.compile makes it of the network's own methods, at its first call.

    Raises:
        MissingSdkError: PyTorch isn't here.
        BadInputError: an architecture that doesn't say which of its methods the graphs are.
    """
    if (reason := missing_torch()) is not None:
        raise MissingSdkError(reason)
    if not isinstance(architecture, Planned):
        raise BadInputError(f"{architecture.name} doesn't say which of its methods torch.compile should take")

    import torch

    # What the compiler can't take in it says at length, and goes on without.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    plan = architecture.blueprint(request)
    found: dict[str, Session] = {}
    for equation in program.equations:
        for graph, (sizes, _) in called_sizes(program, equation).items():
            compiled = torch.compile(plan.methods[graph], dynamic=False)
            found[graph] = PlainSession(method_call(compiled, tuple(sizes), tuple(equation.outputs)))
    return found


def method_call(
    method: Callable[..., Any], inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Callable[[Feeds], Outputs]:
    """A network's method, compiled or not, as a graph's call: by input and output names in its order."""

    def run(feeds: Feeds) -> Outputs:
        import torch

        given = [torch.from_numpy(np.require(feeds[name], requirements="W")) for name in inputs]
        try:
            with torch.no_grad():
                made = method(*given)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise BuildFailedError(f"torch.compile failed: {first_line(error)}") from error
        tensors = made if isinstance(made, tuple | list) else (made,)
        return {name: tensor.numpy() for name, tensor in zip(outputs, tensors, strict=True)}

    return run


def _sessions(folder: Path, program: Program, sdk: str, load: Callable[[Path], Call]) -> dict[str, Session]:
    found: dict[str, Session] = {}
    for graph in dict.fromkeys(g for equation in program.equations for g in equation.graphs):
        try:
            found[graph] = PlainSession(load(folder / GRAPH_FOLDER / f"{graph}.onnx"))
        except Exception as error:
            raise BuildFailedError(f"{sdk} can't load '{graph}' as exported: {first_line(error)}") from error
    return found
