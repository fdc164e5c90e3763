"""Warps as function calls: the same arithmetic, there and back."""

from __future__ import annotations

import onnx
import onnx.inliner
import pytest

from superlower.ir import serialize
from superlower.passes.base import Site
from superlower.passes.collapse_flow_warp import CollapseFlowWarp
from superlower.passes.fold_constants import FoldConstants
from superlower.passes.inline_flow_warp import InlineFlowWarp
from superlower.passes.outline_flow_warp import OutlineFlowWarp
from support.graphs import SPELLINGS, GraphBuilder, Spelling, outcome

COLLAPSED = (FoldConstants(), CollapseFlowWarp())
CHOSEN = [SPELLINGS[name] for name in ("plain", "channels-first", "half-pixel", "batch-2")]


@pytest.mark.parametrize("spelling", CHOSEN, ids=lambda s: s.padding)
def test_there_and_back(spelling: Spelling) -> None:
    collapsed = outcome(spelling.model(), *COLLAPSED)
    outlined = outcome(collapsed.model, OutlineFlowWarp())
    assert outlined.ops == {"superlower::FlowWarp": 1}
    assert outlined.moved() == 0
    (call,) = outlined.model.graph
    values = {k: a.value for k, a in call.attributes.items()}
    assert values == {
        "mode": "bilinear",
        "padding_mode": spelling.padding,
        "align_corners": int(spelling.aligned),
    }
    back = outcome(outlined.model, InlineFlowWarp())
    assert back.ops == collapsed.ops
    assert back.moved() == 0
    assert not back.model.functions
    assert "superlower" not in back.model.opset_imports


def test_attributes_left_out_are_the_defaults() -> None:
    g = GraphBuilder()
    x, flow = g.input("x", 1, 3, 4, 4), g.input("flow", 1, 2, 4, 4)
    last = g.Transpose(flow, perm=[0, 2, 3, 1])
    grid = g.Add(g.const([0.5, 0.25]), g.Mul(g.const([0.1, 0.2]), last))
    result = outcome(g.model(g.GridSample(x, grid)), OutlineFlowWarp())
    assert result.ops == {"superlower::FlowWarp": 1}
    assert result.moved() == 0


def test_the_model_stays_valid_onnx_for_everyone() -> None:
    result = outcome(SPELLINGS["plain"].model(), *COLLAPSED, OutlineFlowWarp())
    proto = onnx.load_model_from_string(serialize(result.model))
    onnx.checker.check_model(proto, full_check=True)
    assert [(f.domain, f.name, list(f.input)) for f in proto.functions] == [
        ("superlower", "FlowWarp", ["x", "flow", "scale", "base"])
    ]
    inlined = onnx.inliner.inline_local_functions(proto)
    assert "GridSample" in {n.op_type for n in inlined.graph.node}


def test_the_later_passes_leave_the_function_alone() -> None:
    result = outcome(SPELLINGS["plain"].model(), *COLLAPSED, OutlineFlowWarp())
    for one in COLLAPSED:
        assert not one.run(result.model).changed


def test_other_grids_are_refused() -> None:
    g = GraphBuilder()
    x, grid = g.input("x", 1, 3, 4, 4), g.input("grid", 1, 4, 4, 2)
    result = outcome(g.model(g.GridSample(x, grid)), OutlineFlowWarp())
    assert result.applied.refused == (
        Site("GridSample_0", "its grid isn't Add(Mul(Transpose(flow))) with constants"),
    )
