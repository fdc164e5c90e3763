"""Data-dependent routing: which graphs a call runs on which windows, and what they add up to.

A routed equation's frame is cut into patches. A choice, one number a patch, names the graph that makes the
patch from a window around it; where it is 0 the patch is taken from another stream. All of this follows from
the program and the choices alone, so that every runner does the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from superlower.errors import BadInputError
from superlower.program.model import CHOICE, Equation, Program, Stream, otherwise

Array = NDArray[np.generic]
Choices = Mapping[str, Sequence[Array]]
"""Stream of choices -> its element of each frame."""
Rectangle = tuple[range, range]
"""Rows and columns of a region, in pixels."""


@dataclass(frozen=True)
class Part:
    """One call of one graph, for some patches of a frame.

    Attributes:
        graph: which graph.
        patches: row-major indices of the patches that it makes.
        whole: whether it sees the whole frame, not windows.
    """

    graph: str
    patches: tuple[int, ...]
    whole: bool = False


class Routing:
    """The geometry of a routed equation.

    Attributes:
        equation, route: what is routed, and how.
        rows, columns: patches of a frame.
        window: height and width of what a graph sees, in pixels.
        input_sizes, output_sizes: by graph input and output name, shapes that the route's graphs have.
    """

    def __init__(self, program: Program, equation: Equation) -> None:
        """Check that the route fits the program's streams.

        Raises:
            BadInputError: it doesn't.
        """
        assert equation.route is not None
        self.equation, self.route = equation, equation.route
        self._height, self._width = program.frame.padded
        self._streams = {name: program.streams[read.stream] for name, read in equation.reads.items()}
        self._made = {name: program.streams[stream] for name, stream in equation.outputs.items()}
        self._check_route()
        (high, wide), halo = self.route.patch, self.route.halo
        self.rows, self.columns = self._height // high, self._width // wide
        self.window = min(high + 2 * halo, self._height), min(wide + 2 * halo, self._width)
        self._patches = [
            (range(top, top + high), range(left, left + wide))
            for top in range(0, self._height, high)
            for left in range(0, self._width, wide)
        ]
        self._windows = [
            (
                _inside(rows.start - halo, self.window[0], self._height),
                _inside(columns.start - halo, self.window[1], self._width),
            )
            for rows, columns in self._patches
        ]
        self._check_streams(program)
        self.input_sizes = {name: self._window_sizes(self._streams[name]) for name in equation.inputs}
        self.output_sizes = {name: self._window_sizes(stream) for name, stream in self._made.items()}

    def call(self, values: Mapping[str, Array]) -> RoutedCall:
        """A call of the equation.

        Args:
            values: what it reads, by the names of `Equation.reads`.

        Raises:
            BadInputError: a choice that the route hasn't.
        """
        return RoutedCall(self, values)

    def parts(self, choice: Array) -> tuple[Part, ...]:
        """The calls that a choice of shape [1, 1, rows, columns] comes to, graph by graph.

        Raises:
            BadInputError: a choice that the route hasn't.
        """
        chosen = choice.astype(np.int32).ravel()
        graphs = self.route.graphs
        wrong = np.flatnonzero((chosen < 0) | (chosen > len(graphs)))
        if len(wrong):
            row, column = divmod(int(wrong[0]), self.columns)
            raise BadInputError(
                f"equation {self.equation.name}: choice {chosen[wrong[0]]} of the patch in row {row}, column "
                f"{column} is none of 0 to {len(graphs)}: the graph that makes the choices is wrong"
            )
        batch = self.route.batch
        parts = []
        for k, graph in enumerate(graphs, 1):
            patches = tuple(int(i) for i in np.flatnonzero(chosen == k))
            parts += [Part(graph, patches[i : i + batch]) for i in range(0, len(patches), batch)]
        pixels = len(parts) * batch * self.window[0] * self.window[1]
        if self.equation.graph and pixels >= self._height * self._width:
            return (Part(self.equation.graph, tuple(int(i) for i in np.flatnonzero(chosen)), whole=True),)
        return tuple(parts)

    def calls(self, choice: Array | None = None) -> Counter[str]:
        """How often a call of the equation calls each graph; by default every patch chooses the last."""
        if choice is None:
            choice = np.full((1, 1, self.rows, self.columns), len(self.route.graphs), np.int32)
        return Counter(part.graph for part in self.parts(choice))

    def feeds(self, values: Mapping[str, Array], part: Part) -> dict[str, Array]:
        """What a graph is fed, by graph input: contiguous windows, or the values as they are."""
        if part.whole:
            return {name: values[name] for name in self.equation.inputs}
        missing = self.route.batch - len(part.patches)
        windows = [self._windows[i] for i in (*part.patches, *part.patches[-1:] * missing)]
        feeds = {}
        for name in self.equation.inputs:
            stream, value = self._streams[name], values[name]
            if _cut(stream):
                feeds[name] = np.concatenate([value[stream.region(*window)] for window in windows])
            else:
                feeds[name] = value
        return feeds

    def paste(self, outputs: Mapping[str, Array], made: Mapping[str, Array], part: Part) -> None:
        """Write into `outputs` the patches that a graph made."""
        for name, stream in self._made.items():
            for k, i in enumerate(part.patches):
                patch = self._patches[i]
                if part.whole:
                    inside = made[name][stream.region(*patch)]
                else:
                    entry = made[name] if self.route.batch == 1 else made[name][k : k + 1]
                    inside = entry[stream.region(*_relative(patch, self._windows[i]))]
                outputs[name][stream.region(*patch)] = inside

    def _check_route(self) -> None:
        route, name = self.route, self.equation.name
        if not route.graphs:
            raise BadInputError(f"the route of equation {name} has no graphs to choose from")
        if self.equation.graph and len(route.graphs) > 1:
            raise BadInputError(
                f"equation {name} gives the whole frame's form '{self.equation.graph}' of a route over "
                f"{len(route.graphs)} graphs: leave it out, or choose from one"
            )
        if self.equation.graph in route.graphs:
            raise BadInputError(
                f"equation {name} calls graph '{self.equation.graph}' on windows and on the whole frame: "
                f"give each size a graph"
            )
        high, wide = route.patch
        if high < 1 or wide < 1 or self._height % high or self._width % wide:
            raise BadInputError(
                f"patches of {high}x{wide} pixels don't divide the padded frame of "
                f"{self._height}x{self._width} (route of equation {name}): choose others, or a frame "
                f"contract of that multiple"
            )
        if route.halo < 0 or route.batch < 1:
            raise BadInputError(
                f"the route of equation {name} has halo {route.halo} and batch {route.batch}: "
                f"the least are 0 and 1"
            )
        if route.otherwise.keys() != self.equation.outputs.keys():
            raise BadInputError(
                f"the route of equation {name} says what stands otherwise for "
                f"{', '.join(sorted(route.otherwise)) or 'nothing'}, its outputs are "
                f"{', '.join(sorted(self.equation.outputs))}"
            )
        if reserved := [given for given in self.equation.inputs if given.startswith("@")]:
            raise BadInputError(
                f"input '{reserved[0]}' of equation {name}: rename it, in a routed equation @ names reads"
            )

    def _check_streams(self, program: Program) -> None:
        name, padded = self.equation.name, program.frame.padded
        choice = self._streams[CHOICE]
        if (choice.dtype, choice.sizes(*padded)) != ("int32", (1, 1, self.rows, self.columns)):
            raise BadInputError(
                f"the choice {self.route.choice} of equation {name} is {choice.dtype} "
                f"{list(choice.sizes(*padded))}, its patches take int32 {[1, 1, self.rows, self.columns]}"
            )
        for output, stream in self._made.items():
            other = self._streams[otherwise(output)]
            if (other.dtype, other.sizes(*padded)) != (stream.dtype, stream.sizes(*padded)):
                raise BadInputError(
                    f"the route of equation {name} puts {self.route.otherwise[output]}, {other.dtype} "
                    f"{list(other.sizes(*padded))}, in the place of {self.equation.outputs[output]}, "
                    f"{stream.dtype} {list(stream.sizes(*padded))}"
                )
            if not {"H", "W"} <= {letter for d in stream.shape if isinstance(d, str) for letter in d}:
                raise BadInputError(
                    f"stream {self.equation.outputs[output]} of the routed equation {name} has no patches: "
                    f"write its shape in H and W"
                )
        given = {read: self._streams[read] for read in self.equation.inputs}
        for stream_name, stream in (*given.items(), *self._made.items()):
            if _cut(stream) and self.route.batch > 1 and stream.shape[0] != 1:
                raise BadInputError(
                    f"'{stream_name}' of equation {name} can't be batched: its first size is "
                    f"{stream.shape[0]}, not 1"
                )
            try:
                for patch, window in zip(self._patches, self._windows, strict=True):
                    for region in (patch, window, _relative(patch, window)):
                        stream.region(*region)
            except BadInputError:
                raise BadInputError(
                    f"patches of {self.route.patch[0]}x{self.route.patch[1]} pixels and a halo of "
                    f"{self.route.halo} don't fall on whole elements of '{stream_name}' of equation {name}, "
                    f"{list(stream.shape)}: choose multiples of what divides H and W there"
                ) from None

    def _window_sizes(self, stream: Stream) -> tuple[int, ...]:
        sizes = stream.sizes(*self.window)
        return (self.route.batch, *sizes[1:]) if _cut(stream) and self.route.batch > 1 else sizes


class RoutedCall:
    """One call of a routed equation: run each part on its feeds, in any order, and take what it makes.

    Attributes:
        parts: the calls to make.
        choice: what they follow from.
        outputs: by graph output name; complete when every part was taken.
    """

    def __init__(self, routing: Routing, values: Mapping[str, Array]) -> None:
        self.choice = values[CHOICE]
        self.parts = routing.parts(self.choice)
        self._routing, self._values = routing, values
        # Where every patch is made anew there is nothing to copy.
        make = np.empty_like if self.choice.all() else np.array
        self.outputs: dict[str, Array] = {
            name: make(values[otherwise(name)]) for name in routing.equation.outputs
        }

    def feeds(self, part: Part) -> dict[str, Array]:
        """What to feed a part's graph."""
        return self._routing.feeds(self._values, part)

    def take(self, part: Part, made: Mapping[str, Array]) -> None:
        """Accept what a part's graph made."""
        self._routing.paste(self.outputs, made, part)


def flips_accepted(patches: int, relative: float) -> int:
    """How many of so many choices may differ where values may, by a fraction of their range.

    A choice is a score beyond a threshold or not. Of scores spread evenly over their range, a share of twice
    the error lies so near the threshold that the error may take them over it. One may always, if there is an
    error at all.
    """
    return max(1, int(2 * relative * patches)) if relative > 0 else 0


def routings(program: Program) -> dict[str, Routing]:
    """Equation name -> its routing, for those that have one."""
    return {e.name: Routing(program, e) for e in program.equations if e.route is not None}


def choice_streams(program: Program) -> tuple[str, ...]:
    """The streams that routes choose by."""
    return tuple(dict.fromkeys(e.reads[CHOICE].stream for e in program.equations if e.route is not None))


def _inside(start: int, size: int, end: int) -> range:
    start = min(max(start, 0), end - size)
    return range(start, start + size)


def _relative(patch: Rectangle, window: Rectangle) -> Rectangle:
    (rows, columns), (top, left) = patch, (window[0].start, window[1].start)
    return range(rows.start - top, rows.stop - top), range(columns.start - left, columns.stop - left)


def _cut(stream: Stream) -> bool:
    """Whether windows are cut from it."""
    return not all(isinstance(d, int) for d in stream.shape)
