"""What probing an SDK found, as data: written, read, and asked about nodes when the SDK isn't here."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec
import onnx_ir as ir

from superlower.errors import BadInputError
from superlower.folders import replacing_file
from superlower.probes.key import Key, key_of

FORMAT = 1


class Verdict(StrEnum):
    """What came of one probe, from best to worst: what an SDK says itself is better than what it hides."""

    RIGHT = "right"
    BUILT = "built"
    REFUSED = "refused"
    CRASHED = "crashed"
    FAILED = "failed"
    WRONG = "wrong"


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """One probe's outcome.

    Attributes:
        case: the probe's name.
        key: `str` of the probed node's key.
        verdict: RIGHT and WRONG were run and compared; FAILED built, and then gave an error when run; BUILT
            could not be run on the machine, or not fed by superlower.
        error: largest absolute error against float64; None where nothing was run.
        tolerance: what the error was held to.
        detail: the SDK's reason where it gave no result, what is unlike where no error can be told.
        large, corner: as in `Case`.
    """

    case: str
    key: str
    verdict: Verdict
    error: float | None = None
    tolerance: float = 0.0
    detail: str = ""
    large: bool = False
    corner: bool = False

    @property
    def answers(self) -> bool:
        """Whether it says if an operator is served: neither a wide frame nor a corner."""
        return not (self.large or self.corner)


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything one SDK version was found to do for one target.

    Attributes:
        backend: its name.
        target: "cpu", or the architecture the SDK compiled for ("sm_86").
        sdk: package -> version.
        source: how it was found: "probed", or the title of the document it was read from.
        superlower: version that probed.
        machine: processor or device it was run on; "" where nothing was run.
        results: by case name.
        format: of this file.
    """

    backend: str
    target: str
    sdk: dict[str, str]
    source: str
    superlower: str
    machine: str
    results: tuple[Result, ...]
    format: int = FORMAT

    @property
    def title(self) -> str:
        """What answers from the table are shown with."""
        return f"{self.source}, {', '.join(f'{name} {version}' for name, version in self.sdk.items())}"


class Answer(msgspec.Struct, frozen=True):
    """What a table says of a node.

    Attributes:
        verdict: of the nearest probe; None where the operator was never probed.
        exact: whether a probe had just this key.
        detail: reason or remark, one line.
        result: the nearest probe's.
    """

    verdict: Verdict | None
    exact: bool
    detail: str = ""
    result: Result | None = None


def read(path: Path) -> Table:
    """Read a table.

    Raises:
        BadInputError: no such file, or not a table of this format.
    """
    try:
        table = msgspec.json.decode(path.read_bytes(), type=Table)
    except OSError as error:
        raise BadInputError(f"can't read the probe table {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise BadInputError(f"{path} is no probe table of format {FORMAT}: {error}") from error
    if table.format != FORMAT:
        raise BadInputError(f"{path} is a probe table of format {table.format}, not {FORMAT}: refresh it")
    return table


def write(table: Table, path: Path) -> None:
    """Write a table aside, then under its name; a line a result, so that changes read well."""
    head = msgspec.json.encode(msgspec.structs.replace(table, results=()))
    lines = b",\n".join(msgspec.json.encode(result) for result in table.results)
    with replacing_file(path) as aside:
        aside.write_bytes(head.replace(b'"results":[]', b'"results":[\n' + lines + b"\n]") + b"\n")


@cache
def stored(backend: str, target: str) -> Table | None:
    """The table that superlower ships for a backend and architecture; None if there is none."""
    file = resources.files("superlower.probes") / "results" / f"{backend}-{target}.json"
    return msgspec.json.decode(file.read_bytes(), type=Table) if file.is_file() else None


def ask(table: Table, node: ir.Node, opset: int) -> Answer:
    """What a table says of a node: of its own setting, else of the probed settings nearest to it.

    Large probes and corners don't answer: what fails there only is a matter of precision, not of coverage.
    """
    key = key_of(node, opset)
    if (exact := _by_key(table).get(str(key))) is not None:
        return Answer(exact.verdict, True, exact.detail, exact)
    near = sorted(
        (_distance(key, r.key), r.case, r)
        for r in table.results
        if r.answers and r.key.partition(" ")[0].rpartition("-")[0] == key.op
    )
    if not near:
        return Answer(None, False, f"{key.op} was never probed")
    best = near[0][2]
    return Answer(best.verdict, False, f"{best.detail or best.verdict} ({best.case} was probed)", best)


def _by_key(table: Table) -> dict[str, Result]:
    """By key, the worst verdict of probes that share one."""
    order = list(Verdict)
    found: dict[str, Result] = {}
    for result in table.results:
        if not result.answers:
            continue
        known = found.get(result.key)
        if known is None or order.index(result.verdict) > order.index(known.verdict):
            found[result.key] = result
    return found


def _distance(key: Key, other: str) -> int:
    """How many things differ between a node's key and a probed one; the dtype counts most."""
    head, dtype, *setting = other.split(" ")
    differing = len(set(key.setting) ^ set(setting))
    return differing + 8 * (dtype != key.dtype) + 2 * (head.rpartition("-")[2] != str(key.since))
