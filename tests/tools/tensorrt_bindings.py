"""What TensorRT's Python bindings export, read from a bindings wheel: no TensorRT libraries, no GPU.

    pip download --no-deps --only-binary :all: tensorrt-cu12-bindings==10.4.0
    python tests/tools/tensorrt_bindings.py tensorrt_cu12_bindings-10.4.0-*.whl >10.4.0.json

The files lie in tests/backends/tensorrt/bindings. The extension module in the wheel names libraries that
aren't there. Ones of the same names are made, in which every entry point aborts; the module then imports, and
its classes, members and signatures can be read, never called. Needs what `stand_in` does,
and the Python that the wheel is for.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

from stand_in import stand_in

CLASSES = (
    "Builder",
    "EngineInspector",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IGridSampleLayer",
    "IHostMemory",
    "ILayer",
    "ILogger",
    "INetworkDefinition",
    "IOptimizationProfile",
    "ITensor",
    "ITimingCache",
    "OnnxParser",
    "ParserError",
    "Runtime",
)
"""Classes of the path from an ONNX file to a running engine."""

ENUMS = (
    "BuilderFlag",
    "DataType",
    "HardwareCompatibilityLevel",
    "InterpolationMode",
    "LayerInformationFormat",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParserFlag",
    "ProfilingVerbosity",
    "SampleMode",
    "TensorIOMode",
)

FUNCTIONS = ("init_libnvinfer_plugins",)

ENTRIES = r"_INTERNAL$|^getNv|Plugin|nv(?:uff|caffe)parser"
_SPECIAL = ("__init__", "__len__", "__getitem__")


def surface(module: ModuleType) -> dict[str, Any]:
    """Enumerators with their values; classes: methods with signatures, attributes with their access."""
    return {
        "version": module.__version__,
        "enums": {
            name: {member: int(value) for member, value in getattr(module, name).__members__.items()}
            for name in ENUMS
        },
        "severities": {name: int(value) for name, value in module.ILogger.Severity.__members__.items()},
        "functions": {name: _signatures(getattr(module, name)) for name in FUNCTIONS},
        "classes": {name: _members(getattr(module, name)) for name in CLASSES},
    }


def _members(made: type) -> dict[str, Any]:
    methods, attributes = {}, {}
    for name in dir(made):
        if name.startswith("_") and name not in _SPECIAL:
            continue
        member = getattr(made, name)
        if isinstance(member, property):
            attributes[name] = "read" if member.fset is None else "read-write"
        elif callable(member) and not isinstance(member, type) and (told := _signatures(member)):
            methods[name] = told
    return {"methods": methods, "attributes": attributes}


def _signatures(function: Any) -> list[str]:
    """Its overloads, from the docstring that pybind11 writes: "name(self: Type, flags: int = 0) -> Other"."""
    pattern = rf"^(?:\d+\. )?{function.__name__}(\(.*\) -> .*)$"
    found = re.findall(pattern, function.__doc__ or "", re.MULTILINE)
    return [re.sub(r"tensorrt(?:_bindings)?\.tensorrt\.", "", signature) for signature in found]


def main(wheel: str) -> int:
    """Print the surface of a wheel as JSON."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        zipfile.ZipFile(wheel).extractall(folder)
        module = next(folder.glob("tensorrt*/tensorrt.so"))
        stand_in([module], folder, libraries="libnv", entries=ENTRIES, body="abort();")
        read = (
            "import os, sys; sys.setdlopenflags(os.RTLD_LAZY); import tensorrt_bindings as t; import json; "
        )
        read += "from tensorrt_bindings_reader import surface; print(json.dumps(surface(t)))"
        (folder / "tensorrt_bindings_reader.py").write_text(Path(__file__).read_text())
        shutil.copy(Path(__file__).with_name("stand_in.py"), folder)
        done = subprocess.run(
            [sys.executable, "-c", read],
            env={**os.environ, "LD_LIBRARY_PATH": made, "PYTHONPATH": made},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    print(_a_line_each({"wheel": Path(wheel).name, **json.loads(done.stdout)}))
    return 0


def _a_line_each(found: dict[str, Any]) -> str:
    """JSON with a line for each class and enumeration, so that versions compare well."""
    lines = []
    for key, value in found.items():
        if key in ("enums", "classes"):
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value[name])}" for name in value)
            lines.append(f' "{key}": {{\n{inner}\n }}')
        else:
            lines.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
