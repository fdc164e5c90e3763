"""Running an engine: order of copies and kernels, calls in flight, ownership, and that nothing leaks."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from superlower.backends.tensorrt.cuda import Context, CudaError, Driver
from superlower.backends.tensorrt.session import EngineSession
from superlower.errors import BadInputError

SHAPE = (1, 2, 3)


class Engine:
    """y = 2 x + 1 in float32 and z = x as float16, on the fake device; its API is the SDK's."""

    tensors = (("x", "INPUT", "FLOAT"), ("y", "OUTPUT", "FLOAT"), ("z", "OUTPUT", "HALF"))
    num_io_tensors = 3

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index][0]

    def get_tensor_mode(self, name: str) -> Any:
        return SimpleNamespace(name=next(mode for n, mode, _ in self.tensors if n == name))

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=next(kind for n, _, kind in self.tensors if n == name))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return SHAPE


class Execution:
    """An execution context: enqueues its kernel on the stream it is given."""

    def __init__(self, library: ctypes.CDLL, gate: threading.Barrier | None) -> None:
        self.library, self.gate, self.addresses = library, gate, dict[str, int]()
        self.kernel = ctypes.CFUNCTYPE(None)(self._compute)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if self.gate is not None:
            self.gate.wait(timeout=20)
        return int(self.library.fake_enqueue(stream, ctypes.cast(self.kernel, ctypes.c_void_p))) == 0

    def _array(self, name: str, kind: type[np.generic]) -> Any:
        size = int(np.prod(SHAPE)) * np.dtype(kind).itemsize
        raw = (ctypes.c_ubyte * size).from_address(self.addresses[name])
        return np.frombuffer(raw, kind).reshape(SHAPE)

    def _compute(self) -> None:
        x = self._array("x", np.float32)
        self._array("y", np.float32)[...] = 2 * x + 1
        self._array("z", np.float16)[...] = x


class Contexts:
    """Hands out execution contexts; counts, and fails on demand."""

    def __init__(self, library: ctypes.CDLL, gate: threading.Barrier | None = None) -> None:
        self.library, self.gate, self.closed, self.made, self.fails = library, gate, 0, 0, False

    def create(self, engine: Any) -> Execution | None:
        self.made += 1
        return None if self.fails else Execution(self.library, self.gate)

    def reason(self) -> str:
        return "out of registers"

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def device(fake_cuda: ctypes.CDLL, fake_cuda_library: Path) -> Context:
    driver = Driver(str(fake_cuda_library))
    return Context(driver, driver.device_of(86))


@pytest.fixture
def opened(device: Context, fake_cuda: ctypes.CDLL) -> Iterator[Callable[..., EngineSession]]:
    """Sessions that are closed at the end, after which nothing on the device may be left."""
    sessions: list[EngineSession] = []

    def make(contexts: Contexts, lanes: int = 1) -> EngineSession:
        sessions.append(EngineSession(device, Engine(), contexts, lanes))
        return sessions[-1]

    yield make
    for session in sessions:
        session.close()
        session.close()
    assert fake_cuda.fake_alive() == 0


def _x(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def test_outputs_are_computed_from_the_fed_arrays(
    opened: Callable[..., EngineSession], fake_cuda: ctypes.CDLL
) -> None:
    session = opened(Contexts(fake_cuda))
    for seed in range(3):
        out = session.run({"x": _x(seed)})
        np.testing.assert_array_equal(out["y"], 2 * _x(seed) + 1)
        np.testing.assert_array_equal(out["z"], _x(seed).astype(np.float16))
        assert out["z"].dtype == np.float16


class Recurrent(Engine):
    """h' = h / 2 + x, and y = h' + 1."""

    tensors = (
        ("x", "INPUT", "FLOAT"),
        ("h", "INPUT", "FLOAT"),
        ("h_next", "OUTPUT", "FLOAT"),
        ("y", "OUTPUT", "FLOAT"),
    )
    num_io_tensors = 4


class RecurrentExecution(Execution):
    def _compute(self) -> None:
        x, h = self._array("x", np.float32), self._array("h", np.float32)
        assert self.addresses["h"] != self.addresses["h_next"]
        self._array("h_next", np.float32)[...] = h / 2 + x
        self._array("y", np.float32)[...] = h / 2 + x + 1


class RecurrentContexts(Contexts):
    def create(self, engine: Any) -> Execution | None:
        self.made += 1
        return RecurrentExecution(self.library, self.gate)


def test_states_change_places_on_the_device(device: Context, fake_cuda: ctypes.CDLL) -> None:
    contexts = RecurrentContexts(fake_cuda)
    session = EngineSession(device, Recurrent(), contexts, 2, (("h_next", "h"),))
    try:
        assert contexts.made == 1  # A state is one clip's: one call at a time.
        for _ in range(2):
            state = np.zeros(SHAPE, np.float32)
            for seed in range(5):
                state = state / 2 + _x(seed)
                out = session.run({"x": _x(seed)})
                assert out.keys() == {"y"}
                np.testing.assert_array_equal(out["y"], state + 1)
            session.reset()
        with pytest.raises(BadInputError, match="unknown engine input 'h'"):
            session.run({"x": _x(0), "h": _x(0)})
    finally:
        session.close()
    assert fake_cuda.fake_alive() == 0


def test_an_output_belongs_to_the_caller(
    opened: Callable[..., EngineSession], fake_cuda: ctypes.CDLL
) -> None:
    session = opened(Contexts(fake_cuda))
    first = session.run({"x": _x(0)})["y"]
    session.run({"x": _x(1)})
    np.testing.assert_array_equal(first, 2 * _x(0) + 1)
    session.close()
    np.testing.assert_array_equal(first, 2 * _x(0) + 1)


def test_two_lanes_have_two_calls_in_flight(
    opened: Callable[..., EngineSession], fake_cuda: ctypes.CDLL
) -> None:
    # The barrier opens only when both calls stand at their kernel at the same time.
    contexts = Contexts(fake_cuda, threading.Barrier(2))
    session = opened(contexts, lanes=2)
    futures = [session.submit({"x": _x(seed)}) for seed in range(6)]
    wait(futures, timeout=60)
    for seed, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(timeout=0)["y"], 2 * _x(seed) + 1)
    assert contexts.made == 2


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.zeros(SHAPE, np.float64)}, r"'x' takes float32 \[1, 2, 3\], not float64"),
        ({"x": np.zeros((1, 2), np.float32)}, r"not float32 \[1, 2\]"),
        ({}, "'x' is not fed"),
        ({"w": np.zeros(SHAPE, np.float32)}, "unknown engine input 'w'"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(
    opened: Callable[..., EngineSession], fake_cuda: ctypes.CDLL, feeds: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        opened(Contexts(fake_cuda)).run(feeds)


@pytest.mark.parametrize("left", range(12))
def test_a_session_that_does_not_fit_the_device_leaves_nothing(
    device: Context, fake_cuda: ctypes.CDLL, left: int
) -> None:
    # Two lanes make twelve allocations: three tensors, on device and host, twice.
    contexts = Contexts(fake_cuda)
    fake_cuda.fake_allocations_left(left)
    with pytest.raises(CudaError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        EngineSession(device, Engine(), contexts, 2)
    assert (fake_cuda.fake_alive(), contexts.closed) == (0, 1)


def test_a_context_the_sdk_cannot_make_is_an_error_with_its_reason(
    device: Context, fake_cuda: ctypes.CDLL
) -> None:
    contexts = Contexts(fake_cuda)
    contexts.fails = True
    with pytest.raises(CudaError, match="no execution context for the engine: out of registers"):
        EngineSession(device, Engine(), contexts, 1)
    assert fake_cuda.fake_alive() == 0


def test_a_closed_session_says_so(opened: Callable[..., EngineSession], fake_cuda: ctypes.CDLL) -> None:
    contexts = Contexts(fake_cuda)
    session = opened(contexts)
    session.close()
    with pytest.raises(CudaError, match="closed"):
        session.run({"x": _x(0)})
    assert contexts.closed == 1


class OpenEngine(Engine):
    """The same of any height from 1 to 4, as its optimisation profile says."""

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, -1, 3)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert (name, profile) == ("x", 0), "outputs have no profile"
        return [(1, 1, 3), (1, 2, 3), (1, 4, 3)]


class OpenExecution(Execution):
    """Its outputs are of the input's shape."""

    shape = SHAPE

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self.shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def _array(self, name: str, kind: type[np.generic]) -> Any:
        size = int(np.prod(self.shape)) * np.dtype(kind).itemsize
        raw = (ctypes.c_ubyte * size).from_address(self.addresses[name])
        return np.frombuffer(raw, kind).reshape(self.shape)


class OpenContexts(Contexts):
    def create(self, engine: Any) -> Execution:
        self.made += 1
        return OpenExecution(self.library, self.gate)


def test_an_open_size_is_settled_call_by_call(device: Context, fake_cuda: ctypes.CDLL) -> None:
    session = EngineSession(device, OpenEngine(), OpenContexts(fake_cuda), 1)
    for height in (4, 1, 3, 2):
        x = np.random.default_rng(height).standard_normal((1, height, 3)).astype(np.float32)
        out = session.run({"x": x})
        np.testing.assert_array_equal(out["y"], 2 * x + 1)
        np.testing.assert_array_equal(out["z"], x.astype(np.float16))
    session.close()
    assert fake_cuda.fake_alive() == 0


@pytest.mark.parametrize("height", [0, 5])
def test_a_size_outside_the_profile_is_refused(device: Context, fake_cuda: ctypes.CDLL, height: int) -> None:
    session = EngineSession(device, OpenEngine(), OpenContexts(fake_cuda), 1)
    with pytest.raises(BadInputError, match=r"'x' takes sizes from \[1, 1, 3\] to \[1, 4, 3\], not \[1, "):
        session.run({"x": np.zeros((1, height, 3), np.float32)})
    session.close()
    assert fake_cuda.fake_alive() == 0


def test_a_type_numpy_lacks_is_refused(
    device: Context, fake_cuda: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "tensors", (("x", "INPUT", "INT4"),))
    monkeypatch.setattr(Engine, "num_io_tensors", 1)
    with pytest.raises(BadInputError, match=r"'x' is INT4 \[1, 2, 3\]"):
        EngineSession(device, Engine(), Contexts(fake_cuda), 1)
    assert fake_cuda.fake_alive() == 0
