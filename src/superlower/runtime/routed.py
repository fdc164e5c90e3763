"""Runs the parts of routed calls on sessions, several in flight where they may."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from superlower.backends.base import Outputs, Session
from superlower.program.routes import Part, RoutedCall, Routing

Array = NDArray[np.generic]


class Pending(Protocol):
    """A call's outputs to come."""

    def result(self) -> Outputs:
        """Wait for them."""
        ...


@dataclass(frozen=True)
class Done:
    """Outputs that are there."""

    outputs: Outputs

    def result(self) -> Outputs:
        """The outputs."""
        return self.outputs


class Router:
    """A routed equation's sessions.

    Args:
        routing: the equation's geometry.
        sessions: by graph name.
        in_flight: parts of a call that may run at the same time.
    """

    def __init__(self, routing: Routing, sessions: Mapping[str, Session], in_flight: int) -> None:
        self._routing, self._sessions, self._in_flight = routing, dict(sessions), in_flight

    def start(self, values: Mapping[str, Array]) -> Pending:
        """Start a call; with one in flight it is done on return.

        Args:
            values: what the equation reads, by the names of `Equation.reads`.

        Raises:
            BadInputError: a choice that the route hasn't.
        """
        call = self._routing.call(values)
        if self._in_flight > 1:
            return _InFlight(call, self._sessions, self._in_flight)
        for part in call.parts:
            call.take(part, self._sessions[part.graph].run(call.feeds(part)))
        return Done(call.outputs)


class _InFlight:
    """A call whose parts are started a few at a time, so that few windows are held."""

    def __init__(self, call: RoutedCall, sessions: Mapping[str, Session], in_flight: int) -> None:
        self._call, self._sessions = call, sessions
        self._waiting = deque(call.parts)
        self._running: deque[tuple[Part, Future[Outputs]]] = deque()
        for _ in range(in_flight):
            self._next()

    def result(self) -> Outputs:
        """Run what is left, and give the whole frame's outputs."""
        while self._running:
            part, future = self._running.popleft()
            made = future.result()
            self._next()
            self._call.take(part, made)
        return self._call.outputs

    def _next(self) -> None:
        if self._waiting:
            part = self._waiting.popleft()
            self._running.append((part, self._sessions[part.graph].submit(self._call.feeds(part))))
