"""Measures how busy the event loop is, some ten times a second."""

import random
from asyncio import AbstractEventLoop

from rtpproxy.instance.build import Clocks
from rtpproxy.instance.stop import Stop
from rtpproxy.service.sessions import Service

SHORTEST_S, LONGEST_S = 0.05, 0.15
"""Time between two measurements, drawn anew for each: what takes the processor away may have a rhythm of its own."""


class LoadMeter:
    """Tells the service how much processor time the event loop had and wanted, and how late it comes to what is due."""

    def __init__(self, service: Service, loop: AbstractEventLoop, clocks: Clocks, stop: Stop) -> None:
        self._service = service
        self._loop = loop
        self._clocks = clocks
        self._stop = stop

    def start(self) -> None:
        """Measure for the first time, and from then on."""
        self._measure(self._clocks.monotonic())

    def _measure(self, due: float) -> None:
        if self._stop.is_asked:
            return
        now = self._clocks.monotonic()
        wait_s = random.uniform(SHORTEST_S, LONGEST_S)
        self._loop.call_later(wait_s, self._measure, now + wait_s)  # first, so that it comes even if this one fails
        self._service.measured(self._clocks.busy(), now - due, now)
