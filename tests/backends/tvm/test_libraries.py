"""Stand-ins for the driver and for CUDA 13's runtime: every symbol TVM takes, and calls that arrive."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from superlower.backends.tvm import libraries, nvrtc
from superlower.errors import MissingSdkError

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def tvm_library() -> Path:
    spec = importlib.util.find_spec("tvm")
    if spec is None or spec.origin is None or shutil.which("nm") is None:
        pytest.skip("apache-tvm or nm isn't here")
    library = Path(spec.origin).parent / "lib" / "libtvm_runtime_cuda.so"
    return library if library.is_file() else pytest.skip(f"no {library.name} in this apache-tvm")


def test_they_have_every_symbol_that_tvms_library_takes() -> None:
    command = ["nm", "-D", "--undefined-only", tvm_library()]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    wanted = {line.split()[-1].partition("@")[0] for line in listing.splitlines()}
    runtime = {name for name in wanted if name.startswith("cuda")}
    assert runtime == {*libraries.RUNTIME, *libraries.CHANGED}
    assert {name for name in wanted if name.startswith("cu")} - runtime == set(libraries.DRIVER)


def _python(program: str) -> str:
    """Runs in a process of its own: what it loads would stay in this one."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _needs_cuda_12() -> None:
    if not nvrtc.in_wheels("*/lib/libcudart.so.12"):
        pytest.skip("CUDA 12's runtime isn't here: pip install 'nvidia-cuda-runtime-cu12==12.9.*'")


@needs_compiler
def test_calls_for_an_old_gpu_reach_cuda_12() -> None:
    _needs_cuda_12()
    told = _python(
        "import ctypes\n"
        "from superlower.backends.tvm.libraries import provide_runtime\n"
        "print(provide_runtime([70]))\n"
        "name = ctypes.CDLL('libcudart.so.13').cudaGetErrorName\n"
        "name.restype = ctypes.c_char_p\n"
        "print(name(2).decode())\n"
        "print(any('libcudart.so.12' in line for line in open('/proc/self/maps')))\n"
    )
    assert told.splitlines() == [
        "stand-in libcudart.so.13, over CUDA 12's",
        "cudaErrorMemoryAllocation",
        "True",
    ]


@needs_compiler
def test_tvms_runtime_links_with_both_stand_ins(tmp_path: Path) -> None:
    """It loads at once or not at all: RTLD_NOW binds every symbol, versions included."""
    _needs_cuda_12()
    library = tvm_library()
    told = _python(
        "import ctypes, os\n"
        "from pathlib import Path\n"
        "from superlower.backends.tvm import libraries\n"
        f"libraries.provide_runtime([70]); libraries.provide_driver(Path({str(tmp_path)!r}))\n"
        "os.environ['TVM_USE_RUNTIME_LIB'] = '1'\n"
        "import tvm\n"
        f"ctypes.CDLL({str(library)!r}, ctypes.RTLD_GLOBAL | os.RTLD_NOW)\n"
        "print(tvm.cuda(0).exist)\n"
    )
    # Asked through the stand-in, CUDA 12 says how many GPUs this machine's driver has.
    assert told.strip() in ("True", "False")
    if libraries.driver_version() == 0:
        assert told.strip() == "False"


@pytest.mark.parametrize(
    ("gpus", "driver", "old"),
    [
        ([], 0, False),
        ([86], 13000, False),
        ([86], 12080, True),
        ([70, 86], 13000, True),
        ([75], 13010, False),
    ],
    ids=["build", "new", "old_driver", "volta", "turing"],
)
def test_which_runtime_serves(
    gpus: list[int], driver: int, old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(libraries, "driver_version", lambda: driver)
    monkeypatch.setattr(libraries, "_load", lambda *names: True)

    def stand_in(folder: Path, name: str, source: str, *, versioned: bool) -> Path:
        made.append(source)
        return folder / name

    monkeypatch.setattr(libraries, "_made", stand_in)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_: None)
    assert bool(libraries.provide_runtime(gpus)) == old
    assert bool(made) == old


def test_a_runtime_that_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "_load", lambda *names: False)
    with pytest.raises(MissingSdkError, match=r"needs libcudart\.so\.13, which .*superlower\[tvm-cuda\]"):
        libraries.provide_runtime()
    with pytest.raises(MissingSdkError, match=r"needs libcudart\.so\.12 .*older than CUDA 13"):
        libraries.provide_runtime([70])


def test_without_a_compiler_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, *_: object) -> ctypes.CDLL:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", absent)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingSdkError, match=r"stand-in for libcuda\.so\.1 needs a C compiler"):
        libraries.provide_driver(tmp_path)
    assert libraries.driver_version() == 0
