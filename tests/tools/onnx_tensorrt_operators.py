"""What TensorRT's ONNX parser takes, read from its own documentation (github.com/onnx/onnx-tensorrt).

    git show 10.1-GA:docs/operators.md >operators.md
    python tests/tools/onnx_tensorrt_operators.py operators.md 10.1 src/superlower/probes/results

For every probe of the catalogue, and for operators that it has none of, the document's row answers: whether
the operator is supported, in which types, and what its sentences exclude, which are `EXCLUDED` here. What the
parser doesn't read, and so computes wrongly, is from its source at the same tags.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import onnx

import superlower
from superlower.probes.cases import cases
from superlower.probes.key import Key
from superlower.probes.tables import Result, Table, Verdict, write

TYPES = {
    "fp32": "FP32",
    "fp16": "FP16",
    "bf16": "BF16",
    "fp64": "FP32",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}
"""Types as keys have them, and the document. DOUBLE is cast to FLOAT, says its first note."""

QUANTIZED = {"int8": "INT8", "float8e4m3fn": "FP8", "int4": "INT4"}
OPSETS = range(16, 25)


class Row(NamedTuple):
    """An operator's row in the document."""

    supported: bool
    types: frozenset[str]


class Excluded(NamedTuple):
    """What a sentence of the document rules out.

    Attributes:
        holds: whether a key is of that kind.
        reason: the sentence, shortened.
        since: major version of TensorRT whose document has it first.
        until: the last one.
        verdict: whether the parser refuses it, or takes it as something else.
    """

    holds: Callable[[Key], bool]
    reason: str
    since: int = 8
    until: int = 99
    verdict: Verdict = Verdict.REFUSED


def _has(*settings: str) -> Callable[[Key], bool]:
    return lambda key: any(setting in key.setting for setting in settings)


def _other(name: str, *values: str) -> Callable[[Key], bool]:
    """The setting is there, with another value than these."""
    taken = {f"{name}={value}" for value in values}
    return lambda key: any(s.startswith(f"{name}=") and s not in taken for s in key.setting)


def _ignored(attribute: str, holds: Callable[[Key], bool]) -> Excluded:
    """What TensorRT 8's parser doesn't read."""
    return Excluded(holds, f"the parser ignores {attribute}", until=8, verdict=Verdict.WRONG)


_REDUCES = _other("reduction", "none")
_NEAREST = "the parser reads this mode as nearest (onnx-tensorrt#1060)"
_POOL = (
    Excluded(_other("rank", "4", "5"), "2D or 3D pooling only"),
    Excluded(_has("dilations=yes"), "dilations must be empty or all ones", since=10),
)
_TRANSFORMATIONS = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")

EXCLUDED: dict[str, tuple[Excluded, ...]] = {
    "AveragePool": _POOL,
    "MaxPool": _POOL,
    "LpPool": _POOL[1:],
    "DeformConv": (
        Excluded(_other("rank", "3", "4"), "input must have 1 or 2 spatial dimensions", since=10),
    ),
    "GridSample": (
        Excluded(_other("rank", "4"), "input must be 4D", since=10),
        Excluded(_has("mode=linear", "mode=cubic"), _NEAREST, verdict=Verdict.WRONG),
    ),
    "Resize": (
        Excluded(
            _other("coordinate_transformation_mode", *_TRANSFORMATIONS),
            f"transformations: {', '.join(_TRANSFORMATIONS)}",
        ),
        Excluded(_has("antialias=1"), "antialiasing is not supported", since=10),
        Excluded(_other("keep_aspect_ratio_policy", "stretch"), "aspect ratio policies: stretch", since=10),
        Excluded(_has("axes=yes"), "axes must be all of the input's, in order", since=10),
        _ignored("antialias", _has("antialias=1")),
        _ignored("keep_aspect_ratio_policy", _other("keep_aspect_ratio_policy", "stretch")),
        _ignored("axes", _has("axes=yes")),
    ),
    "ScatterND": (
        Excluded(_REDUCES, "reduction is not supported", since=10),
        _ignored("reduction", _REDUCES),
    ),
    "ScatterElements": (_ignored("reduction", _REDUCES),),
}
NEAREST = "the parser reads this mode as nearest (onnx-tensorrt#1060)"


def rows(text: str) -> dict[str, Row]:
    """The document's table by operator."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"\| (\w+)\s*\| ([YN])[^|]*\|([^|]*)", line)
        if match:
            types = frozenset(part.strip() for part in match[3].split(",") if part.strip())
            found[match[1]] = Row(match[2] == "Y", types)
    return found


def answer(table: dict[str, Row], key: Key, major: int) -> tuple[Verdict, str]:
    """What the document says of a node of this key."""
    row = table.get(key.op)
    if row is None or not row.supported:
        return Verdict.REFUSED, f"{key.op} is not supported"
    quantized = next((s.partition("=")[2] for s in key.setting if s.startswith("quantized=")), None)
    if quantized is not None and QUANTIZED.get(quantized) not in row.types | {"INT8"}:
        return Verdict.REFUSED, f"quantized type {quantized} is not supported"
    if quantized is None and not _takes(row, key.dtype, major):
        return Verdict.REFUSED, f"not supported in {key.dtype}, only in {', '.join(sorted(row.types))}"
    for excluded in EXCLUDED.get(key.op, ()):
        if excluded.since <= major <= excluded.until and excluded.holds(key):
            return excluded.verdict, excluded.reason
    # docs/Changelog.md, 10.1: it came with that version.
    return Verdict.BUILT, "from TensorRT 10.1 on" if key.op == "DeformConv" else ""


def _takes(row: Row, dtype: str, major: int) -> bool:
    # TensorRT 8 has no INT64: the parser casts it down, says the document's note.
    wanted = "INT32" if dtype == "int64" and major < 9 else TYPES.get(dtype)
    return not row.types or wanted in row.types


def keys(table: dict[str, Row]) -> Iterator[tuple[str, Key]]:
    """A name and a key for each thing to be answered: the catalogue's probes, then the other operators."""
    seen, probed = set(), set()
    for case in cases(large=False):
        key = case.key()
        probed.add(case.op)
        if str(key) not in seen:
            seen.add(str(key))
            yield case.name, key
    for op in sorted(table.keys() - probed):
        for since in _versions(op):
            for dtype in ("fp32", "fp16", "bf16", "int32", "int64", "bool"):
                if dtype == "fp32" or TYPES[dtype] in table[op].types:
                    yield f"{op}/{since}/{dtype}", Key(op, since, dtype)


def _versions(op: str) -> list[int]:
    found = set()
    for opset in OPSETS:
        with contextlib.suppress(onnx.defs.SchemaError):
            found.add(onnx.defs.get_schema(op, opset).since_version)
    return sorted(found)


def main(document: str, version: str, folder: str) -> int:
    """Write the table of the document of a version."""
    major = version.partition(".")[0]
    target = "cuda" if int(major) >= 10 else major
    table, results = rows(Path(document).read_text("utf-8")), []
    for name, key in keys(table):
        verdict, detail = answer(table, key, int(major))
        results.append(Result(case=name, key=str(key), verdict=verdict, detail=detail))
    made = Table(
        backend="tensorrt",
        target=target,
        sdk={"tensorrt": version},
        source="onnx-tensorrt, docs/operators.md",
        superlower=superlower.__version__,
        machine="",
        results=tuple(results),
    )
    write(made, Path(folder) / f"tensorrt-{target}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
