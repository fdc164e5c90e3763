"""What torch_export adds to torch.onnx's exporter; the graphs themselves are tested by architecture."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from superlower.errors import BadInputError

torch = pytest.importorskip("torch", reason="PyTorch isn't installed: pip install 'superlower[torch]'")


class Double(torch.nn.Module):
    """Twice its input; fails where that is asked for."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails and x.sum() > 0:
            return -x
        return 2 * x


def _export(module: torch.nn.Module) -> None:
    from superlower.frontends.torch_export import export_module

    model = export_module(module, {"x": torch.ones(2, 3)}, ["y"], name="double")
    assert [node.op_type for node in model.graph] == ["Mul"]


def test_the_exporters_library_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxscript._internal import ast_utils

    _export(Double())
    parsed = []
    monkeypatch.setattr(ast_utils, "get_src_and_ast", parsed.append)
    _export(Double())
    assert parsed == []


@pytest.fixture(params=[True, False], ids=["collecting", "not collecting"])
def collecting(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether garbage is collected, as it is before the test."""
    was = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was else gc.disable)()


@pytest.mark.parametrize("fails", [False, True], ids=["exported", "refused"])
def test_garbage_collection_is_left_as_it_was(collecting: bool, fails: bool) -> None:
    if fails:
        with pytest.raises(BadInputError, match="can't be exported"):
            _export(Double(fails=True))
    else:
        _export(Double())
    assert gc.isenabled() is collecting
