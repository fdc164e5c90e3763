"""What a bundle holds, as bundle.json says it. The format is described in docs/bundle.md."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import msgspec

from superlower import jsontext
from superlower.backends.base import Artifact
from superlower.bundle.choices import Planned, RaceRecord
from superlower.errors import BadInputError
from superlower.targets.base import Precision

FORMAT = 1
"""Version of bundle.json."""

MANIFEST_FILE = "bundle.json"

MIXED = "mixed"
"""The backend of a variant whose engines are of several."""


class FileRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Size and digest of one file."""

    bytes: int
    sha256: str


class QualityRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a pass that changes results cost on the golden clip, as `superlower.metrics.loss` measures it.

    Attributes:
        budget_db: largest loss allowed.
        db, worst_db, last_db: luma PSNR lost: mean over the frames, of the worst, over the last third.
        psnr_db: luma PSNR against the model before the pass.
        before_db, after_db: scores against the ground truth; None if there was none, and losses are then
            estimates.
    """

    budget_db: float
    db: float
    worst_db: float
    last_db: float
    psnr_db: float
    before_db: float | None = None
    after_db: float | None = None


class PassRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One pass applied to one graph, or to the program.

    Attributes:
        graph: graph name; the program's for a program pass.
        name: the pass.
        options: its options.
        nodes_before, nodes_after: node counts by operator.
        rewritten, refused: "node: detail" of each site.
        spared: nodes left as they are, for with them the pass would have left its budget.
        budget, measured: relative error allowed and found (see superlower.passes.base.Budget); a budget of
            None is one of quality.
        quality: what the pass cost, if it was held to a budget in dB and changed something.
        reason: where the budget comes from.
        seconds: the pass and its validation took.
    """

    graph: str
    name: str
    nodes_before: dict[str, int]
    nodes_after: dict[str, int]
    options: dict[str, str] = {}
    rewritten: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()
    budget: float | None = 0.0
    measured: float = 0.0
    quality: QualityRecord | None = None
    reason: str = ""
    seconds: float = 0.0


class GroupRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nodes that quantization took together (see `superlower.driver.node_groups`).

    Attributes:
        name: what they do.
        nodes, quantized: how many there are, and how many of them run in 8 bits.
        share: of the time that quantizing all groups would save, estimated.
        alone_db: luma PSNR that quantizing these alone costs; None if that needed no measuring.
    """

    name: str
    nodes: int
    quantized: int
    share: float
    alone_db: float | None = None


class QuantizationRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a variant was quantized, and what that cost over the calibration clip, closed loop.

    Attributes:
        clip: calibrated and measured on.
        frames: of it.
        measured_on: backend whose engines were measured.
        activations: element type of quantized activations: "uint8" or "int8".
        groups: by role.
        kept: nodes left in float that could have been quantized, "graph: node".
        curve_db: luma PSNR lost at each frame.
        quality: over the clip.
        golden_db: mean PSNR of the golden clip against the reference, in the engines measured.
        trials: runs of the clip that the search took.
    """

    clip: str
    frames: int
    measured_on: str
    activations: str
    groups: tuple[GroupRecord, ...]
    kept: tuple[str, ...]
    curve_db: tuple[float, ...]
    quality: QualityRecord
    golden_db: float
    trials: int


class TypedGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Nodes that a search of types took together (see `superlower.driver.node_groups`).

    Attributes:
        name: what they do; parts of a group are named after it.
        nodes: how many there are.
        precision: the type found for them.
        held: how many of them stay fp32 all the same, since the type doesn't hold their values.
        saved_ms: type -> milliseconds a frame less than in fp32.
        alone_db: type -> luma PSNR that it costs with the other groups at `TypesRecord.background`, where it
            was measured.
    """

    name: str
    nodes: int
    precision: Precision
    held: int = 0
    saved_ms: dict[str, float] = {}
    alone_db: dict[str, float] = {}


class TrialRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run of the calibration clip.

    Attributes:
        types: group -> type.
        db: luma PSNR lost.
        flicker: growth of the flicker against the ground truth, in levels of 255.
        tof: growth of tOF in pixels; None where it wasn't measured.
        grows: whether the loss grows over time.
        within: whether all budgets held.
    """

    types: dict[str, Precision]
    db: float
    flicker: float
    grows: bool
    within: bool
    tof: float | None = None


class TypesRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which types a variant's nodes have, why, and what that costs over the calibration clip, closed loop.

    Attributes:
        clip: calibrated and measured on.
        frames: of it.
        measured_on: backend whose engines ran the clip; with "(rounded in fp32)" where it only emulates half
            types.
        timed: "measured" on the target, or "estimated" by its peaks.
        activations: element type of quantized activations: "uint8" or "int8".
        refused: types that weren't offered, and why.
        groups: by role.
        background: type of the other groups where one was measured alone.
        kept: nodes of more bits than the fewest offered, "graph: node: type: why".
        curve_db: luma PSNR lost at each frame.
        quality: over the clip.
        flicker, budget_flicker: growth of the flicker in levels of 255, found and allowed.
        tof, budget_tof: growth of tOF in pixels, found and allowed; None where OpenCV isn't installed.
        golden_db: mean PSNR of the golden clip against the reference, in the engines measured.
        ms: "mixed" and each type for all -> milliseconds a frame of the engines, timed in turns; empty if
            estimated.
        trials: every run of the clip that the search took.
    """

    clip: str
    frames: int
    measured_on: str
    timed: str
    activations: str
    refused: dict[str, str]
    groups: tuple[TypedGroup, ...]
    background: Precision
    kept: tuple[str, ...]
    curve_db: tuple[float, ...]
    quality: QualityRecord
    flicker: float
    budget_flicker: float
    golden_db: float
    trials: tuple[TrialRecord, ...]
    tof: float | None = None
    budget_tof: float | None = None
    ms: dict[str, float] = {}


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Error of a variant over the golden frames, as measured when it was compiled.

    Attributes:
        max_abs: largest |output - reference| in each frame, on the contract's value range.
        psnr_db: of each frame against the reference, peak the contract's range; infinity where identical.
        flips: patches of routes for which the engines choose otherwise than the reference.
        flips_accepted: how many `check` accepts.
    """

    max_abs: tuple[float, ...]
    psnr_db: tuple[float, ...]
    flips: int = 0
    flips_accepted: int = 0

    def within(self, tolerance: float, floor_db: float | None = None) -> bool:
        """Whether every frame is within a tolerance, and no more choices flip than may.

        Args:
            tolerance: largest |output - reference|.
            floor_db: least mean PSNR, in the place of the tolerance.
        """
        near = max(self.max_abs) <= tolerance if floor_db is None else fmean(self.psnr_db) >= floor_db
        return near and self.flips <= self.flips_accepted


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The program's graphs compiled for one target at one precision: by one backend, or each by its fastest.

    Attributes:
        name: folder under variants/.
        backend, target, precision: what it was compiled by and for; `MIXED` where its engines, each of which
            names its own backend, are of several.
        engines: graph -> what the build left, files relative to variants/NAME/GRAPH.
        passes: those its backend asked for, graph by graph.
        machine: for engines that only run on a like machine: {"processor": ..., "flags": ...}.
        measured: None where it can't run on the machine that compiled it; `unchecked` says why.
        tolerance: largest |output - reference| that `check` accepts, on the contract's value range.
        tolerance_reason: where that number comes from.
        floor_db: mean PSNR against the reference that `check` asks for in the place of `tolerance`; None
            where that decides.
        quantization: how it was quantized; None if it wasn't.
        types: which types its nodes have; None where all have the precision's.
        warnings: known bugs of the SDK that the graphs meet, "graph: symptom (nodes): cure [rule]".
        race: how its backends were chosen; None where they were named.
        planned: how it is best run; None for one call after another.
    """

    name: str
    backend: str
    target: str
    precision: Precision
    engines: dict[str, Artifact]
    tolerance: float
    tolerance_reason: str
    floor_db: float | None = None
    quantization: QuantizationRecord | None = None
    types: TypesRecord | None = None
    passes: tuple[PassRecord, ...] = ()
    machine: dict[str, str] = {}
    measured: Measured | None = None
    unchecked: str = ""
    warnings: tuple[str, ...] = ()
    race: RaceRecord | None = None
    planned: Planned | None = None

    @property
    def backends(self) -> tuple[str, ...]:
        """All that are needed to run it, each once."""
        if self.backend != MIXED:
            return (self.backend,)
        return tuple(dict.fromkeys(engine.backend for engine in self.engines.values()))


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The golden clip.

    Attributes:
        frames: how many.
        source: where they come from.
        reference: what computed the outputs.
    """

    frames: int
    source: str
    reference: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """bundle.json.

    Attributes:
        superlower: version that wrote it.
        model: the program's name.
        golden: the golden clip.
        variants: in order of preference.
        passes: those applied to the program before any backend's, graph by graph.
        files: every other file in the bundle.
        versions: Python packages at work when it was compiled.
        format: of bundle.json.
        checksum: sha256 of this file's content with an empty checksum.
    """

    superlower: str
    model: str
    golden: Golden
    variants: tuple[Variant, ...]
    passes: tuple[PassRecord, ...]
    files: dict[str, FileRecord]
    versions: dict[str, str]
    format: int = FORMAT
    checksum: str = ""

    def sealed(self) -> Manifest:
        """The same with its checksum."""
        return msgspec.structs.replace(self, checksum=_checksum(msgspec.to_builtins(self)))


def _checksum(document: Mapping[str, object]) -> str:
    return hashlib.sha256(jsontext.encode({**document, "checksum": ""})).hexdigest()


def encode(manifest: Manifest) -> bytes:
    """The text of bundle.json; a number without end is a string there: "inf"."""
    return jsontext.encode(manifest)


def decode(text: bytes, where: str) -> Manifest:
    """Read bundle.json strictly.

    Raises:
        BadInputError: not JSON, unknown or missing field, newer format, altered since it was written.
    """
    try:
        version = msgspec.json.decode(text, type=dict[str, msgspec.Raw]).get("format", msgspec.Raw(b"0"))
        if msgspec.json.decode(version, type=int) > FORMAT:
            raise BadInputError(
                f"{where}: bundle format {bytes(version).decode()} is newer than {FORMAT}, the last this "
                f"superlower reads: upgrade it"
            )
        document = msgspec.json.decode(text, type=dict[str, object])
        # Of the text: a field that came after an older superlower wrote it isn't in there.
        checksum = _checksum(document)
        manifest = msgspec.convert(_with_numbers(document), Manifest)
    except msgspec.DecodeError as error:
        raise BadInputError(f"{where}: {error}: the manifest is damaged, compile the bundle again") from None
    if checksum != manifest.checksum:
        raise BadInputError(f"{where} was altered after it was written: compile the bundle again")
    return manifest


def _with_numbers(document: object) -> object:
    """The document with the strings that `encode` wrote for numbers read back, where there may be any."""
    variants = document.get("variants") if isinstance(document, dict) else None
    for variant in variants if isinstance(variants, list) else ():
        match variant:
            case {"measured": {"max_abs": list(errors), "psnr_db": list(ratios)}}:
                for values in (errors, ratios):
                    values[:] = [float(v) if v in jsontext.ENDLESS else v for v in values]
    return document


def record(file: Path) -> FileRecord:
    """Size and digest of a file on disk."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileRecord(bytes=file.stat().st_size, sha256=digest)
