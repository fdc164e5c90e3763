"""Execution contexts of TensorRT-RTX: kernels are compiled when a context is made, and kept from run to run.

Written from the Python API's own documentation strings (1.7.1.116); never run on a GPU here.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

from superlower.backends.tensorrt.network import Sdk
from superlower.folders import replacing_file


def kernel_cache(plan: bytes, sm: int) -> Path:
    """Where a plan's compiled kernels are kept ($XDG_CACHE_HOME/superlower/tensorrt-rtx).

    The SDK itself refuses what another driver or GPU left there.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "superlower" / "tensorrt-rtx" / f"{hashlib.sha256(plan).hexdigest()}-sm{sm}.cache"


class RtxContexts:
    """Makes execution contexts that share one cache of compiled kernels."""

    def __init__(self, sdk: Sdk, cache: Path, *, cuda_graph: bool) -> None:
        """With `cuda_graph` the SDK captures the whole engine as a CUDA graph and replays it."""
        self._sdk, self._path, self._cuda_graph = sdk, cache, cuda_graph
        self._kernels: Any = None
        self._read = b""

    def create(self, engine: Any) -> Any:
        """An execution context; None if the SDK can't make one."""
        module, config = self._sdk.module, engine.create_runtime_config()
        if self._kernels is None:
            self._kernels = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                self._read = self._path.read_bytes()
                self._kernels.deserialize(self._read)
        config.set_runtime_cache(self._kernels)
        if self._cuda_graph:
            config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config)

    def reason(self) -> str:
        """The first error the SDK logged."""
        return self._sdk.first_error()

    def close(self) -> None:
        """Keep the compiled kernels for the next load. A cache that can't be written is no error."""
        if self._kernels is None:
            return
        content = bytes(memoryview(self._kernels.serialize()))
        self._kernels = None
        if content == self._read:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing_file(self._path) as aside:
                aside.write_bytes(content)
