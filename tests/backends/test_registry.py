"""Backends by name: ours, a third party's, broken ones, and all of them without their SDKs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from superlower.backends.base import Backend
from superlower.backends.registry import backend, backends
from superlower.errors import BadInputError
from superlower.ir import save

PLUGIN = Path(__file__).parents[1] / "plugin"
OURS = {"onnxruntime", "openvino", "tvm", "tensorrt", "tensorrt-rtx"}


def install(site: Path, name: str, entry_points: dict[str, str], group: str = "superlower.backends") -> None:
    """Leave in `site` what pip would: the metadata of a distribution with these entry points."""
    info = site / f"{name}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    lines = [f"[{group}]", *(f"{key} = {value}" for key, value in entry_points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def python(script: str, *arguments: object, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh Python that finds these folders' modules and distributions."""
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_installed_name_is_listed_in_order() -> None:
    listed = [each.name for each in backends()]
    assert set(listed) >= OURS
    assert listed == sorted(listed)
    assert all(isinstance(each, Backend) for each in backends())


def test_a_name_is_its_backend_and_made_once() -> None:
    assert backend("onnxruntime").name == "onnxruntime"
    assert backend("openvino") is backend("openvino")


def test_unknown_name_tells_the_nearest() -> None:
    with pytest.raises(BadInputError, match=r"unknown backend 'opnvino': did you mean openvino\?"):
        backend("opnvino")


COMPILE_AND_RUN = """
import json, sys
from pathlib import Path
import numpy as np
from superlower.backends.base import BuildOptions
from superlower.backends.registry import backend, backends
from superlower.ir import load
from superlower.targets.base import Precision, Target

folder = Path(sys.argv[1])
target = Target(name="cpu", title="CPU", kind="cpu", architecture="x86-64",
                precisions=(Precision.FP32,), backends={}, tvm={})
chosen = backend("reference-evaluator")
model = load(folder / "graph.onnx")
artifact = chosen.compile(model, target, BuildOptions(timeout_s=60), folder / "engine")
session = chosen.load(artifact, folder / "engine")
outputs = session.run(dict(np.load(folder / "feeds.npz")))
session.close()
np.savez(folder / "outputs.npz", **outputs)
coverage = chosen.coverage(model, target, Precision.FP32)
print(json.dumps({"listed": [b.name for b in backends()], "title": chosen.title,
                  "support": sorted({n.support for n in coverage}), "nodes": artifact.facts["nodes"]}))
"""


def test_a_third_partys_backend_is_listed_compiles_and_runs(tmp_path: Path) -> None:
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    install(
        tmp_path / "site",
        project["name"].replace("-", "_"),
        project["entry-points"]["superlower.backends"],
    )
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    graph = """<ir_version: 10, opset_import: ["": 19]>
        g (float[1,3,6,5] x, float[4,3,3,3] w) => (float[1,4,6,5] y) {
            c = Conv<pads=[1,1,1,1]>(x, w)
            y = Relu(c)
        }"""
    save(ir.from_onnx_text(graph), tmp_path / "graph.onnx")
    feeds = rng.standard_normal((1, 3, 6, 5)).astype(np.float32)
    np.savez(tmp_path / "feeds.npz", x=feeds, w=weight)
    (tmp_path / "engine").mkdir()

    done = python(COMPILE_AND_RUN, tmp_path, path=(tmp_path / "site", PLUGIN / "src"))

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told["listed"]) == OURS | {"reference-evaluator"}
    assert told["title"] == "ONNX reference evaluator (numpy)"
    assert (told["support"], told["nodes"]) == (["native"], 2)
    padded = np.pad(feeds[0].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.maximum(np.einsum("chwij,ocij->ohw", windows, weight.astype(np.float64)), 0)[None]
    # 27 products each rounded to 2^-24 of sums below 30 in size: under 27 * 30 * 2^-24 = 5e-5.
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npz")["y"], expected, rtol=0, atol=5e-5)


USE = """
import sys
from superlower.backends.registry import backend, backends
from superlower.errors import SuperlowerError
try:
    print(",".join(b.name for b in backends()))
    print([b.missing() for b in backends() if b.name == sys.argv[1]][0])
    backend(sys.argv[1])
except SuperlowerError as error:
    print(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_sdk\n", "No module named 'no_such_sdk'"),
        ("raise RuntimeError('driver too old')\n", "driver too old"),
        ("class Broken:\n    name = 'broken'\n", "lacks title, "),
        ("class Broken:\n    def __init__(self): raise OSError('no licence')\n", "no licence"),
        ("", "Broken"),
    ],
)
def test_a_broken_plug_in_is_listed_with_its_reason_and_fails_when_used(
    code: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "broken_plugin.py").write_text(code)
    install(tmp_path, "broken_plugin", {"broken": "broken_plugin:Broken"})
    done = python(USE, "broken", path=(tmp_path,))
    assert done.returncode == 0, done.stderr
    listed, missing, error = done.stdout.splitlines()
    assert set(listed.split(",")) == OURS | {"broken"}
    assert reason in missing
    assert error == f"BadInputError: {missing}"
    assert "broken" in error


def test_a_name_claimed_twice_is_an_error_that_tells_both(tmp_path: Path) -> None:
    install(tmp_path, "first", {"twice": "first_plugin:One"})
    install(tmp_path, "second", {"twice": "second_plugin:Two"})
    done = python(USE, "twice", path=(tmp_path,))
    assert done.stdout.startswith("BadInputError: backend 'twice' is claimed twice")
    assert "first_plugin:One" in done.stdout
    assert "second_plugin:Two" in done.stdout
    assert done.stdout.count("\n") == 1


WITHOUT_SDKS = '''
import sys
SDKS = {"openvino", "onnxruntime", "tvm", "tensorrt", "tensorrt_rtx", "torch"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in SDKS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import json, pkgutil, importlib
import superlower.backends
from superlower.backends.registry import backend, backends
import onnx_ir as ir
from superlower.targets.base import Precision, Target

for module in pkgutil.walk_packages(superlower.backends.__path__, "superlower.backends."):
    importlib.import_module(module.name)
target = Target(name="cpu", title="CPU", kind="cpu", architecture="x86-64", precisions=(Precision.FP32,),
                backends={"onnxruntime": "", "openvino": ""}, tvm={})
told = {}
for each in backends():
    told[each.name] = {"missing": each.missing(), "versions": each.versions()}
model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["": 19]>
    g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }""")
for name in ("onnxruntime", "openvino"):
    told[name]["serves"] = backend(name).serves(target, Precision.FP32)
    told[name]["runnable"] = backend(name).runnable(target)
    (node,) = backend(name).coverage(model, target, Precision.FP32)
    told[name]["coverage"] = [node.support, node.source]
told["loaded"] = sorted(SDKS & {name.partition(".")[0] for name in sys.modules})
print(json.dumps(told))
'''


def test_without_any_sdk_backends_are_listed_and_say_what_to_install() -> None:
    done = python(WITHOUT_SDKS)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert set(told) >= OURS
    assert told.pop("loaded") == []
    for name in OURS:
        assert "pip install" in told[name]["missing"]
        assert told[name]["versions"] == {}
    for name, package in (("onnxruntime", "onnxruntime"), ("openvino", "superlower[openvino]")):
        assert told[name]["missing"] == f"{name} isn't installed: pip install '{package}'"
        assert told[name]["serves"] is None
        assert told[name]["missing"] == told[name]["runnable"]
        support, source = told[name]["coverage"]
        assert support == "native"
        assert source.startswith("table: ")


def test_listing_imports_no_sdk() -> None:
    done = python(
        "import sys\n"
        "from superlower.backends.registry import backends\n"
        "for each in backends(): each.missing(), each.versions()\n"
        "sdks = ('openvino', 'onnxruntime', 'tvm', 'tensorrt', 'tensorrt_rtx', 'torch')\n"
        "print([name for name in sdks if name in sys.modules])"
    )
    assert done.stdout == "[]\n", done.stderr
