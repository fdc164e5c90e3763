"""The child side of TVM builds: everything here runs in a process of its own, with TVM's compiler loaded.

ONNX -> Relax -> fused primitive functions -> scheduled -> shared library
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from superlower.backends import limits, probe, sdk, tables
from superlower.backends.base import NodeSupport
from superlower.backends.tvm import tensor_cores
from superlower.backends.tvm.engine import LIBRARY
from superlower.backends.tvm.processors import Cuda, Processor, Scheduled, processor
from superlower.backends.tvm.tuning.tasks import calls_of
from superlower.errors import UnsupportedOperatorError
from superlower.ir import infer_shapes, serialize


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What the parent asks for.

    Attributes:
        model: path of the legalized graph.
        target: TVM's target dictionary.
        archs: CUDA architectures to make device code for, the target's own among them, oldest first.
        opt_level: TVM's pass context level.
        tensor_cores: whether default schedules use them, where they can.
        tuning: folder of the tuning database; "" builds with the default schedules.
    """

    model: str
    target: dict[str, str | int]
    archs: tuple[str, ...] = ()
    opt_level: int = 3
    tensor_cores: bool = True
    tuning: str = ""


def build(request: dict[str, object], workdir: Path) -> dict[str, object]:
    """Compile a graph to `workdir`/engine.so; returns the facts about the build.

    Raises:
        UnsupportedOperatorError: TVM's importer refuses a node.
        MissingSdkError: a CUDA target and no CUDA compiler.
        BuildFailedError: the CUDA compiler failed.
    """
    asked = msgspec.convert(request, Request)
    # Before TVM is imported.
    where = processor(asked.target, workdir, asked.archs, on_tensor_cores=asked.tensor_cores)
    from superlower.backends.tvm.tuning.apply import apply_records

    module = fused(ir.load(asked.model), where, asked.opt_level)
    module, used = apply_records(module, asked.target, asked.tuning)
    made = where.scheduled(module)
    where.compiled(made.module, asked.opt_level).export_library(str(workdir / LIBRARY))
    facts: dict[str, object] = {"opt_level": asked.opt_level, **used}
    return facts | (_of_gpu(where, asked, made) if isinstance(where, Cuda) else _of_cpu(asked, made))


def _of_gpu(where: Cuda, asked: Request, made: Scheduled) -> dict[str, object]:
    on_cores = tensor_cores.using(made.module)
    print("on tensor cores:", ", ".join(on_cores) or "none")
    print("tiled convolutions:", ", ".join(made.tiled) or "none")
    return {
        "compiler": where.compiler.name,
        "arch": ",".join(asked.archs),
        "holds": where.compiler.holds,
        "device_code_bytes": where.device_code_bytes,
        "tiled_convolutions": len(made.tiled),
        **_on_tensor_cores(on_cores, made.tiled, calls_of(made.module)),
        **({"driver": where.driver} if where.driver else {}),
    }


def _on_tensor_cores(on: Sequence[str], off: Sequence[str], calls: Mapping[str, int]) -> dict[str, object]:
    """How many functions run there, and the share of a graph's calls of convolutions that this is."""
    if not on:
        return {}
    there, elsewhere = (sum(calls[name] for name in names) for names in (on, off))
    return {"on_tensor_cores": len(on), "tensor_core_share": round(there / (there + elsewhere), 3)}


def _of_cpu(asked: Request, made: Scheduled) -> dict[str, object]:
    import tvm
    from tvm.target import codegen

    print("without a default schedule:", ", ".join(made.left) or "none")
    features = frozenset(codegen.llvm_get_cpu_features(tvm.target.Target(asked.target)))
    return {
        "mcpu": str(asked.target.get("mcpu", "generic")),
        "cpu_features": " ".join(sorted(features & CHECKED_FEATURES)),
        "unscheduled_functions": len(made.left),
    }


CHECKED_FEATURES = frozenset({"avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl"})
"""Features that LLVM and /proc/cpuinfo call by one name; an engine crashes on a processor without its own."""


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


def fused(model: ir.Model, where: Processor, opt_level: int = 3) -> Any:
    """A graph as the fused functions that its build schedules, and tuning tunes.

    Raises:
        UnsupportedOperatorError: TVM's importer refuses a node.
    """
    import tvm
    from tvm import relax

    module = where.laid_out(_imported(model))
    with where.target, tvm.transform.PassContext(opt_level=opt_level):
        return relax.get_pipeline("zero")(module)
