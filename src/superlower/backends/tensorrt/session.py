"""Running a loaded engine: per call in flight one execution context, one stream and one set of buffers.

Knows the runtime API that TensorRT's products share. Tested against an engine and a CUDA driver made for the
test; never run on a GPU here.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from superlower.backends.base import Feeds, Outputs
from superlower.backends.session import PooledSession, Port
from superlower.backends.tensorrt.cuda import Buffer, Context, CudaError, Stream
from superlower.errors import BadInputError

_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": ir.DataType.BFLOAT16.numpy(),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}


class Contexts(Protocol):
    """How a product makes execution contexts of an engine, and what it does when the engine goes."""

    def create(self, engine: Any) -> Any:
        """An execution context; None if the SDK can't."""
        ...

    def reason(self) -> str:
        """What the SDK last complained of."""
        ...

    def close(self) -> None:
        """Called once, before the engine is released."""
        ...


@dataclass(frozen=True)
class Binding:
    """One of an engine's inputs or outputs."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    is_input: bool


def bindings(engine: Any) -> list[Binding]:
    """The engine's inputs and outputs, in its own order.

    Raises:
        BadInputError: one has a type numpy can't hold, or a size that isn't fixed.
    """
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        shape = tuple(int(size) for size in engine.get_tensor_shape(name))
        if kind not in _DTYPES or any(size < 0 for size in shape):
            raise BadInputError(f"engine tensor '{name}' is {kind} {list(shape)}: build one of fixed size")
        is_input = engine.get_tensor_mode(name).name == "INPUT"
        found.append(Binding(name, shape, _DTYPES[kind], is_input))
    return found


class Lane:
    """What one call in flight needs. A failed construction frees what it had."""

    def __init__(self, device: Context, engine: Any, contexts: Contexts, tensors: list[Binding]) -> None:
        self._device = device
        self._contexts = contexts
        self._tensors = tensors
        self._buffers: dict[str, Buffer] = {}
        self._stream: Stream | None = None
        self._context: Any = None
        try:
            self._stream = Stream(device.driver)
            for tensor in tensors:
                self._buffers[tensor.name] = Buffer(device.driver, tensor.shape, tensor.dtype)
            self._context = contexts.create(engine)
            if self._context is None:
                raise CudaError(f"no execution context for the engine: {contexts.reason()}")
            for name, buffer in self._buffers.items():
                if not self._context.set_tensor_address(name, buffer.address):
                    raise CudaError(f"the engine takes no address for its tensor '{name}'")
        except BaseException:
            self.close()
            raise

    def __call__(self, feeds: Feeds) -> Outputs:
        """Copy in, run, copy out, wait. The outputs are new arrays."""
        stream = self._stream
        if stream is None:
            raise CudaError("the engine is closed")
        self._device.enter()
        for tensor in self._tensors:
            if tensor.is_input:
                buffer = self._buffers[tensor.name]
                np.copyto(buffer.host, feeds[tensor.name], casting="no")
                buffer.upload(stream)
        if not self._context.execute_async_v3(stream.handle):
            stream.synchronize()
            raise CudaError(f"the engine refused to run: {self._contexts.reason()}")
        outputs = [tensor.name for tensor in self._tensors if not tensor.is_input]
        for name in outputs:
            self._buffers[name].download(stream)
        stream.synchronize()
        return {name: self._buffers[name].host.copy() for name in outputs}

    def close(self) -> None:
        """Release the context first: it holds the buffers' addresses."""
        self._context = None
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers = {}
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class EngineSession:
    """A loaded engine on a device. As many calls may be in flight as it has lanes."""

    def __init__(self, device: Context, engine: Any, contexts: Contexts, lanes: int) -> None:
        """Take ownership of `device`, `engine` and `contexts`; on failure all three are released."""
        self._device, self._engine, self._contexts = device, engine, contexts
        self._lanes: list[Lane] = []
        self._pool: PooledSession | None = None
        try:
            device.enter()
            tensors = bindings(engine)
            for _ in range(lanes):
                self._lanes.append(Lane(device, engine, contexts, tensors))
            ports = {t.name: Port(t.dtype, t.shape) for t in tensors if t.is_input}
            self._pool = PooledSession(ports, self._lanes)
        except BaseException:
            self.close()
            raise

    def run(self, feeds: Feeds) -> Outputs:
        """Run once and wait."""
        return self.submit(feeds).result()

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        """Start a run on a free lane's stream. The fed arrays must not change until it is done."""
        if self._pool is None:
            raise CudaError("the engine is closed")
        return self._pool.submit(feeds)

    def reset(self) -> None:
        """Engines keep no states."""

    def close(self) -> None:
        """Wait for the runs in flight, then free lanes, engine and device, once."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._engine is None:
            return
        self._device.enter()
        for lane in self._lanes:
            lane.close()
        self._lanes = []
        self._contexts.close()
        self._engine = None
        self._device.close()
