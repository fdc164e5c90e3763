"""What a target is: data about one accelerator. The catalog's entries and third parties' are of this type."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Precision(StrEnum):
    """Element type of the arithmetic in an engine's graphs; warp coordinates are always fp32.

    `MIXED` is none: every node has a type of its own, which the graph states.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    FP8 = "fp8"
    MIXED = "mixed"


TYPES = tuple(precision for precision in Precision if precision is not Precision.MIXED)
"""Those that are element types."""


class Figure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A number with where it comes from. `source` names a document (title, table), never "memory"."""

    value: float
    source: str


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One accelerator.

    Attributes:
        name: what `--target` takes.
        title: the product's full name.
        kind: "cpu", "nvidia-gpu" or "intel-gpu".
        architecture: microarchitecture (Volta, Ada Lovelace, ...).
        compute_capability: NVIDIA SM number (70, 75, ...), else None.
        memory_gb: device memory in GB.
        bandwidth_gbs: peak memory bandwidth in GB/s.
        peak_tops: dense peak per precision, in TFLOPS (floats) or TOPS (int8); "tf32" allowed as a key.
        precisions: those worth compiling for (hardware runs them faster than fp32, or is fp32).
        backends: backend name -> SDK version range that serves this target, as a PEP 440 specifier ("" any,
            e.g. ">=8.6,<=10.4"); a backend not listed can't serve it, and `unserved` says why.
        unserved: backend name -> reason.
        tvm: TVM target as a dictionary ({"kind": "cuda", "arch": "sm_86", ...}).
        notes: traps worth knowing.
    """

    name: str
    title: str
    kind: str
    architecture: str
    precisions: tuple[Precision, ...]
    backends: dict[str, str]
    tvm: dict[str, str | int]
    compute_capability: int | None = None
    memory_gb: Figure | None = None
    bandwidth_gbs: Figure | None = None
    peak_tops: dict[str, Figure] = {}
    unserved: dict[str, str] = {}
    notes: tuple[str, ...] = ()
