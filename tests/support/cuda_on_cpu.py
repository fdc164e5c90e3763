"""CUDA C++ as TVM writes it, run on the CPU, block by block and thread by thread: slowly, and without a GPU.

The threads of a block are coroutines that take turns at barriers, in one order or the other: what a thread
reads without waiting for who writes it differs between the two. A warp's operations on fragments are done by
each of its threads, which comes to the same.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superlower.backends.tvm.processors import Cuda

Array = NDArray[Any]
_numbers = count()
"""A loader that knows a path doesn't look at the file again."""

HEADER = r"""
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <vector>

typedef _Float16 half;
struct uint3 { unsigned x, y, z; };
#define VECTORS(name, T) \
  struct name##2 { T x, y; }; struct name##4 { T x, y, z, w; }; \
  static name##2 make_##name##2(T x, T y) { return {x, y}; } \
  static name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTORS(int, int) VECTORS(uint, unsigned) VECTORS(float, float) VECTORS(half, half)
static uint3 threadIdx, blockIdx;
static half __float2half_rn(float x) { return (half)x; }
using std::max;
using std::min;
static half max(half a, half b) { return a > b ? a : b; }

static ucontext_t scheduler;
static ucontext_t* current;
static bool waiting;
static void __syncthreads() { waiting = true; swapcontext(current, &scheduler); }

namespace nvcuda { namespace wmma {
struct matrix_a; struct matrix_b; struct accumulator; struct row_major; struct col_major;
enum layout_t { mem_row_major, mem_col_major };
template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment { T x[256]; };
template <class F> void fill_fragment(F& f, float value) { for (auto& each : f.x) each = value; }
template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const T* from, unsigned ld) {
  if ((uintptr_t)from % 32 || ld * sizeof(T) % 16) { __builtin_trap(); }  // As the programming guide has it.
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j)
      f.x[i * 16 + j] = std::is_same<Layout, col_major>::value ? from[j * ld + i] : from[i * ld + j];
}
template <class F, class T> void store_matrix_sync(T* to, const F& f, unsigned ld, layout_t layout) {
  if ((uintptr_t)to % 32 || ld * sizeof(T) % 16) { __builtin_trap(); }
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) to[layout == mem_row_major ? i * ld + j : j * ld + i] = f.x[i * 16 + j];
}
template <class D, class A, class B, class C> void mma_sync(D& d, const A& a, const B& b, const C& c) {
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 16; ++j) {
      float sum = c.x[i * 16 + j];
      for (int k = 0; k < 16; ++k) sum += (float)a.x[i * 16 + k] * (float)b.x[k * 16 + j];
      d.x[i * 16 + j] = sum;
    }
}
} }

#define __global__
#define __launch_bounds__(threads)
"""

LAUNCH = r"""
static void** given;
static bool finished;
static void thread() { main_kernel(ARGUMENTS); finished = true; swapcontext(current, &scheduler); }

extern "C" int launch(void** arguments, const unsigned* grid, const unsigned* block, int backwards) {
  given = arguments;
  const unsigned threads = block[0] * block[1] * block[2], stack = 1 << 17;
  std::vector<ucontext_t> contexts(threads);
  std::vector<char> stacks((size_t)threads * stack);
  for (unsigned b = 0; b < grid[0] * grid[1] * grid[2]; ++b) {
    blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
    std::vector<bool> done(threads, false);
    for (unsigned t = 0; t < threads; ++t) {
      getcontext(&contexts[t]);
      contexts[t].uc_stack.ss_sp = &stacks[(size_t)t * stack];
      contexts[t].uc_stack.ss_size = stack;
      contexts[t].uc_link = &scheduler;
      makecontext(&contexts[t], thread, 0);
    }
    unsigned left = threads;
    while (left) {
      unsigned before = left, waited = 0;
      for (unsigned n = 0; n < threads; ++n) {
        const unsigned t = backwards ? threads - 1 - n : n;
        if (done[t]) continue;
        threadIdx = {t % block[0], t / block[0] % block[1], t / block[0] / block[1]};
        current = &contexts[t];
        waiting = finished = false;
        swapcontext(&scheduler, current);
        waited += waiting;
        if (finished) { done[t] = true; --left; }
      }
      if (waited && left != before) return 1;  // A barrier that some of the threads never come to.
    }
  }
  return 0;
}
"""


class Kernel:
    """A scheduled function's kernel, its CUDA source compiled for the CPU."""

    def __init__(self, where: Cuda, function: Any, folder: Path, *, barriers: bool = True) -> None:
        """Compile a TVM function as a build does, and its source once more.

        Args:
            function: of one kernel.
            folder: existing.
            barriers: False leaves them out of what is run.
        """
        import tvm
        import tvm_ffi

        sources: list[str] = []

        def kept(code: str) -> bytearray:
            sources.append(code)
            return where._compiled_source(code)

        tvm_ffi.register_global_func("tvm_callback_cuda_compile", kept, override=True)
        where.compiled(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}))
        (source,), script = sources, function.script()
        self.source = source[source.index('extern "C" __global__') :]
        bound = re.findall(r'T\.thread_binding\(T\.int64\((\d+)\), thread="(\w+)\.(\w)"\)', script)
        sizes = {(of, axis): int(extent) for extent, of, axis in bound}
        self._sizes = [
            (ctypes.c_uint * 3)(*(sizes.get((of, axis), 1) for axis in "xyz"))
            for of in ("blockIdx", "threadIdx")
        ]
        self._barriers = barriers
        self._library = self._compiled(re.findall(r"(\w+): T\.Buffer", script), folder)

    def _compiled(self, order: Sequence[str], folder: Path) -> ctypes.CDLL:
        head = re.search(r"\bmain_kernel\((.*?)\) \{", self.source)
        assert head is not None, "not one kernel"
        arguments = []
        for each in head[1].split(", "):
            kind, name = each.rsplit(" ", 1)
            arguments.append(f"({kind.split()[0]})given[{order.index(name.removesuffix('_ptr'))}]")
        launch = LAUNCH.replace("ARGUMENTS", ", ".join(arguments))
        code = self.source.replace("__shared__ alignas(64)", "alignas(64) static")
        code = code if self._barriers else code.replace("__syncthreads();", "")
        file, library = folder / "kernel.cpp", folder / f"kernel-{next(_numbers)}.so"
        file.write_text(HEADER + code + launch)
        command = ["g++", "-O1", "-w", "-fpermissive", "-shared", "-fPIC", "-o", str(library), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:3000]
        return ctypes.CDLL(str(library))

    def run(self, given: Sequence[Array], *, backwards: bool = False) -> Array:
        """What it computes.

        Args:
            given: the function's arguments, the result last, which is left as it is.
            backwards: the last thread of a block goes first.
        """
        result = np.full_like(given[-1], np.nan)
        arrays = [*given[:-1], result]
        pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
        failed = self._library.launch(pointers, *self._sizes, int(backwards))
        assert not failed, "threads of a block wait at different barriers"
        return result
