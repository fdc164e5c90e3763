"""Published costs of networks beside ours, at the size and by the counting rule of the publication."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from superlower.driver.export import frontend
from superlower.driver.progress import Progress, Silent
from superlower.frontends.zoo.figures import HEIGHT, WIDTH, a_frame, blueprint

_ONE = "a multiply-accumulate is one operation"
_TWO = "a multiply-accumulate is two operations"
_EGVSR = "EGVSR (IEEE TIP 2021), 960x540 to 4K"
_BI = {"degradation": "bi"}
"""Upscaling inside the network by interpolation, which isn't counted, and not by convolution."""


@dataclass(frozen=True)
class Published:
    """A figure of the literature.

    Attributes:
        name: architecture.
        value: 10^9 operations a frame.
        rule: how they were counted.
        source: where.
        per_mac: operations that a multiply-accumulate stands for there.
        options: of the architecture.
        height, width: low-resolution pixels.
        without: graphs that weren't counted.
        transposed_at_output: transposed convolutions were counted as if each output read a whole kernel.
        implied: the figure isn't given itself, but follows from ones that are.
        note: what is known of a difference.
    """

    name: str
    value: float
    rule: str
    source: str
    per_mac: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    height: int = HEIGHT
    width: int = WIDTH
    without: tuple[str, ...] = ()
    transposed_at_output: bool = False
    implied: bool = False
    note: str = ""


@dataclass(frozen=True)
class Share:
    """A network's cost as a published share of another's: both are figures of `PUBLISHED`.

    Attributes:
        name, of: their architectures.
        value: the share.
    """

    name: str
    of: str
    value: float


@dataclass(frozen=True)
class Compared:
    """A published figure and ours.

    Attributes:
        what: the network with its options, or the share.
        height, width: low-resolution pixels.
        unit: of both figures.
        published, computed: the figures; shares are fractions.
        rule: how both were counted.
        source: where it was published.
        note: what is known of a difference.
    """

    what: str
    height: int
    width: int
    unit: str
    published: float
    computed: float
    rule: str
    source: str
    note: str

    @property
    def difference(self) -> float:
        """Ours over the published one, less one."""
        return self.computed / self.published - 1


PUBLISHED = (
    Published(
        "basicvsr",
        338,
        f"{_ONE}; without the flow network",
        "literature on BasicVSR, 180x320",
        without=("flow",),
    ),
    Published("edvr-l", 2115.5, _ONE, "EDVR-L as released, 5 frames, 180x320"),
    Published("edvr-l", 2625.5, _ONE, "EDVR-L as released, 7 frames, 180x320", options={"frames": "7"}),
    Published(
        "edvr-improved",
        900,
        f"about; {_ONE}, as we take it",
        "improved EDVR (WACV 2022), 480x270",
        height=270,
        width=480,
        note="our build from the paper's text",
    ),
    Published(
        "mstgan",
        950,
        f"about; {_TWO}, as we take it",
        "MST-GAN, 1280x720 from 320x180, as we take it",
        per_mac=2,
        note="our build, its blocks chosen to meet it",
    ),
    Published("vespcn", 869.46, _TWO, _EGVSR, per_mac=2, options={"channels": "1"}, height=540, width=960),
    Published("sofvsr-accv", 2035.11, _TWO, _EGVSR, per_mac=2, height=540, width=960),
    *(
        Published(
            name,
            1718.65,
            f"{_TWO}; transposed convolutions at their output's size",
            _EGVSR,
            per_mac=2,
            options=_BI,
            transposed_at_output=True,
            height=540,
            width=960,
        )
        for name in ("frvsr", "tecogan")
    ),
    Published(
        "egvsr",
        257.10,
        _TWO,
        _EGVSR,
        per_mac=2,
        options=_BI,
        implied=True,
        note="implied by all three shares; can't be met with the released network",
        height=540,
        width=960,
    ),
)
"""A network's figures are as the papers give them, or as all of their shares imply."""

SHARES = (
    Share("egvsr", "vespcn", 0.2957),
    Share("egvsr", "sofvsr-accv", 0.1263),
    Share("egvsr", "frvsr", 0.1496),
    Share("egvsr", "tecogan", 0.1496),
)


def computed(figure: Published, *, transposed_at_output: bool | None = None) -> float:
    """Our network's operations a frame in 10^9, counted as the published ones were.

    Args:
        figure: what was published.
        transposed_at_output: instead of the figure's own.

    Raises:
        MissingSdkError: PyTorch isn't installed.
    """
    plan = blueprint(frontend(figure.name), figure.options, figure.height, figure.width)
    at_output = figure.transposed_at_output if transposed_at_output is None else transposed_at_output
    macs = plan.macs(transposed_at_output=at_output)
    counted = {graph: 0 if graph in figure.without else count for graph, count in macs.items()}
    return figure.per_mac * a_frame(plan.program, counted) / 1e9


def compare(
    figures: Sequence[Published] = PUBLISHED,
    shares: Sequence[Share] = SHARES,
    progress: Progress | None = None,
) -> list[Compared]:
    """Published figures beside ours, then the shares.

    Raises:
        MissingSdkError: PyTorch isn't installed.
    """
    progress = progress or Silent()
    progress.stage("counting published networks", len(figures))
    found = []
    for figure in figures:
        found.append(_compared(figure))
        progress.advance(figure.name)
    by_name = {figure.name: row for figure, row in zip(figures, found, strict=True)}
    return found + [_share(share, by_name[share.name], by_name[share.of]) for share in shares]


def _compared(figure: Published) -> Compared:
    options = ", ".join(f"{key}={value}" for key, value in figure.options.items())
    note = figure.note
    if figure.transposed_at_output:
        note = f"counted at their input's size: {computed(figure, transposed_at_output=False):.2f}"
    return Compared(
        what=f"{figure.name} {options}".strip(),
        height=figure.height,
        width=figure.width,
        unit="GFLOPs" if figure.per_mac == 2 else "GMACs",
        published=figure.value,
        computed=computed(figure),
        rule=figure.rule,
        source=figure.source,
        note=note,
    )


def _share(share: Share, part: Compared, whole: Compared) -> Compared:
    return Compared(
        what=f"{share.name} as a share of {share.of}",
        height=part.height,
        width=part.width,
        unit="share",
        published=share.value,
        computed=part.computed / whole.computed,
        rule="quotient of the figures above",
        source=part.source,
        note=f"with {part.published:g} for {share.name}: {part.published / whole.computed:.2%}",
    )
