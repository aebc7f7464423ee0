"""A service that remembers what it was asked and answers as told."""

from rtpproxy.control.messages import Command, Delete, Lookup, PortLine, Query, SessionCounters, Totals, Update

COUNTERS = SessionCounters(60, 1, 2, 3, 4, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0)


class FakeService:
    """Knows every session, unless `error` is set: that is then raised by each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Command | None, float]] = []
        self.error: Exception | None = None
        self.found: PortLine | None = PortLine(35002, "192.0.2.1")

    def _note(self, command: Command | None, now: float) -> None:
        self.calls.append((command, now))
        if self.error is not None:
            raise self.error

    def update(self, command: Update, now: float) -> PortLine:
        self._note(command, now)
        return PortLine(35000, "192.0.2.1")

    def lookup(self, command: Lookup, now: float) -> PortLine | None:
        self._note(command, now)
        return self.found

    def delete(self, command: Delete, now: float) -> None:
        self._note(command, now)

    def delete_all(self, now: float) -> None:
        self._note(None, now)

    def query(self, command: Query, now: float) -> SessionCounters:
        self._note(command, now)
        return COUNTERS

    def info(self, now: float) -> Totals:
        self._note(None, now)
        return Totals(1, 1, 0, 0)
