"""The child side of TVM builds: everything here runs in a process of its own, with TVM's compiler loaded.

ONNX -> Relax -> fused primitive functions -> scheduled -> shared library
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from superlower.backends import limits, probe, sdk, tables
from superlower.backends.base import NodeSupport
from superlower.backends.tvm.engine import LIBRARY
from superlower.backends.tvm.schedule import cpu_target, schedule_module
from superlower.errors import BuildFailedError, UnsupportedOperatorError
from superlower.ir import infer_shapes, serialize


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent asks for.

    Attributes:
        model: path of the legalized graph.
        target: TVM's target dictionary.
        archs: CUDA architectures to make device code for, the target's own among them, oldest first.
        opt_level: TVM's pass context level.
        tuning: folder of the tuning database; "" builds with the default schedules.
    """

    model: str
    target: dict[str, str | int]
    archs: tuple[str, ...] = ()
    opt_level: int = 3
    tuning: str = ""


def build(request: dict[str, object], workdir: Path) -> dict[str, object]:
    """Compile a graph to `workdir`/engine.so; returns the facts about the build.

    Raises:
        UnsupportedOperatorError: TVM's importer refuses a node.
        MissingSdkError: a CUDA target and no CUDA compiler.
        BuildFailedError: the CUDA compiler failed.
    """
    asked = msgspec.convert(request, Request)
    facts: dict[str, object] = {"opt_level": asked.opt_level, "tuned": "no"}
    for_gpu = asked.target.get("kind") == "cuda"
    if for_gpu:
        # Before TVM is imported: it binds its CUDA runtime then or never.
        from superlower.backends.tvm import cuda, libraries

        compiler = cuda.find_compiler(asked.archs, workdir)
        libraries.provide_runtime()
        stand_in = libraries.provide_driver(workdir)
        facts |= {"compiler": compiler.name, "arch": ",".join(asked.archs), "holds": compiler.holds}
        facts |= {"driver": stand_in} if stand_in else {}
    model = ir.load(asked.model)
    if for_gpu:
        facts |= _build_cuda(_imported(model), asked, compiler.compile, workdir)
    else:
        facts |= _build_cpu(model, asked, workdir)
    return facts


def coverage(request: dict[str, object], workdir: Path) -> dict[str, object]:
    """How TVM's importer serves each node of a graph; the passes named are tried where it refuses one."""
    from superlower.backends.tvm.backend import Tvm
    from superlower.targets.base import Precision, Target

    target = msgspec.convert(request["target"], Target)
    precision = Precision(str(request["precision"]))
    passes = Tvm().legalize(target, precision)
    known = limits.asked(limits.context(Tvm(), target, precision))
    ask = tables.known_wrong(
        probe.remembered(lambda model: known(model) or _refusal(model), "tvm"), Tvm(), target, known
    )
    found = probe.coverage(ir.load(str(request["model"])), ask, passes)
    return {"nodes": msgspec.to_builtins(found)}


def covered(result: Mapping[str, object]) -> list[NodeSupport]:
    """The parent's side of `coverage`."""
    return msgspec.convert(result["nodes"], list[NodeSupport])


def _refusal(model: ir.Model) -> str | None:
    """Why the importer refuses a model; None if it takes it, rightly or not."""
    try:
        _import(model)
    except Exception as error:
        return sdk.first_line(error)
    return None


def _import(model: ir.Model) -> Any:
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return from_onnx(onnx.load_from_string(serialize(model)), sanitize_input_names=False)


def _imported(model: ir.Model) -> Any:
    """The graph as an IRModule with the standard simplifications for inference."""
    import tvm
    from tvm import relax

    try:
        module = _import(model)
    except Exception as error:
        refusal = probe.refusal(probe.probe_nodes(infer_shapes(model), _refusal))
        raise UnsupportedOperatorError(f"tvm: {refusal or sdk.first_line(error)}") from error
    from superlower.backends.tvm.precision import accumulate_in_float32

    prepare = [relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings()]
    return accumulate_in_float32(tvm.ir.transform.Sequential(prepare)(module))


def fused(model: ir.Model, target: Mapping[str, Any], opt_level: int = 3) -> Any:
    """A graph as the fused functions that its build for a CPU schedules, and tuning tunes.

    Raises:
        UnsupportedOperatorError: TVM's importer refuses a node.
    """
    import tvm
    from tvm import relax

    module = _imported(model)
    with cpu_target(target)[0], tvm.transform.PassContext(opt_level=opt_level):
        return relax.get_pipeline("zero")(module)


def _build_cpu(model: ir.Model, asked: Request, workdir: Path) -> dict[str, object]:
    import tvm
    from tvm.target import codegen

    from superlower.backends.tvm.tuning.apply import apply_records

    target, vectors = cpu_target(asked.target)
    module = fused(model, asked.target, asked.opt_level)
    module, used = apply_records(module, asked.target, asked.tuning)
    module, left = schedule_module(module, vectors)
    with target, tvm.transform.PassContext(opt_level=asked.opt_level):
        tvm.compile(module, target).export_library(str(workdir / LIBRARY))
    features = frozenset(codegen.llvm_get_cpu_features(tvm.target.Target(asked.target)))
    needs = " ".join(sorted(features & CHECKED_FEATURES))
    print("without a default schedule:", ", ".join(left) or "none")
    return {
        "mcpu": str(asked.target.get("mcpu", "generic")),
        "cpu_features": needs,
        "unscheduled_functions": len(left),
        **used,
    }


CHECKED_FEATURES = frozenset({"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"})
"""Features that LLVM and /proc/cpuinfo call by one name; an engine crashes on a processor without its own."""


def _build_cuda(
    module: Any, asked: Request, compile_source: Callable[[str], bytes], workdir: Path
) -> dict[str, object]:
    """Compile with default GPU schedules, which bind every loop nest to blocks and threads."""
    import tvm
    import tvm_ffi
    from tvm import relax

    from superlower.backends.tvm.gpu_schedule import schedule_module, unbound
    from superlower.backends.tvm.layout import weights_channels_last

    binaries = []

    def callback(code: str) -> bytearray:
        binaries.append(compile_source(code))
        return bytearray(binaries[-1])

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", callback, override=True)
    # The oldest architecture's code is CUDA C++ that every later one compiles too.
    target = tvm.target.Target({**asked.target, "arch": asked.archs[0]}, host={"kind": "llvm"})
    with target, tvm.transform.PassContext(opt_level=asked.opt_level):
        module = relax.get_pipeline("zero")(weights_channels_last(module))
        module, tiled = schedule_module(module, target)
        if left := unbound(module):
            raise BuildFailedError(f"no GPU schedule for {', '.join(left)}: its loops would run on the host")
        executable = tvm.compile(module, target)
    if not binaries:
        # TVM falls back to source without a word when its CUDA runtime library doesn't load.
        raise BuildFailedError("TVM kept CUDA source instead of a binary: libtvm_runtime_cuda.so didn't load")
    executable.export_library(str(workdir / LIBRARY))
    print("tiled convolutions:", ", ".join(tiled) or "none")
    return {"device_code_bytes": sum(map(len, binaries)), "tiled_convolutions": len(tiled)}
