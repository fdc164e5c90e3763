"""Running models in ONNX Runtime on the CPU, for folding and for validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from superlower.ir import serialize

Array = NDArray[np.generic]


def evaluate(model: ir.Model, feeds: Mapping[str, Array], outputs: Sequence[str] = ()) -> dict[str, Array]:
    """Outputs by name (all, if none is named).

    Graph optimisations are off: they would fuse and re-lay-out two versions of a graph in two ways, and what
    is compared must be the graphs, not the optimiser. ONNX Runtime's own exceptions pass through.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(serialize(model), options, providers=["CPUExecutionProvider"])
    names = list(outputs) or [o.name for o in session.get_outputs()]
    wanted = {i.name for i in session.get_inputs()}
    values = session.run(names, {name: array for name, array in feeds.items() if name in wanted})
    return dict(zip(names, (np.asarray(v) for v in values), strict=True))
