"""The made TensorRT's builder: ONNX in, a plan out."""

from __future__ import annotations

import base64
import json
import os
from typing import Any, ClassVar

import onnx
from common import PLUGINS, IHostMemory, ILogger, ITensor, log, on_gpu, sm
from surface import ENUMS, MAJOR, MINOR, VERSION, Gated

_LAYERS = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Relu": "ACTIVATION",
    "LeakyRelu": "ACTIVATION",
    "Add": "ELEMENTWISE",
    "Mul": "ELEMENTWISE",
    "Sub": "ELEMENTWISE",
    "GridSample": "GRID_SAMPLE",
    "Resize": "RESIZE",
    "Concat": "CONCATENATION",
    "Cast": "CAST",
    "Transpose": "SHUFFLE",
    "DepthToSpace": "SHUFFLE",
}
_REFUSED = {"Col2Im", "DynamicQuantizeLinear"}


class Builder(Gated):
    def _start(self, logger: ILogger) -> None:
        self._logger = logger
        on_gpu(logger)

    def _do_create_network(self, flags: int = 0) -> INetworkDefinition:
        kinds = ENUMS["NetworkDefinitionCreationFlag"].__members__
        given = {name for name, member in kinds.items() if flags >> int(member) & 1}
        typed = MAJOR >= 11 or "STRONGLY_TYPED" in given
        assert typed or "EXPLICIT_BATCH" in given, "an implicit batch takes no ONNX"
        return INetworkDefinition(typed)

    def _do_create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def _do_create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def _do_build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
        if os.environ.get("FAKE_TENSORRT_FAILS") == "build":
            log(self._logger, "ERROR", "Could not find any implementation for node x due to workspace")
            return None
        open_inputs = [t.name for t in network._inputs if -1 in t._shape]
        if any(name not in profile._shapes for name in open_inputs for profile in config._profiles or [{}]):
            log(self._logger, "ERROR", "Network has dynamic or shape inputs, but no profile has been defined")
            return None
        pins = {layer.name: layer._pin for layer in network._layers if layer._pin}
        if "HALF" in pins.values() and "FP16" not in config._flags:
            log(self._logger, "ERROR", "Half precision was asked for without the FP16 flag")
            return None
        log(self._logger, "VERBOSE", f"{config._time(network)} timed")
        plan = {
            "version": VERSION,
            "sm": sm(),
            "model": base64.b64encode(network._model).decode(),
            "flags": sorted(config._flags),
            "typed": network._typed,
            "pins": pins,
            "hardware": config.hardware_compatibility_level.name,
            "level": config.builder_optimization_level,
            "verbosity": config.profiling_verbosity.name,
            "limits": config._limits,
            "native_norms": network._native_norms,
            "profiles": [profile._shapes for profile in config._profiles],
            "plugins": list(PLUGINS),
        }
        return IHostMemory(json.dumps(plan).encode())


class IBuilderConfig(Gated):
    types: ClassVar[dict[str, type]] = {
        "profiling_verbosity": ENUMS["ProfilingVerbosity"],
        "hardware_compatibility_level": ENUMS["HardwareCompatibilityLevel"],
        "builder_optimization_level": int,
    }

    def _start(self) -> None:
        self._flags = {"TF32"}
        self._limits: dict[str, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._values.update(
            profiling_verbosity=ENUMS["ProfilingVerbosity"].LAYER_NAMES_ONLY,
            hardware_compatibility_level=ENUMS["HardwareCompatibilityLevel"].NONE,
            builder_optimization_level=3,
        )

    def _do_set_flag(self, flag: Any) -> None:
        self._flags.add(flag.name)

    def _do_clear_flag(self, flag: Any) -> None:
        self._flags.discard(flag.name)

    def _do_set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        self._limits[pool.name] = pool_size

    def _do_add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def _do_create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(bytes(serialized_timing_cache))

    def _do_set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache._device not in (sm(), None) and not ignore_mismatch:
            return False
        self._cache = cache
        return True

    def _do_get_timing_cache(self) -> ITimingCache | None:
        return self._cache

    def _time(self, network: INetworkDefinition) -> int:
        """Time the kernels that no cache has: how many."""
        known = self._cache._times if self._cache is not None else {}
        new = {layer.name for layer in network._layers} - known.keys()
        known.update(dict.fromkeys(sorted(new), 0.5))
        return len(new)


class ITimingCache(Gated):
    def _start(self, content: bytes) -> None:
        told = json.loads(content) if content else {"device": None, "times": {}}
        self._device, self._times = told["device"], told["times"]

    def _do_serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps({"device": sm(), "times": self._times}, sort_keys=True).encode())

    def _do_combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._device not in (sm(), None) and not ignore_mismatch:
            return False
        self._times = {**input_cache._times, **self._times}
        return True


class IOptimizationProfile(Gated):
    def _start(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def _do_set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]


class ILayer(Gated):
    types: ClassVar[dict[str, type]] = {"precision": ENUMS["DataType"]}

    def _start(self, name: str, kind: str, inputs: list[ITensor], outputs: list[ITensor]) -> None:
        self._inputs, self._outputs = inputs, outputs
        self._output_types: dict[int, str] = {}
        self._values.update(name=name, type=ENUMS["LayerType"][kind], num_outputs=len(outputs))

    @property
    def _pin(self) -> str:
        """The precision it was held to, if output types were set alike."""
        chosen = self._values.get("precision")
        alike = chosen is not None and set(self._output_types.values()) == {chosen.name}
        return chosen.name if alike else ""

    def _do_get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def _do_get_output(self, index: int) -> ITensor:
        return self._outputs[index]

    def _do_set_output_type(self, index: int, dtype: Any) -> None:
        self._output_types[index] = dtype.name


class IGridSampleLayer(ILayer):
    """Up to 11.1 the parser doesn't know the modes' names of opset 20 and leaves its first mode in place."""

    def _read(self, node: onnx.NodeProto) -> None:
        told = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        mode = told.get("mode", b"bilinear").decode()
        names = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC"}
        if (MAJOR, MINOR) > (11, 1):
            names |= {"linear": "LINEAR", "cubic": "CUBIC"}
        paddings = {"zeros": "FILL", "border": "CLAMP", "reflection": "REFLECT"}
        self._values.update(
            interpolation_mode=ENUMS["InterpolationMode"][names.get(mode, "NEAREST")],
            sample_mode=ENUMS["SampleMode"][paddings[told.get("padding_mode", b"zeros").decode()]],
        )


class INetworkDefinition(Gated):
    def _start(self, typed: bool) -> None:
        self._typed, self._native_norms = typed, False
        self._model = b""
        self._layers: list[ILayer] = []
        self._inputs: list[ITensor] = []
        self._values.update(num_layers=0)

    def _do_get_layer(self, index: int) -> ILayer:
        return self._layers[index]


class ParserError(Gated):
    def _start(self, index: int, node: onnx.NodeProto, reason: str) -> None:
        self._index, self._node, self._reason = index, node, reason

    def _do_desc(self) -> str:
        return self._reason

    def _do_func(self) -> str:
        return "parseNode"

    def _do_node(self) -> int:
        return self._index

    def _do_node_name(self) -> str:
        return self._node.name

    def _do_node_operator(self) -> str:
        return self._node.op_type


class OnnxParser(Gated):
    def _start(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[ParserError] = []
        self._values.update(num_errors=0)

    def _do_set_flag(self, flag: Any) -> None:
        self._network._native_norms |= flag.name == "NATIVE_INSTANCENORM"

    def _do_get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def _do_parse(self, model: bytes, path: str | None = None) -> bool:
        inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(bytes(model)))
        graph, network = inferred.graph, self._network
        network._model = bytes(model)
        weights = {w.name for w in graph.initializer}
        network._inputs = [ITensor(info) for info in graph.input if info.name not in weights]
        infos = {i.name: i for i in (*graph.input, *graph.output, *graph.value_info)}
        for index, node in enumerate(graph.node):
            reason = self._refusal(node)
            if reason:
                self._errors.append(ParserError(index, node, reason))
                self._values["num_errors"] = 1
                return False
            inputs = [ITensor(infos[name]) for name in node.input if name in infos]
            outputs = [ITensor(infos[name]) for name in node.output]
            made = IGridSampleLayer if node.op_type == "GridSample" else ILayer
            layer = made(node.name, _LAYERS.get(node.op_type, "IDENTITY"), inputs, outputs)
            if isinstance(layer, IGridSampleLayer):
                layer._read(node)
            network._layers.append(layer)
        network._values["num_layers"] = len(network._layers)
        return True

    def _refusal(self, node: onnx.NodeProto) -> str:
        if node.op_type in _REFUSED or (node.op_type == "DeformConv" and (MAJOR, MINOR) < (10, 1)):
            return "Plugin not found, are the plugin name, version, and namespace correct?"
        if node.op_type == "DeformConv" and "ModulatedDeformConv2d" not in PLUGINS:
            return "Plugin not found, are the plugin name, version, and namespace correct?"
        return ""
