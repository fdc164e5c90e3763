"""Execution contexts of classic TensorRT: an engine's kernels are its own, so there is nothing to keep."""

from __future__ import annotations

from typing import Any

from superlower.backends.tensorrt.network import Sdk


class ClassicContexts:
    """Makes execution contexts; each takes the engine's activation memory."""

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk

    def create(self, engine: Any) -> Any:
        """An execution context; None if the SDK can't make one."""
        return engine.create_execution_context()

    def reason(self) -> str:
        """The first error the SDK logged."""
        return self._sdk.first_error()

    def close(self) -> None:
        """Nothing is kept from load to load."""
