"""The made TensorRT's runtime: a plan in, ONNX Runtime's outputs out."""

from __future__ import annotations

import base64
import ctypes
import json
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from common import CUDA, ILogger, ITensor, log, on_gpu, sm
from surface import ENUMS, MAJOR, VERSION, Gated

_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64}


class Runtime(Gated):
    types: ClassVar[dict[str, type]] = {"engine_host_code_allowed": bool}

    def _start(self, logger: ILogger) -> None:
        self._logger = logger
        self._values.update(engine_host_code_allowed=False)
        on_gpu(logger)

    def _do_deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            plan = json.loads(bytes(memoryview(serialized_engine)))
        except ValueError:
            log(self._logger, "ERROR", "Magic tag does not match")
            return None
        portable = "VERSION_COMPATIBLE" in plan["flags"]
        if portable and not self.engine_host_code_allowed:
            log(
                self._logger, "ERROR", "Cannot deserialize engine with lean runtime: host code is not allowed"
            )
            return None
        if plan["version"] != VERSION and not portable:
            log(self._logger, "ERROR", f"The engine is of version {plan['version']}, expecting {VERSION}")
            return None
        if plan["sm"] != sm() and not (plan["hardware"] == "AMPERE_PLUS" and min(plan["sm"], sm()) >= 80):
            log(self._logger, "ERROR", "The engine plan file is generated on an incompatible device")
            return None
        return ICudaEngine(plan)


class ICudaEngine(Gated):
    def _start(self, plan: dict[str, Any]) -> None:
        self._plan = plan
        self._model = base64.b64decode(plan["model"])
        graph = onnx.load_from_string(self._model).graph
        weights = {w.name for w in graph.initializer}
        self._inputs = [ITensor(i) for i in graph.input if i.name not in weights]
        self._tensors = [*self._inputs, *(ITensor(info) for info in graph.output)]
        self._nodes = [node for node in graph.node if node.op_type != "Constant"]
        self._values.update(
            num_io_tensors=len(self._tensors), device_memory_size=4096, device_memory_size_v2=4096
        )

    def _named(self, name: str) -> ITensor:
        return next(tensor for tensor in self._tensors if tensor.name == name)

    def _do_get_tensor_name(self, index: int) -> str:
        return str(self._tensors[index].name)

    def _do_get_tensor_mode(self, name: str) -> Any:
        is_input = self._named(name) in self._inputs
        return ENUMS["TensorIOMode"]["INPUT" if is_input else "OUTPUT"]

    def _do_get_tensor_dtype(self, name: str) -> Any:
        return self._named(name).dtype

    def _do_get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._named(name)._shape)

    def _do_get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._plan["profiles"][profile_index][name]]

    def _do_create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def _do_create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)


class EngineInspector(Gated):
    def _start(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def _do_get_engine_information(self, format: Any) -> str:
        assert format.name == "JSON"
        detailed = self._engine._plan["verbosity"] == "DETAILED"
        # In words up to 8, by name since.
        half = "Row major linear FP16 format" if MAJOR < 9 else "Half"
        layers = [
            {
                "Name": f"__myl_{node.op_type}",
                "LayerType": "kgen",
                "Inputs": [],
                "Outputs": [{"Name": node.output[0], "Dimensions": [1], "Format/Datatype": half}],
                "TacticName": "kernel",
                "StreamId": 0,
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
            if detailed
            else node.name
            for node in self._engine._nodes
        ]
        return json.dumps({"Layers": layers, "Bindings": []})


class IExecutionContext(Gated):
    def _start(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._addresses: dict[str, int] = {}
        self._shapes = {str(t.name): tuple(t._shape) for t in engine._inputs}
        self._session = onnxruntime.InferenceSession(engine._model, providers=["CPUExecutionProvider"])
        self._kernel = ctypes.CFUNCTYPE(None)(self._compute)

    def _do_set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shapes[name] = tuple(shape)
        return True

    def _do_get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shapes.get(name) or self._outputs()[name].shape

    def _do_set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def _do_execute_async_v3(self, stream_handle: int) -> bool:
        return int(CUDA.fake_enqueue(stream_handle, ctypes.cast(self._kernel, ctypes.c_void_p))) == 0

    def _outputs(self, feeds: dict[str, Any] | None = None) -> dict[str, Any]:
        if feeds is None:
            kinds = {str(t.name): _NUMPY[t.dtype.name] for t in self._engine._inputs}
            feeds = {name: np.zeros(shape, kinds[name]) for name, shape in self._shapes.items()}
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, feeds), strict=True))

    def _array(self, name: str, shape: tuple[int, ...], kind: Any) -> Any:
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        raw = (ctypes.c_ubyte * size).from_address(self._addresses[name])
        return np.frombuffer(raw, kind).reshape(shape)

    def _compute(self) -> None:
        kinds = {str(t.name): _NUMPY[t.dtype.name] for t in self._engine._inputs}
        feeds = {name: self._array(name, shape, kinds[name]) for name, shape in self._shapes.items()}
        for name, value in self._outputs(feeds).items():
            self._array(name, value.shape, value.dtype)[...] = value
