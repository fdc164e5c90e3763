"""Rewriting calls of Relax operators, before they become loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def rewritten(module: Any, rewrite: Callable[[Any, str, Any], Any]) -> Any:
    """An IRModule with calls of its Relax functions rewritten, those that others take first.

    Args:
        rewrite: what stands in the place of a call, or the call itself: of the block builder, the operator's
            name without "relax.", and the call.
    """
    from tvm import relax
    from tvm.relax.expr_functor import PyExprMutator, mutator

    @mutator
    class Rewrite(PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, call: Any) -> Any:
            call = super().visit_call_(call)
            name = str(getattr(call.op, "name", "")).removeprefix("relax.")
            return rewrite(self.builder_, name, call)

    rewriter = Rewrite(module)
    for name, function in module.functions_items():
        if isinstance(function, relax.Function):
            rewriter.builder_.update_func(name, rewriter.visit_expr(function))
    return rewriter.builder_.get()
