"""Running a loaded engine: per call in flight one execution context, one stream and one set of buffers.

Knows the runtime API that TensorRT's products share. Tested against an engine and a CUDA driver made for the
test; never run on a GPU here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """One of an engine's inputs or outputs.

    Attributes:
        shape: -1 for a size that its optimisation profile leaves open.
        least, most: bounds of an open input's shape; empty for others.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    is_input: bool
    least: tuple[int, ...] = ()
    most: tuple[int, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether the shape is settled call by call."""
        return any(size < 0 for size in self.shape)


def bindings(engine: Any) -> list[Binding]:
    """The engine's inputs and outputs, in its own order; bounds are its first optimisation profile's.

    Raises:
        BadInputError: one has a type numpy can't hold.
    """
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        shape = _sizes(engine.get_tensor_shape(name))
        if kind not in _DTYPES:
            raise BadInputError(f"engine tensor '{name}' is {kind} {list(shape)}, which can't be fed or read")
        is_input = engine.get_tensor_mode(name).name == "INPUT"
        least: tuple[int, ...] = ()
        most: tuple[int, ...] = ()
        if is_input and min(shape, default=0) < 0:
            least, _, most = (_sizes(bound) for bound in engine.get_tensor_profile_shape(name, 0))
        found.append(Binding(name, shape, _DTYPES[kind], is_input, least, most))
    return found


def _sizes(dims: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in dims)


class Lane:
    """What one call in flight needs. A failed construction frees what it had.

    States of `inside`, graph output -> graph input, stay on the device: the two buffers of a pair change
    places after every call.
    """

    def __init__(
        self,
        device: Context,
        engine: Any,
        contexts: Contexts,
        tensors: list[Binding],
        inside: Mapping[str, str] | None = None,
    ) -> None:
        self._device = device
        self._inside = dict(inside or {})
        self._kept = {*self._inside, *self._inside.values()}
        self._contexts = contexts
        self._tensors = tensors
        self._buffers: dict[str, Buffer] = {}
        self._stream: Stream | None = None
        self._context: Any = None
        try:
            self._stream = Stream(device.driver)
            self._context = contexts.create(engine)
            if self._context is None:
                raise CudaError(f"no execution context for the engine: {contexts.reason()}")
            for tensor in tensors:
                if tensor.is_input and tensor.is_open:
                    self._settle(tensor, tensor.most)
            for tensor in tensors:
                # Buffers are for the largest sizes: an output's follow from the inputs'.
                buffer = Buffer(device.driver, self._shape(tensor), tensor.dtype)
                self._buffers[tensor.name] = buffer
                self._place(tensor.name)
            self.reset()
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
            if tensor.is_input and tensor.name not in self._kept:
                array = feeds[tensor.name]
                if tensor.is_open:
                    self._settle(tensor, array.shape)
                buffer = self._buffers[tensor.name]
                np.copyto(buffer.view(array.shape), array, casting="no")
                buffer.upload(stream, array.nbytes)
        if not self._context.execute_async_v3(stream.handle):
            stream.synchronize()
            raise CudaError(f"the engine refused to run: {self._contexts.reason()}")
        views = {
            t.name: self._buffers[t.name].view(self._shape(t))
            for t in self._tensors
            if not t.is_input and t.name not in self._kept
        }
        for name, view in views.items():
            self._buffers[name].download(stream, view.nbytes)
        stream.synchronize()
        for made, given in self._inside.items():
            self._buffers[made], self._buffers[given] = self._buffers[given], self._buffers[made]
            self._place(made)
            self._place(given)
        return {name: view.copy() for name, view in views.items()}

    def reset(self) -> None:
        """Make the states on the device zeros."""
        if not self._inside or self._stream is None:
            return
        self._device.enter()
        for given in self._inside.values():
            self._buffers[given].host[...] = 0
            self._buffers[given].upload(self._stream)
        self._stream.synchronize()

    def _place(self, name: str) -> None:
        """Tell the context where a tensor lies."""
        if not self._context.set_tensor_address(name, self._buffers[name].address):
            raise CudaError(f"the engine takes no address for its tensor '{name}'")

    def _settle(self, tensor: Binding, shape: tuple[int, ...]) -> None:
        """Tell the context an open input's shape."""
        bounds = zip(tensor.least, shape, tensor.most, strict=True)
        if not (
            all(low <= size <= high for low, size, high in bounds)
            and self._context.set_input_shape(tensor.name, shape)
        ):
            raise BadInputError(
                f"engine input '{tensor.name}' takes sizes from {list(tensor.least)} to {list(tensor.most)}, "
                f"not {list(shape)}"
            )

    def _shape(self, tensor: Binding) -> tuple[int, ...]:
        return _sizes(self._context.get_tensor_shape(tensor.name)) if tensor.is_open else tensor.shape

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
    """A loaded engine on a device. As many calls may be in flight as it has lanes; one if it keeps states."""

    def __init__(
        self,
        device: Context,
        engine: Any,
        contexts: Contexts,
        lanes: int,
        stateful: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Take ownership of `device`, `engine` and `contexts`; on failure all three are released.

        Args:
            stateful: states to keep on the device, (graph output, graph input).
        """
        self._device, self._engine, self._contexts = device, engine, contexts
        self._lanes: list[Lane] = []
        self._pool: PooledSession | None = None
        try:
            device.enter()
            tensors = bindings(engine)
            inside = dict(stateful)
            for _ in range(1 if inside else lanes):
                self._lanes.append(Lane(device, engine, contexts, tensors, inside))
            fed = [t for t in tensors if t.is_input and t.name not in inside.values()]
            ports = {t.name: Port(t.dtype, t.shape) for t in fed}
            self._pool = PooledSession(ports, self._lanes, reset=self._lanes[0].reset if inside else None)
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
        """Make states kept on the device zeros, after the runs already submitted."""
        if self._pool is not None:
            self._pool.reset()

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
