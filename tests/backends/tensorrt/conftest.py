"""A CUDA driver over host memory, the catalog's targets, and tiny graphs of one operator."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from superlower.ir import IR_VERSION, OPSET
from superlower.targets.base import Target
from superlower.targets.catalog import load_catalog

Tensors = Mapping[str, tuple[int, Sequence[int]]]


@pytest.fixture(scope="session")
def targets() -> dict[int, Target]:
    """SM number -> a target of the catalog."""
    return {t.compute_capability: t for t in load_catalog().values() if t.compute_capability is not None}


@pytest.fixture(scope="session")
def fake_cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fake_cuda.c, compiled."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to build the CUDA driver over host memory with")
    library = tmp_path_factory.mktemp("cuda") / "libfakecuda.so"
    source = Path(__file__).parent / "fake_cuda.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-o", library, source], check=True)
    return library


@pytest.fixture
def fake_cuda(fake_cuda_library: Path) -> ctypes.CDLL:
    """The fake driver with its own controls, in its first state."""
    library = ctypes.CDLL(str(fake_cuda_library))
    library.fake_enqueue.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    library.fake_allocations_left(-1)
    library.fake_devices(1, 86)
    return library


@pytest.fixture
def one_node() -> Callable[..., ir.Model]:
    """A model of one node: `one_node("Relu", {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])})`."""

    def make(
        op: str,
        inputs: Tensors,
        outputs: Tensors,
        initializers: Sequence[Any] = (),
        *,
        opset: int = OPSET,
        domain: str = "",
        **attributes: Any,
    ) -> ir.Model:
        held = [tensor.name for tensor in initializers]
        node = helper.make_node(op, [*inputs, *held], list(outputs), name="it", domain=domain, **attributes)

        def infos(tensors: Tensors) -> list[Any]:
            return [helper.make_tensor_value_info(n, t, shape) for n, (t, shape) in tensors.items()]

        graph = helper.make_graph([node], "one", infos(inputs), infos(outputs), list(initializers))
        imports = [helper.make_opsetid("", opset)]
        if domain:
            imports.append(helper.make_opsetid(domain, 1))
        return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION))

    return make


@pytest.fixture
def float_types() -> dict[str, int]:
    """Short names of ONNX element types."""
    return {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
