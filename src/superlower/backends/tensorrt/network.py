"""ONNX to an SDK network: what the parser refuses, and what it takes but reads as something else.

Knows the API that TensorRT's products share, not which of them it is given. Runs in a build's own process.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import onnx_ir as ir

from superlower.backends.tensorrt.layers import Sampler, type_name
from superlower.errors import MissingSdkError
from superlower.ir import node_name

_GRID_MODES = {
    "bilinear": "LINEAR",
    "linear": "LINEAR",
    "bicubic": "CUBIC",
    "cubic": "CUBIC",
    "nearest": "NEAREST",
}
_ERRORS_KEPT = 64
_COMPUTING = (
    "ACTIVATION",
    "CONVOLUTION",
    "DECONVOLUTION",
    "ELEMENTWISE",
    "GRID_SAMPLE",
    "MATRIX_MULTIPLY",
    "NORMALIZATION",
    "PARAMETRIC_RELU",
    "POOLING",
    "REDUCE",
    "RESIZE",
    "SCALE",
    "SOFTMAX",
    "UNARY",
)
"""Kinds of layers that take a precision; those that move values have their inputs' type."""
_GRID_PADDING = {"zeros": "FILL", "border": "CLAMP", "reflection": "REFLECT"}


@dataclass(frozen=True)
class Refusal:
    """A node the SDK refuses, and why, as a clause."""

    node: str
    op: str
    reason: str


class Sdk:
    """An SDK module with its logger, builder and runtime. One a process: it keeps the first logger it gets.

    Attributes:
        module: the imported SDK, untyped.
        errors: first lines of what it logged as errors since `clear`.
        messages: everything it logged since `clear`.
    """

    def __init__(self, name: str, *, echo: bool = True, record: bool = True) -> None:
        """Import the SDK.

        Args:
            name: of its module.
            echo: write its messages to stdout, which is a build's log.
            record: keep all of them; else errors only, and few: a session lives long.
        """
        module: Any = importlib.import_module(name)
        self.module = module
        self.errors: list[str] = []
        self.messages: list[str] = []

        class Logger(module.ILogger):  # type: ignore[misc]
            def __init__(logger) -> None:  # noqa: N805
                module.ILogger.__init__(logger)

            def log(logger, severity: Any, message: str) -> None:  # noqa: N805
                if echo:
                    sys.stdout.write(f"[{severity.name}] {message}\n")
                if record:
                    self.messages.append(message)
                if int(severity) <= int(module.ILogger.Severity.ERROR) and len(self.errors) < _ERRORS_KEPT:
                    self.errors.append(message.strip().split("\n", 1)[0])

        self.logger = Logger()

    @cached_property
    def builder(self) -> Any:
        """The process's builder.

        Raises:
            MissingSdkError: the SDK can't use the GPU or the driver that it finds.
        """
        return self._made(self.module.Builder)

    @cached_property
    def runtime(self) -> Any:
        """The process's runtime, which must outlive the engines it reads. Raises as `builder` does."""
        return self._made(self.module.Runtime)

    def _made(self, kind: Any) -> Any:
        try:
            return kind(self.logger)
        except TypeError as error:
            # pybind11 raises it when the library gives nothing back: no GPU, or too old a driver.
            name, version = self.module.__name__, self.module.__version__
            reason = self.first_error()[:300]
            raise MissingSdkError(f"{name} {version} can't start on this machine: {reason}") from error

    @property
    def strongly_typed(self) -> bool:
        """Whether its networks can keep the graph's own types: TensorRT's do from 9 on."""
        return hasattr(self.module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def register_plugins(self) -> None:
        """Make TensorRT's own plug-ins known: its parser needs them for DeformConv and ScatterElements."""
        self.module.init_libnvinfer_plugins(self.logger, "")

    def clear(self) -> None:
        """Forget what was logged."""
        self.errors.clear()
        self.messages.clear()

    def first_error(self) -> str:
        """The first thing the SDK called an error, or that it named none."""
        return self.errors[0] if self.errors else "the SDK gave no reason"

    def parse(
        self, model: bytes, nodes: Sequence[ir.Node] = (), *, native_norms: bool = False
    ) -> tuple[Any, list[Refusal]]:
        """A network, strongly typed where the SDK has it, and the nodes the parser refused.

        The parser stops at the first node it refuses. It takes bytes that are no model at all, so the model
        must have been checked before.

        Args:
            model: the ONNX file's content.
            nodes: its main graph's, in order: TensorRT 8 tells refused nodes by number.
            native_norms: no plug-in for instance normalisation, which engines for other versions can't have.
        """
        kinds = self.module.NetworkDefinitionCreationFlag
        flag = kinds.STRONGLY_TYPED if self.strongly_typed else kinds.EXPLICIT_BATCH
        network = self.builder.create_network(1 << int(flag))
        parser = self.module.OnnxParser(network, self.logger)
        if native_norms:
            parser.set_flag(self.module.OnnxParserFlag.NATIVE_INSTANCENORM)
        taken = parser.parse(model)
        refusals = [_refusal(parser.get_error(i), nodes) for i in range(parser.num_errors)]
        if not taken and not refusals:
            refusals = [Refusal("", "", self.first_error())]
        return network, refusals


@cache
def process_sdk(name: str) -> Sdk:
    """The SDK, once a process: it takes the first logger it is given and ignores every later one."""
    return Sdk(name)


def _refusal(error: Any, nodes: Sequence[ir.Node]) -> Refusal:
    reason = " ".join(line for line in error.desc().split("\n") if "catchCudaError" not in line)
    reason = re.sub(r"^Invalid Node - \S+ ", "", reason.strip())
    if "Plugin not found" in reason:
        reason = "the parser has no rule for it, and no plug-in of its name was found"
    elif reason in ("", "false"):
        reason = f"refused by the parser's {error.func()}"
    if hasattr(error, "node_name"):
        return Refusal(error.node_name(), error.node_operator(), reason[:300])
    index = error.node()
    node = nodes[index] if 0 <= index < len(nodes) else None
    name, op = (node_name(node), node.op_type) if node is not None else ("", "")
    return Refusal(name, op, reason[:300])


def samplers(sdk: Sdk, network: Any) -> tuple[Sampler, ...]:
    """The network's GridSamples, as the parser read them."""
    found = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type != sdk.module.LayerType.GRID_SAMPLE:
            continue
        if not hasattr(layer, "interpolation_mode"):
            # get_layer gives the base class in some releases of the bindings.
            layer.__class__ = sdk.module.IGridSampleLayer
        found.append(
            Sampler(
                node=layer.name,
                mode=layer.interpolation_mode.name,
                padding=layer.sample_mode.name,
                input=_dtype(layer.get_input(0)),
                grid=_dtype(layer.get_input(1)),
            )
        )
    return tuple(found)


def _dtype(tensor: Any) -> str:
    name: str = tensor.dtype.name
    return {"HALF": "float16", "FLOAT": "float32", "BF16": "bfloat16"}.get(name, type_name(name))


def pin_types(sdk: Sdk, network: Any, types: Mapping[str, ir.DataType]) -> None:
    """Hold every layer that computes to the type its output has in the graph.

    For networks that aren't strongly typed, in which the flags for FP16 and INT8 only allow these types; with
    OBEY_PRECISION_CONSTRAINTS the pins are kept, or the build fails.

    Args:
        types: value name -> element type, of the graph that was parsed.
    """
    module = sdk.module
    chosen = {ir.DataType.FLOAT: module.DataType.FLOAT, ir.DataType.FLOAT16: module.DataType.HALF}
    computing = {getattr(module.LayerType, name) for name in _COMPUTING}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type not in computing:
            continue
        for output in range(layer.num_outputs):
            kind = chosen.get(types.get(layer.get_output(output).name, ir.DataType.UNDEFINED))
            if kind is not None:
                layer.precision = kind
                layer.set_output_type(output, kind)


def misread(nodes: Sequence[ir.Node], read: Sequence[Sampler]) -> list[Refusal]:
    """GridSamples the network holds in another mode or padding than the graph does.

    Parsers up to TensorRT 11.1 take opset 20's "linear" and "cubic" for "nearest", without a word
    (https://github.com/onnx/onnx-tensorrt/pull/1060).
    """
    by_name = {sampler.node: sampler for sampler in read}
    found = []
    for node in nodes:
        sampler = by_name.get(node.name or "")
        if node.domain or node.op_type != "GridSample" or sampler is None:
            continue
        mode = _GRID_MODES.get(node.attributes.get_string("mode", "linear"), "?")
        padding = _GRID_PADDING.get(node.attributes.get_string("padding_mode", "zeros"), "?")
        if (sampler.mode, sampler.padding) != (mode, padding):
            reason = f"mode {mode}, padding {padding} is read as {sampler.mode}, {sampler.padding}"
            found.append(Refusal(node.name or "", "GridSample", reason))
    return found


def name_nodes(model: ir.Model) -> None:
    """Give every unnamed node of the main graph a name: refusals and fused layers are told by name."""
    for node in model.graph:
        node.name = node.name or node_name(node)
