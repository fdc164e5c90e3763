"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, its kernels, and that nothing else runs in their stead.

Which operators have kernels is read from the provider's own registry, out of the wheels (`probes/results`).
Sessions on CUDA were never run here, for want of a GPU: what is tested is what ONNX Runtime is told.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import onnx_ir as ir

from superlower.backends import probe
from superlower.backends.base import NodeSupport, Support
from superlower.backends.sdk import version
from superlower.backends.tensorrt.cuda import Driver
from superlower.errors import MissingSdkError
from superlower.ir import node_name
from superlower.probes.key import key_of
from superlower.probes.tables import Table, Verdict, stored
from superlower.targets.base import Precision, Target

PROVIDER = "CUDAExecutionProvider"
KIND = "nvidia-gpu"

OPTIONS: Final = (
    "arena_extend_strategy",
    "cudnn_conv_algo_search",
    "cudnn_conv_use_max_workspace",
    "gpu_mem_limit",
    "prefer_nhwc",
    "use_tf32",
)
"""Provider options that `--set onnxruntime.KEY=VALUE` takes, by ONNX Runtime's names."""

_DEFAULTS: Final = {"use_tf32": "0"}
"""ONNX Runtime's own default rounds the operands of fp32 convolutions to TF32's 10 bits."""

PRECISIONS: Final = {
    Precision.FP32: "",
    Precision.FP16: "",
    Precision.BF16: "its CUDA provider has no bf16 kernels of Resize and DepthToSpace: use fp16",
    Precision.INT8: "its CUDA provider has no int8 convolutions: quantized graphs run in float, use fp16",
    Precision.FP8: "its CUDA provider has no fp8 convolutions: use fp16",
    Precision.MIXED: "",
}

_CUDA_12: Final = "cuda12"
_LAST_CUDNN: Final = "'nvidia-cudnn-cu12<9.11' "
"""cuDNN 9.10.2's libraries hold code for SM70, those of 9.11 don't: read from the wheels."""


def on_cuda(target: Target) -> bool:
    """Whether engines for the target run on the CUDA provider."""
    return target.kind == KIND


def kernels(target: Target) -> Table:
    """What has a CUDA kernel: in 1.31.1, and for GPUs before Turing in 1.26.0, the last built for them."""
    table = stored("onnxruntime", _CUDA_12 if (target.compute_capability or 0) < 75 else "cuda")
    if table is None:
        raise MissingSdkError(
            "superlower's tables of ONNX Runtime's kernels are gone: install superlower again"
        )
    return table


def without_kernel(model: ir.Model, table: Table) -> dict[str, str]:
    """Nodes of a legalized graph that ONNX Runtime leaves to the CPU: name -> why.

    Args:
        model: typed (see `superlower.ir.infer_shapes`).
    """
    verdicts = {result.key: result for result in table.results}
    found = {}
    for node in model.graph:
        key = key_of(node, model.opset_imports.get(node.domain, 0))
        known = verdicts.get(f"{key.op}-{key.since} {key.dtype}")
        if known is not None and known.verdict is Verdict.REFUSED:
            found[node_name(node)] = f"{known.detail}: computed on the CPU, between copies"
    return found


def on_paper(model: ir.Model, table: Table) -> list[NodeSupport]:
    """Coverage without asking: ONNX's own operators are native, and a foreign one unsupported.

    Which of them have no CUDA kernel, `fall_back` says. The table lists no kernels of other domains.
    """
    own = {(domain, name) for domain, name, _ in model.functions}
    foreign = {
        node_name(node) for node in model.graph if node.domain and (node.domain, node.op_type) not in own
    }
    return [
        replace(
            node,
            support=Support.UNSUPPORTED,
            detail=f"{node.op} isn't among the kernels listed",
            source=f"table: {table.title}",
        )
        if node.node in foreign
        else node
        for node in probe.native(model)
    ]


def fall_back(found: Sequence[NodeSupport], legal: ir.Model, target: Target) -> list[NodeSupport]:
    """Coverage by ONNX Runtime at large, with what has no CUDA kernel as FALLBACK.

    Args:
        found: how the nodes are served on the CPU.
        legal: the graph after its passes, typed.
    """
    table = kernels(target)
    slow = without_kernel(legal, table)
    return [
        replace(node, support=Support.FALLBACK, detail=slow[node.node], source=f"table: {table.title}")
        if node.node in slow and node.support is not Support.UNSUPPORTED
        else node
        for node in found
    ]


def install(target: Target) -> str:
    """The command that installs an ONNX Runtime with kernels for the target."""
    cudnn = _LAST_CUDNN if (target.compute_capability or 0) < 75 else ""
    return (
        f"pip uninstall onnxruntime, then pip install {cudnn}"
        f"'onnxruntime-gpu[cuda,cudnn]{target.backends.get('onnxruntime', '')}'"
    )


def unrunnable(target: Target, wrong_version: str | None) -> str | None:
    """Why the CUDA provider can't run engines for the target on this machine; None if it can.

    Args:
        wrong_version: why the installed version can't, as `superlower.backends.sdk.wrong_version` says.
    """
    import onnxruntime

    if PROVIDER not in onnxruntime.get_available_providers():
        return f"this ONNX Runtime ({onnxruntime.__version__}) has no CUDA provider: {install(target)}"
    if wrong_version is not None:
        return wrong_version
    try:
        Driver().device_of(target.compute_capability or 0)
    except MissingSdkError as error:
        return str(error)
    return None


def providers(settings: Mapping[str, str], sm: int) -> list[Any]:
    """What a session is given: the CUDA provider on the first GPU of an architecture, then the CPU's.

    Raises:
        MissingSdkError: no driver or no such GPU.
    """
    device = Driver().device_of(sm)
    chosen = {key: value for key, value in settings.items() if key in OPTIONS}
    return [(PROVIDER, {**_DEFAULTS, **chosen, "device_id": str(device.index)}), "CPUExecutionProvider"]


def preload() -> None:
    """Load CUDA and cuDNN from pip's packages where they are, as ONNX Runtime does when it is asked to."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        # It prints what it doesn't find, and stdout is for data.
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()


def require_cuda(session: Any) -> None:
    """Hold a session to the CUDA provider: ONNX Runtime goes on without it, and says so in its log only.

    Raises:
        MissingSdkError: the provider didn't start.
    """
    session.disable_fallback()
    running = session.get_providers()
    if running[:1] != [PROVIDER]:
        here = version("onnxruntime-gpu", "onnxruntime")
        raise MissingSdkError(
            f"ONNX Runtime {here} did not start its CUDA provider, only {', '.join(running)}: it needs the "
            "CUDA and cuDNN libraries that it was built with (pip install 'onnxruntime-gpu[cuda,cudnn]')"
        )
