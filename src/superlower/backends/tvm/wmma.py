"""Instructions of tensor cores, as schedules name them: what each computes, and the call that it becomes.

16x16 matrices: half-precision operands from shared memory, float32 sums that go there (NVIDIA, "CUDA C++
Programming Guide", warp matrix functions). TVM describes all shapes and types of every generation, which
takes a process 15 s to read; schedules here use these few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any


@dataclass(frozen=True)
class _Matrix:
    """An argument of an instruction."""

    name: str
    kind: str
    scope: str

    def parameter(self, strided: bool) -> str:
        """It as a statement of a function: anywhere in a larger matrix, or as it lies in memory."""
        strides = f", strides=[{self.name}_row, {self.name}_column]" if strided else ""
        return (
            f"{self.name} = T.match_buffer({self.name.lower()}, (16, 16), {self.kind!r}, align=64, "
            f"offset_factor=16, scope={self.scope!r}{strides})"
        )

    @property
    def fragment(self) -> str:
        """Which of the tiles that a warp holds it is."""
        offset, row = f"{self.name}.elem_offset", f"{self.name}_row"
        return f"{offset} // {row} // 16 * ({row} // 16) + {offset} % {row} // 16"

    def pointer(self, mode: str) -> str:
        """Its address."""
        return f"{self.name}.access_ptr({mode!r}, ptr_type={self.kind!r}), {self.name}_row"


def _function(matrices: Sequence[_Matrix], reads: str, body: str, *, strided: bool) -> Any:
    """A function of matrices, of which the last is written and those named are read."""
    import tvm

    names = [each.name for each in matrices]
    strides = [f"{name}_{axis} = T.int32()" for name in names for axis in ("row", "column")]
    statements = [
        *(strides if strided else ()),
        *(each.parameter(strided) for each in matrices),
        'with T.sblock("root"):',
        f"    T.reads({', '.join(f'{name}[0:16, 0:16]' for name in reads)})",
        f"    T.writes({names[-1]}[0:16, 0:16])",
        *(f"    {line}" for line in body.strip().splitlines()),
    ]
    parameters = ", ".join(f"{name.lower()}: T.handle" for name in names)
    lines = [
        "@T.prim_func(s_tir=True)",
        f"def main({parameters}) -> None:",
        *(f"    {s}" for s in statements),
    ]
    return tvm.script.from_source("\n".join(lines))


_COPY = """
for i, j in T.grid(16, 16):
    with T.sblock("{name}"):
        y, x = T.axis.remap("SS", [i, j])
        D[y, x] = S[y, x]
"""
_ZERO = """
for i, j in T.grid(16, 16):
    with T.sblock("init"):
        y, x = T.axis.remap("SS", [i, j])
        D[y, x] = T.float32(0)
"""
_PRODUCT = """
for i, j, k in T.grid(16, 16, 16):
    with T.sblock(""):
        y, x, z = T.axis.remap("SSR", [i, j, k])
        D[y, x] = D[y, x] + T.Cast("float32", A[y, z]) * T.Cast("float32", B[{right}])
"""
_SUMS = _Matrix("D", "float32", "wmma.accumulator")
_SIZES = "16, 16, 16"


def _load(side: str, order: str) -> tuple[Any, Any]:
    source, held = _Matrix("S", "float16", "shared"), _Matrix("D", "float16", f"wmma.matrix_{side}")
    call = f"T.tvm_load_matrix_sync(D.data, {_SIZES}, {held.fragment}, {source.pointer('r')}, {order!r})"
    return _both((source, held), "S", _COPY.format(name="load"), call)


def _store() -> tuple[Any, Any]:
    held, to = _Matrix("S", "float32", "wmma.accumulator"), _Matrix("D", "float32", "shared")
    call = f"T.tvm_store_matrix_sync(S.data, {_SIZES}, {held.fragment}, {to.pointer('w')}, 'row_major')"
    return _both((held, to), "S", _COPY.format(name="store"), call)


def _fill() -> tuple[Any, Any]:
    call = f"T.tvm_fill_fragment(D.data, {_SIZES}, {_SUMS.fragment}, T.float32(0))"
    return _both((_SUMS,), "", _ZERO, call)


def _multiply(transposed: bool) -> tuple[Any, Any]:
    left, right = _Matrix("A", "float16", "wmma.matrix_a"), _Matrix("B", "float16", "wmma.matrix_b")
    parts = ", ".join(f"{each.name}.data, {each.fragment}" for each in (_SUMS, left, right, _SUMS))
    product = _PRODUCT.format(right="x, z" if transposed else "z, x")
    return _both((left, right, _SUMS), "DAB", product, f"T.tvm_mma_sync({parts})")


def _both(matrices: Sequence[_Matrix], reads: str, what: str, call: str) -> tuple[Any, Any]:
    """What an instruction computes, and the call that it is."""
    return (
        _function(matrices, reads, what, strided=False),
        _function(matrices, reads, f"T.evaluate({call})", strided=True),
    )


@cache
def intrinsics(transposed: bool = False) -> dict[str, str]:
    """Names of the instructions, by use; TVM knows them from now on.

    Args:
        transposed: whether the right operand is.
    """
    from tvm.s_tir import TensorIntrin

    which = "_transposed" if transposed else ""
    made: dict[str, tuple[str, Callable[[], tuple[Any, Any]]]] = {
        "init": ("fill", _fill),
        "load_a": ("load_a", partial(_load, "a", "row_major")),
        "load_b": (f"load_b{which}", partial(_load, "b", "col_major" if transposed else "row_major")),
        "compute": (f"multiply{which}", partial(_multiply, transposed)),
        "store": ("store", _store),
    }
    names = {use: f"wmma_superlower_{name}" for use, (name, _) in made.items()}
    for use, (_, make) in made.items():
        if TensorIntrin.get(names[use], allow_missing=True) is None:
            TensorIntrin.register(names[use], *make())
    return names


def register() -> None:
    """Make all of them known to TVM, which may have read their names in a schedule's trace."""
    for transposed in (False, True):
        intrinsics(transposed)
