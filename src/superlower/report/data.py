"""What a report shows, as plain data: nothing here knows HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from superlower.backends.base import NodeSupport
from superlower.bundle.manifest import PassRecord
from superlower.check.crosscheck import VariantCheck
from superlower.errors import BadInputError


@dataclass(frozen=True)
class CoverageTable:
    """How one backend serves the nodes of one graph on one target at one precision."""

    backend: str
    target: str
    precision: str
    graph: str
    nodes: Sequence[NodeSupport]


@dataclass(frozen=True)
class Timing:
    """How long a frame takes.

    Attributes:
        name: a variant, or "PyTorch eager".
        milliseconds: per output frame, median of the runs.
        ratio: times as fast as PyTorch eager, measured beside it (so it need not be the quotient of two
            medians); exactly 1 for PyTorch eager itself, None where it didn't run.
        note: threads, frames, repeats, whatever the reader must know.
    """

    name: str
    milliseconds: float
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class EngineRow:
    """One engine.

    Attributes:
        backend, target, precision, graph: what it was built by, for and from.
        bytes: on disk, of the files that loading needs.
        build_s: seconds the build took.
        sdk: package -> version it was built with.
        facts: what the SDK told; `layers`, `half_layers`, `float_layers` and names ending in `_bytes` are
            shown as what they are.
        note: why it wasn't run here, or whatever else the reader must know.
    """

    backend: str
    target: str
    precision: str
    graph: str
    bytes: int
    build_s: float = 0.0
    sdk: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    note: str = ""


_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class BeforeAfter:
    """Two PNG pictures of one size, laid over each other.

    Attributes:
        before, after: PNG files.
        before_caption, after_caption: what each is; they serve as alternative texts too.
        note: which frame of which clip.

    Raises:
        BadInputError: not PNG, or of two sizes.
    """

    before: bytes = field(repr=False)
    after: bytes = field(repr=False)
    before_caption: str
    after_caption: str
    note: str = ""

    def __post_init__(self) -> None:
        if (sizes := (_png_size(self.before), _png_size(self.after)))[0] != sizes[1]:
            (w, h), (w2, h2) = sizes
            raise BadInputError(
                f"the report's pictures are {w}x{h} and {w2}x{h2}: upscale the first to the second's size"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return _png_size(self.after)


def _png_size(png: bytes) -> tuple[int, int]:
    # The header chunk comes first: length, "IHDR", width, height (PNG specification, 5.6 and 11.2.1).
    if png[:8] != _PNG or png[12:16] != b"IHDR" or len(png) < 24:
        raise BadInputError("a picture of the report is no PNG file: encode it as PNG")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


@dataclass(frozen=True)
class Searched:
    """What a search of precision found.

    Attributes:
        curve_db: luma PSNR lost at each frame of the calibration clip.
        kept: nodes of more bits than the fewest offered, and why.
    """

    curve_db: Sequence[float]
    kept: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one report shows. Whatever is empty is left out.

    Attributes:
        title: heading.
        model: the program's name.
        summary: facts about the model, label -> text (`superlower.report.gather.model_facts`).
        provenance: where the model came from, as its program says; "paper" may be an https address.
        machine: what everything was measured on.
        created: when, in the words to show.
        versions: package -> version.
        checks: every variant against the reference.
        tolerance_reasons: variant -> where its tolerance comes from.
        failures: variants that came to nothing, name -> error.
        passes: "every variant" or a variant's name -> passes applied, in order.
        coverage: how backends serve the graphs' nodes.
        searches: variant whose precision was searched on a clip -> what was found.
        timings: PyTorch eager and the variants.
        engines: in the order to show.
        pictures: a frame before and after.
        notes: paragraphs.
    """

    title: str
    model: str
    machine: str
    summary: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    checks: Sequence[VariantCheck] = ()
    tolerance_reasons: Mapping[str, str] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    passes: Mapping[str, Sequence[PassRecord]] = field(default_factory=dict)
    coverage: Sequence[CoverageTable] = ()
    searches: Mapping[str, Searched] = field(default_factory=dict)
    timings: Sequence[Timing] = ()
    engines: Sequence[EngineRow] = ()
    pictures: BeforeAfter | None = None
    notes: Sequence[str] = ()
