"""The few calls of the CUDA driver API that running an engine takes, through ctypes: no CUDA package needed.

Checked against a library of the same signatures in host memory; never run on a GPU here.
Signatures: CUDA Driver API reference, https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from superlower.backends.base import Array
from superlower.errors import MissingSdkError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_OUT = POINTER
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuDriverGetVersion": (_OUT(c_int),),
    "cuGetErrorName": (c_int, _OUT(c_char_p)),
    "cuDeviceGetCount": (_OUT(c_int),),
    "cuDeviceGet": (_OUT(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (_OUT(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (_OUT(c_void_p), c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxSetCurrent": (c_void_p,),
    "cuMemAlloc_v2": (_OUT(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemAllocHost_v2": (_OUT(c_void_p), c_size_t),
    "cuMemFreeHost": (c_void_p,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuStreamCreate": (_OUT(c_void_p), c_uint),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
}

# Values of enumerators, from cuda.h.
_MAJOR, _MINOR = 75, 76
_NON_BLOCKING = 1


class CudaError(MissingSdkError):
    """A call of the CUDA driver failed: no device, no memory, or a device that stopped working."""


@dataclass(frozen=True)
class Device:
    """A GPU: its index, product name and SM number."""

    index: int
    name: str
    sm: int


class Driver:
    """The CUDA driver of this machine, initialized.

    Raises:
        MissingSdkError: there is no driver library, or it finds no device.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError:
            raise MissingSdkError(
                f"no NVIDIA driver ({library}) on this machine: run the engine where its GPU and driver are"
            ) from None
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError:
                raise MissingSdkError(f"the NVIDIA driver ({library}) has no {name}: update it") from None
            function.argtypes, function.restype = arguments, c_int
        self.call("cuInit", 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver.

        Raises:
            CudaError: it returned another code than CUDA_SUCCESS.
        """
        code = getattr(self._library, name)(*arguments)
        if code:
            text = c_char_p()
            self._library.cuGetErrorName(code, byref(text))
            told = (text.value or b"").decode() or "an unknown error"
            raise CudaError(f"the CUDA driver's {name} failed with {told} ({code})")

    @property
    def version(self) -> str:
        """CUDA version the driver supports, as "12.9"."""
        number = c_int()
        self.call("cuDriverGetVersion", byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def devices(self) -> list[Device]:
        """The GPUs here, as CUDA_VISIBLE_DEVICES lets them be seen."""
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        return [self._device(index) for index in range(count.value)]

    def _device(self, index: int) -> Device:
        handle, major, minor = c_int(), c_int(), c_int()
        name = ctypes.create_string_buffer(256)
        self.call("cuDeviceGet", byref(handle), index)
        self.call("cuDeviceGetName", name, len(name), handle)
        self.call("cuDeviceGetAttribute", byref(major), _MAJOR, handle)
        self.call("cuDeviceGetAttribute", byref(minor), _MINOR, handle)
        return Device(index, name.value.decode(errors="replace"), 10 * major.value + minor.value)

    def device_of(self, sm: int) -> Device:
        """The first GPU of an architecture.

        Raises:
            MissingSdkError: there is none; the message lists those there are.
        """
        found = self.devices()
        for device in found:
            if device.sm == sm:
                return device
        here = ", ".join(f"{d.name} (SM{d.sm})" for d in found) or "none"
        raise MissingSdkError(f"the engine needs a GPU of SM{sm}; GPUs here: {here}")


class Context:
    """The primary context of a device, which is the one the CUDA runtime inside an SDK uses."""

    def __init__(self, driver: Driver, device: Device) -> None:
        self.driver = driver
        self._handle = c_int()
        driver.call("cuDeviceGet", byref(self._handle), device.index)
        self._context = c_void_p()
        driver.call("cuDevicePrimaryCtxRetain", byref(self._context), self._handle)
        self._open = True

    def enter(self) -> None:
        """Make it the calling thread's context: CUDA keeps one a thread."""
        self.driver.call("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Give the context back, once."""
        if self._open:
            self._open = False
            self.driver.call("cuDevicePrimaryCtxRelease_v2", self._handle)


@contextmanager
def on_device(index: int | None) -> Iterator[Device | None]:
    """Make a GPU, by its number among those here, the one the calling thread works on; None does nothing."""
    if index is None:
        yield None
        return
    driver = Driver()
    device = driver.devices()[index]
    context = Context(driver, device)
    try:
        context.enter()
        yield device
    finally:
        context.close()


class Stream:
    """A stream that doesn't wait for the default stream. Its context must be the thread's."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        handle = c_void_p()
        driver.call("cuStreamCreate", byref(handle), _NON_BLOCKING)
        self.handle = handle.value or 0

    def synchronize(self) -> None:
        """Wait until all work submitted to it is done."""
        self._driver.call("cuStreamSynchronize", self.handle)

    def close(self) -> None:
        """Destroy it, once."""
        if self.handle:
            handle, self.handle = self.handle, 0
            self._driver.call("cuStreamDestroy_v2", handle)


class Buffer:
    """An array's place on the device, and page-locked host memory to copy through.

    Attributes:
        address: on the device.
        host: array over the page-locked memory; the buffer's own, so never handed to a caller.
    """

    def __init__(self, driver: Driver, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._driver = driver
        self._size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._pinned = c_void_p()
        self.address = 0
        driver.call("cuMemAllocHost_v2", byref(self._pinned), self._size)
        address = c_uint64()
        try:
            driver.call("cuMemAlloc_v2", byref(address), self._size)
        except CudaError:
            driver.call("cuMemFreeHost", self._pinned)
            raise
        self.address = address.value
        raw = (ctypes.c_ubyte * self._size).from_address(self._pinned.value or 0)
        self.host: Array = np.frombuffer(memoryview(raw), dtype=dtype).reshape(shape)

    def view(self, shape: tuple[int, ...]) -> Array:
        """The host memory's beginning as an array of another shape, no larger than the buffer's."""
        count = int(np.prod(shape, dtype=np.int64))
        return self.host.reshape(-1)[:count].reshape(shape)

    def upload(self, stream: Stream, size: int | None = None) -> None:
        """Copy host to device, in the stream's order; the first `size` bytes, or all."""
        count = self._size if size is None else size
        self._driver.call("cuMemcpyHtoDAsync_v2", self.address, self._pinned, count, stream.handle)

    def download(self, stream: Stream, size: int | None = None) -> None:
        """Copy device to host, in the stream's order; the first `size` bytes, or all."""
        count = self._size if size is None else size
        self._driver.call("cuMemcpyDtoHAsync_v2", self._pinned, self.address, count, stream.handle)

    def close(self) -> None:
        """Free both, once."""
        if self.address:
            address, self.address = self.address, 0
            self.host = np.empty(0)
            self._driver.call("cuMemFree_v2", address)
            self._driver.call("cuMemFreeHost", self._pinned)
