"""The driver's calls and what they own, against a driver over host memory."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from superlower.backends.tensorrt.cuda import Buffer, Context, CudaError, Device, Driver, Stream
from superlower.errors import MissingSdkError


@pytest.fixture
def driver(fake_cuda: ctypes.CDLL, fake_cuda_library: Path) -> Driver:
    return Driver(str(fake_cuda_library))


def test_no_driver_is_one_clear_line() -> None:
    with pytest.raises(MissingSdkError, match=r"no NVIDIA driver \(libnothing.so.1\) on this machine"):
        Driver("libnothing.so.1")


def test_a_driver_that_lacks_a_function_is_named() -> None:
    with pytest.raises(MissingSdkError, match=r"\(libc.so.6\) has no cuInit: update it"):
        Driver("libc.so.6")


def test_devices_are_told_with_their_architecture(driver: Driver, fake_cuda: ctypes.CDLL) -> None:
    fake_cuda.fake_devices(2, 120)
    assert driver.version == "12.9"
    assert driver.devices() == [Device(0, "Fake GPU 0", 120), Device(1, "Fake GPU 1", 120)]
    assert driver.device_of(120).index == 0


def test_a_missing_architecture_lists_what_is_here(driver: Driver, fake_cuda: ctypes.CDLL) -> None:
    with pytest.raises(MissingSdkError, match=r"needs a GPU of SM89; GPUs here: Fake GPU 0 \(SM86\)"):
        driver.device_of(89)
    fake_cuda.fake_devices(0, 0)
    with pytest.raises(MissingSdkError, match="GPUs here: none"):
        driver.device_of(89)


def test_calls_without_a_context_fail_by_name(driver: Driver) -> None:
    with pytest.raises(CudaError, match=r"cuStreamCreate failed with CUDA_ERROR_INVALID_CONTEXT \(201\)"):
        # Tests share a thread, and CUDA keeps one context a thread.
        _in_thread(lambda: Stream(driver))


def test_a_buffer_goes_to_the_device_and_back_in_stream_order(driver: Driver, fake_cuda: ctypes.CDLL) -> None:
    context = Context(driver, driver.device_of(86))
    context.enter()
    stream, buffer = Stream(driver), Buffer(driver, (2, 3), np.dtype(np.float16))
    sent = np.arange(6, dtype=np.float16).reshape(2, 3)
    buffer.host[...] = sent
    buffer.upload(stream)
    stream.synchronize()
    buffer.host[...] = 0
    buffer.download(stream)
    assert not buffer.host.any(), "nothing is there before the stream is waited for"
    stream.synchronize()
    np.testing.assert_array_equal(buffer.host, sent)
    for owned in (buffer, stream, context):
        owned.close()
        owned.close()
    assert fake_cuda.fake_alive() == 0


@pytest.mark.parametrize("left", [0, 1])
def test_a_buffer_that_does_not_fit_leaves_nothing(driver: Driver, fake_cuda: ctypes.CDLL, left: int) -> None:
    context = Context(driver, driver.device_of(86))
    context.enter()
    fake_cuda.fake_allocations_left(left)
    with pytest.raises(CudaError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        Buffer(driver, (4,), np.dtype(np.float32))
    context.close()
    assert fake_cuda.fake_alive() == 0


def _in_thread(call: object) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(call).result()  # type: ignore[arg-type]
