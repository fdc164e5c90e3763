"""What building and tuning do differently for a CPU and for an NVIDIA GPU. The child side: TVM is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from superlower.backends.tvm import gpu_schedule, schedule, tensor_core_schedule, tensor_cores
from superlower.backends.tvm.cuda import CudaCompiler, find_compiler
from superlower.backends.tvm.libraries import provide_for_builds
from superlower.backends.tvm.loading import load_tvm
from superlower.errors import BuildFailedError


@dataclass(frozen=True)
class Scheduled:
    """A module whose functions have schedules.

    Attributes:
        module: TVM's.
        tiled: functions given tiles, by name, where the processor's rules tell.
        left: functions left as they were: none of their loops is understood.
    """

    module: Any
    tiled: Sequence[str] = ()
    left: Sequence[str] = ()


class Processor(Protocol):
    """A kind of processor.

    Attributes:
        target: TVM's.
    """

    target: Any

    def laid_out(self, module: Any) -> Any:
        """A graph's module as its fused functions are to be made from it."""
        ...

    def scheduled(self, module: Any) -> Scheduled:
        """Give each function that has no schedule its default one."""
        ...

    def compiled(self, module: Any, opt_level: int = 3) -> Any:
        """An executable of a module whose functions have schedules."""
        ...


class Cpu:
    """Compiles by LLVM."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        """For TVM's target dictionary."""
        load_tvm()
        self.target, self.vectors = schedule.cpu_target(attributes)

    def laid_out(self, module: Any) -> Any:
        """The module itself."""
        return module

    def scheduled(self, module: Any) -> Scheduled:
        """See `Processor.scheduled`."""
        module, left = schedule.schedule_module(module, self.vectors)
        return Scheduled(module, left=left)

    def compiled(self, module: Any, opt_level: int = 3) -> Any:
        """See `Processor.compiled`."""
        import tvm

        with self.target, tvm.transform.PassContext(opt_level=opt_level):
            return tvm.compile(module, self.target)


class Cuda:
    """Compiles by nvcc or NVRTC, on any machine."""

    def __init__(
        self,
        attributes: Mapping[str, Any],
        archs: Sequence[str],
        folder: Path,
        *,
        on_tensor_cores: bool = True,
    ) -> None:
        """For TVM's target dictionary. Made before TVM is imported: it binds its CUDA runtime then or never.

        Args:
            archs: architectures to make code for, oldest first; none for the target's own.
            folder: existing, for intermediate files.
            on_tensor_cores: whether default schedules use them.

        Raises:
            MissingSdkError: no CUDA compiler, or a stand-in for the driver can't be made.
        """
        archs = tuple(archs) or (str(attributes["arch"]),)
        self.compiler: CudaCompiler = find_compiler(archs, folder)
        self.driver = provide_for_builds(folder)
        self.device_code_bytes = 0
        self._tensor_cores = on_tensor_cores
        tvm = load_tvm()
        # TVM's rules for matrix products ask for those of NVIDIA's alone.
        tensor_cores.leave_intrinsics()
        import tvm_ffi

        # The oldest architecture's code is CUDA C++ that every later one compiles too.
        self.target = tvm.target.Target({**attributes, "arch": archs[0]}, host={"kind": "llvm"})
        tvm_ffi.register_global_func("tvm_callback_cuda_compile", self._compiled_source, override=True)

    def _compiled_source(self, code: str) -> bytearray:
        binary = self.compiler.compile(code)
        self.device_code_bytes += len(binary)
        return bytearray(binary)

    def laid_out(self, module: Any) -> Any:
        """With weights as the schedules read them, and in whole tiles what is to run on tensor cores."""
        from superlower.backends.tvm.layout import weights_channels_last
        from superlower.backends.tvm.whole_tiles import in_whole_tiles

        module = weights_channels_last(module)
        on_cores = self._tensor_cores and tensor_cores.have(self.target.attrs)
        return in_whole_tiles(module) if on_cores else module

    def scheduled(self, module: Any) -> Scheduled:
        """See `Processor.scheduled`.

        Raises:
            BuildFailedError: a function's loops are bound to no threads.
        """
        if self._tensor_cores:
            module = tensor_core_schedule.schedule_module(module, self.target)
        module, tiled = gpu_schedule.schedule_module(module, self.target)
        if left := gpu_schedule.unbound(module):
            raise BuildFailedError(f"no GPU schedule for {', '.join(left)}: its loops would run on the host")
        return Scheduled(module, tiled)

    def compiled(self, module: Any, opt_level: int = 3) -> Any:
        """See `Processor.compiled`.

        Raises:
            BuildFailedError: the CUDA compiler failed.
        """
        import tvm

        # A block's tiles of both operands and of the result share no memory: TVM would lay float32 sums over
        # float16 operands, and then refuses that its own intrinsics read them.
        config = {"tirx.disable_storage_rewrite": True} if tensor_cores.using(module) else {}
        before = self.device_code_bytes
        with self.target, tvm.transform.PassContext(opt_level=opt_level, config=config):
            made = tvm.compile(module, self.target)
        if self.device_code_bytes == before:
            # TVM falls back to source without a word when its CUDA runtime library doesn't load.
            raise BuildFailedError(
                "TVM kept CUDA source instead of a binary: libtvm_runtime_cuda.so didn't load"
            )
        return made


def processor(
    attributes: Mapping[str, Any], folder: Path, archs: Sequence[str] = (), *, on_tensor_cores: bool = True
) -> Cpu | Cuda:
    """What TVM's target dictionary is for; see `Cuda`.

    Raises:
        MissingSdkError: a GPU, and no CUDA compiler for it.
    """
    if attributes.get("kind") == "cuda":
        return Cuda(attributes, archs, folder, on_tensor_cores=on_tensor_cores)
    return Cpu(attributes)
