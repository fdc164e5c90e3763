"""The temporal program: streams of tensors over a frame index t, and equations between them.

Nothing here knows any backend: an equation names the graph it calls, and `TemporalModel` pairs a program with
those graphs. `program.json` is this data, field for field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod

import msgspec
import numpy as np
import onnx_ir as ir

from superlower.errors import BadInputError

FORMAT = 2
"""Newest version of program.json: 2 where frames are pixels, else 1."""


class Edge(StrEnum):
    """What a stream is outside the clip.

    ZEROS: every element that no equation writes is zeros, inside the clip too (BasicVSR's flow at its end).
    REPLICATE: the nearest element of the clip.
    REFLECT: mirrored about the end elements, which aren't repeated.
    """

    ZEROS = "zeros"
    REPLICATE = "replicate"
    REFLECT = "reflect"


_READ = re.compile(r"(?P<stream>[A-Za-z_]\w*)\[t(?:(?P<offset>[+-][0-9]+))?\]")
_DIM = re.compile(r"(?:(?P<times>[1-9][0-9]*)\*)?(?P<side>[HW])(?:/(?P<by>[1-9][0-9]*))?")


@dataclass(frozen=True)
class Read:
    """Element t + offset of a stream, written `hb[t+1]`."""

    stream: str
    offset: int = 0

    @staticmethod
    def parse(text: str) -> Read:
        """Read `name[t]`, `name[t+k]` or `name[t-k]`."""
        match = _READ.fullmatch(text.replace(" ", ""))
        if match is None:
            raise BadInputError(f"'{text}' is not a stream read: write name[t], name[t+1] or name[t-1]")
        return Read(match["stream"], int(match["offset"] or 0))

    def __str__(self) -> str:
        return f"{self.stream}[t{self.offset:+d}]" if self.offset else f"{self.stream}[t]"


class Stream(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One tensor per frame.

    Attributes:
        shape: sizes, each an int or an expression in the padded frame's sides: "H", "W", "4*H", "H/2".
        dtype: numpy name of the element type.
        edge: what the stream is where nothing writes it.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    edge: Edge = Edge.ZEROS

    def sizes(self, height: int, width: int) -> tuple[int, ...]:
        """The static shape for a padded frame of `height` x `width` pixels."""
        return tuple(d if isinstance(d, int) else _dim(d, height, width) for d in self.shape)

    def nbytes(self, height: int, width: int) -> int:
        """Bytes of one element for a padded frame of `height` x `width` pixels."""
        return prod(self.sizes(height, width)) * np.dtype(self.dtype).itemsize

    def region(self, rows: range, columns: range) -> tuple[slice, ...]:
        """Where a region of the padded frame lies in an element; axes not written in H or W are taken whole.

        Raises:
            BadInputError: it begins or ends within an element's row or column.
        """
        return tuple(
            slice(None)
            if isinstance(d, int)
            else slice(_dim(d, rows.start, columns.start), _dim(d, rows.stop, columns.stop))
            for d in self.shape
        )


def _dim(text: str, height: int, width: int) -> int:
    match = _DIM.fullmatch(text.replace(" ", ""))
    if match is None:
        raise BadInputError(f"'{text}' is not a stream size: write a number, H, W, 4*H or H/2")
    size = (height if match["side"] == "H" else width) * int(match["times"] or 1)
    if size % int(match["by"] or 1):
        raise BadInputError(f"stream size {text} is no whole number for a {height}x{width} frame")
    return size // int(match["by"] or 1)


CHOICE = "@choice"
"""Name of a route's read of its choice, beside the graph's inputs."""


def otherwise(output: str) -> str:
    """Name of a route's read of what stands for a graph output where nothing runs."""
    return f"@otherwise:{output}"


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which graph an equation calls, patch by patch, as data say (see `superlower.program.routes`).

    Attributes:
        choice: read of an int32 stream of shape [1, 1, rows, columns], one number a patch: 0 where nothing
            runs, k for graphs[k - 1].
        graphs: the graphs to choose from, cheapest first, each of the equation's inputs and outputs at the
            window's size.
        patch: height and width of a patch in pixels of the padded low-resolution frame, which they divide.
        halo: pixels around a patch that its graph sees too. Its window is moved inside the frame at borders,
            so that a graph pads where the frame ends and nowhere else.
        batch: windows of one graph a call, along the graph's first axis. A call that isn't full is filled up
            with its last window again.
        otherwise: graph output name -> read of what stands where nothing runs.
    """

    choice: str
    graphs: tuple[str, ...]
    patch: tuple[int, int]
    otherwise: dict[str, str]
    halo: int = 0
    batch: int = 1


class Equation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One call per frame: `outputs = graph(inputs)`, wherever `when` holds.

    Attributes:
        name: unique among the equations.
        graph: name of the ONNX graph called (graphs/NAME.onnx); several equations may call one graph. With a
            route: the whole frame's form of the route's one graph, called in place of windows of as many
            pixels or more; empty for windows always.
        inputs: graph input name -> stream read, as "hb[t+1]".
        outputs: graph output name -> stream written at t.
        when: predicate over t and T (frames in the clip), as "t == 0 or t % 5 == 0".
        route: where the graph is chosen by data, patch by patch.
    """

    name: str
    graph: str = ""
    inputs: dict[str, str]
    outputs: dict[str, str]
    when: str = "true"
    route: Route | None = None

    @property
    def reads(self) -> dict[str, Read]:
        """Graph input name -> parsed read; a route's own reads are named `CHOICE` and `otherwise(output)`."""
        texts = dict(self.inputs)
        if self.route is not None:
            texts[CHOICE] = self.route.choice
            texts |= {otherwise(name): text for name, text in self.route.otherwise.items()}
        return {name: Read.parse(text) for name, text in texts.items()}

    @property
    def graphs(self) -> tuple[str, ...]:
        """Every graph that a call may need: the one, or the route's."""
        chosen = () if self.route is None else self.route.graphs
        return tuple(dict.fromkeys((*([self.graph] if self.graph else []), *chosen)))


class Pixels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where graphs take and make pictures themselves: uint8 [1, H, W, channels], before padding and cropped.

    Attributes:
        finite: stream of float32 [1, 1, 1, 1]: a number that is finite where all was that became the picture.
    """

    finite: str


class Frame(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The frame contract: what goes into the input stream and what comes out of the output stream.

    Attributes:
        height, width: low-resolution pixels the graphs are built for, before padding.
        channels: 3 for "rgb", 1 for "y".
        color: "rgb" (R, G, B planes) or "y" (BT.601 luma; chroma is upscaled aside).
        range: values of black and white.
        scale: output pixels per input pixel and side.
        multiple: height and width are padded up to a multiple of this.
        minimum: and to at least this many pixels.
        padding: how the bottom and right are padded.
        pixels: where the graphs convert pixels themselves; None where they take and make `range`'s values.
    """

    height: int
    width: int
    channels: int = 3
    color: str = "rgb"
    range: tuple[float, float] = (0.0, 1.0)
    scale: int = 4
    multiple: int = 1
    minimum: int = 1
    padding: Edge = Edge.REPLICATE
    pixels: Pixels | None = None

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width the graphs really take."""
        return self._pad(self.height), self._pad(self.width)

    def _pad(self, size: int) -> int:
        return -(-max(size, self.minimum) // self.multiple) * self.multiple


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Streams and equations of one model; see docs/program-json.md.

    Attributes:
        format: version of program.json.
        name: what the model is called.
        frame: the frame contract of `input` and `output`.
        input: the stream the clip's frames arrive in.
        output: the stream of upscaled frames.
        streams: every stream by name, the input among them.
        equations: in any order.
        provenance: where the model came from (architecture, weights' sha256, exporter versions).
    """

    name: str
    frame: Frame
    streams: dict[str, Stream]
    equations: tuple[Equation, ...]
    format: int = 1
    input: str = "frame"
    output: str = "output"
    provenance: dict[str, str] = {}

    def sizes(self, stream: str) -> tuple[int, ...]:
        """Static shape of a stream's elements at the program's own frame size."""
        return self.streams[stream].sizes(*self.frame.padded)


@dataclass(frozen=True)
class TemporalModel:
    """A program and the ONNX graphs its equations call. What frontends make and passes rewrite."""

    program: Program
    graphs: Mapping[str, ir.Model] = field(repr=False)

    def with_graphs(self, graphs: Mapping[str, ir.Model]) -> TemporalModel:
        """The same program over rewritten graphs."""
        return replace(self, graphs=dict(graphs))
