"""Kernels of ONNX Runtime's CUDA provider, read from an onnxruntime-gpu wheel: no CUDA libraries, no GPU.

    pip download --no-deps --only-binary :all: onnxruntime-gpu==1.31.1
    python tests/tools/onnxruntime_kernels.py onnxruntime_gpu-1.31.1-*.whl cuda src/superlower/probes/results

The provider registers its kernels when it is loaded, long before it touches a GPU. The CUDA libraries that it
asks for are made with the same names and entry points that do nothing; ONNX Runtime then lists its registry.
An operator without a CUDA kernel for its type and version is computed on the CPU, and stands in the table as
refused. Needs what `stand_in` does, numpy, onnx, and the Python that the wheel is for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import onnx
from stand_in import stand_in

import superlower
from superlower.probes.tables import Result, Table, Verdict, write

PROVIDER = "CUDAExecutionProvider"
TYPES = {
    "fp32": "tensor(float)",
    "fp16": "tensor(float16)",
    "bf16": "tensor(bfloat16)",
    "int8": "tensor(int8)",
    "uint8": "tensor(uint8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
    "bool": "tensor(bool)",
}
"""Types as a probe's key has them, and as ONNX does."""

FLOATS = ("fp32", "fp16", "bf16")
OPSETS = range(16, 25)
"""Of models worth asking about: from GridSample's first on."""

OPEN = 2**31 - 1
EXPANDED = "no CUDA kernel: expanded into the operators of its definition"

_LIST = f"""
import json, os
import onnxruntime.capi.onnxruntime_pybind11_state as state
listed = [
    (kernel.op_name, kernel.domain, list(kernel.version_range), kernel.type_constraints)
    for kernel in state.get_all_opkernel_def()
    if kernel.provider == {PROVIDER!r}
]
print(json.dumps(listed))
"""


def registry(wheel: Path) -> list[dict[str, Any]]:
    """Kernels of the ONNX domain: operator, first and last version, and types by constraint."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        zipfile.ZipFile(wheel).extractall(folder / "site")
        capi = folder / "site" / "onnxruntime" / "capi"
        modules = [capi / f"libonnxruntime_providers_{name}.so" for name in ("cuda", "tensorrt")]
        entries = r"^(?:__)?cu|_INTERNAL$|^getInfer|Plugin"
        stand_in(modules, folder, libraries=r"lib(?:cu|nv)", entries=entries, body="return 0;")
        done = subprocess.run(
            [sys.executable, "-c", _LIST],
            env={**os.environ, "PYTHONPATH": str(folder / "site"), "LD_LIBRARY_PATH": made},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        {"op": op, "first": versions[0], "last": versions[1], "types": types}
        for op, domain, versions, types in found
        if domain in ("", "ai.onnx")
    ]


def serves(kernel: dict[str, Any], schema: onnx.defs.OpSchema, dtype: str) -> bool:
    """Whether the kernel is the one for nodes of the schema whose deciding input has the type.

    An open-ended kernel serves the version it starts with only: a later one may mean something else.
    """
    first, last, since = kernel["first"], kernel["last"], schema.since_version
    if since != first and not (first < since <= last < OPEN):
        return False
    wanted = TYPES[dtype]
    given = [value for value in schema.inputs if wanted in _allowed(schema, value.type_str)]
    if not given:
        return False
    types = kernel["types"].get(given[0].type_str)
    return types is None or wanted in types


def _allowed(schema: onnx.defs.OpSchema, type_str: str) -> list[str]:
    bound = {c.type_param_str: list(c.allowed_type_strs) for c in schema.type_constraints}
    return bound.get(type_str, [type_str])


def results(kernels: list[dict[str, Any]]) -> list[Result]:
    """For every version of every ONNX operator and each type it allows, whether there is a kernel."""
    found = []
    for schema in _schemas():
        own = [kernel for kernel in kernels if kernel["op"] == schema.name]
        for dtype, name in TYPES.items():
            place = schema.inputs if dtype in FLOATS else schema.inputs[:1]
            if not any(name in _allowed(schema, value.type_str) for value in place):
                continue
            taken, detail = any(serves(kernel, schema, dtype) for kernel in own), ""
            if not taken:
                # ONNX Runtime puts the definition's own nodes in place of one that it has no kernel for.
                taken = schema.has_function or schema.has_context_dependent_function
                detail = (
                    EXPANDED if taken else f"no CUDA kernel for {dtype} at version {schema.since_version}"
                )
            found.append(
                Result(
                    case=f"{schema.name}/{schema.since_version}/{dtype}",
                    key=f"{schema.name}-{schema.since_version} {dtype}",
                    verdict=Verdict.BUILT if taken else Verdict.REFUSED,
                    detail=detail,
                )
            )
    return found


def _schemas() -> list[onnx.defs.OpSchema]:
    """Definitions of operators with inputs that hold in one of the opsets, each once."""
    names = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})
    found = {}
    for name, opset in itertools.product(names, OPSETS):
        with contextlib.suppress(onnx.defs.SchemaError):
            schema = onnx.defs.get_schema(name, opset)
            if schema.inputs and not schema.deprecated:
                found[name, schema.since_version] = schema
    return list(found.values())


def main(wheel: str, target: str, folder: str) -> int:
    """Write the table of a wheel, under the target's name."""
    version = Path(wheel).name.split("-")[1]
    table = Table(
        backend="onnxruntime",
        target=target,
        sdk={"onnxruntime-gpu": version},
        source="the CUDA provider's kernel registry",
        superlower=superlower.__version__,
        machine="",
        results=tuple(results(registry(Path(wheel)))),
    )
    write(table, Path(folder) / f"onnxruntime-{target}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
