"""An SDK of TensorRT's shape for the tests: it takes every model, but aborts on Erf and refuses Sinh."""

from __future__ import annotations

import os
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import onnx

__version__ = "0"
NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=0)
LayerType = SimpleNamespace(GRID_SAMPLE=1)


class ILogger:
    class Severity(IntEnum):
        ERROR = 1


class Builder:
    def __init__(self, logger: ILogger) -> None:
        pass

    def create_network(self, flags: int) -> Any:
        return SimpleNamespace(num_layers=0)


class OnnxParser:
    def __init__(self, network: Any, logger: Any) -> None:
        self.logger, self.refused = logger, list[str]()

    def parse(self, model: bytes) -> bool:
        for node in onnx.load_from_string(model).graph.node:
            if node.op_type == "Erf":
                os.abort()
            if node.op_type == "Sinh":
                self.refused.append(node.name)
                return False
        return True

    @property
    def num_errors(self) -> int:
        return len(self.refused)

    def get_error(self, index: int) -> Any:
        name = self.refused[index]
        return SimpleNamespace(
            desc=lambda: "false", node_name=lambda: name, node_operator=lambda: "Sinh", func=lambda: "check"
        )
