"""A service that notes what it is asked, and answers as it is told to."""

from typing import Any

from rtpproxy.service.answers import PortLine, SessionCounters, Tiers
from rtpproxy.service.requests import CopyTo
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Issuer, Role
from rtpproxy.session.totals import Totals
from tests.fakes import make_session

COUNTERS = SessionCounters(60, 1, 2, 3, 4, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0)
LOCAL = LocalAddress(0, "192.0.2.1")


class FakeService:
    """Knows every session, or raises `error` in each call if that is set."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.failing: str = ""
        """Name of the only call that raises `error`; empty for all."""
        self.is_known = True
        self.has_notification = False
        self.issuer = Issuer(make_session(), Role.CALLER)

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        if self.error is not None and self.failing in ("", name):
            raise self.error

    def update(self, *arguments: Any) -> tuple[PortLine, Issuer]:
        self._note("update", *arguments)
        return PortLine(35000, LOCAL), self.issuer

    def lookup(self, *arguments: Any) -> tuple[PortLine, Issuer] | None:
        self._note("lookup", *arguments)
        return (PortLine(35002, LOCAL), self.issuer.peer) if self.is_known else None

    def delete(self, *arguments: Any) -> None:
        self._note("delete", *arguments)

    def delete_all(self, *arguments: Any) -> None:
        self._note("delete_all", *arguments)

    def find(self, *arguments: Any) -> Issuer:
        self._note("find", *arguments)
        return self.issuer

    def query(self, *arguments: Any) -> SessionCounters:
        self._note("query", *arguments)
        return COUNTERS

    def totals(self, *arguments: Any) -> Totals:
        self._note("totals", *arguments)
        return Totals(sessions_created=1)

    def tiers(self, *arguments: Any) -> Tiers:
        self._note("tiers", *arguments)
        many = {f"reason {number:02}": 1 for number in range(25)}
        reasons = {"it is link-local": 2, **many}
        return Tiers({"XDP": 3, "TC": 1}, reasons, {"up_no_entry": 7}, {"files_open": 4}, {"times": 1})

    def answer(self, *arguments: Any) -> PortLine:
        self._note("answer", *arguments)
        return PortLine(35004, LOCAL)

    def set_timeout(self, *arguments: Any) -> None:
        self._note("set_timeout", *arguments)

    def set_tos(self, *arguments: Any) -> None:
        self._note("set_tos", *arguments)

    def drop(self, *arguments: Any) -> None:
        self._note("drop", *arguments)

    def record(self, *arguments: Any) -> None:
        self._note("record", *arguments)

    def record_as(self, *arguments: Any) -> None:
        self._note("record_as", *arguments)

    def copy_to(self, request: CopyTo, *arguments: Any) -> PortLine | None:
        self._note("copy_to", request, *arguments)
        return PortLine(35006, LOCAL) if request.wants_port else None

    def stop_recording(self, *arguments: Any) -> None:
        self._note("stop_recording", *arguments)

    def play(self, *arguments: Any) -> None:
        self._note("play", *arguments)

    def stop_playing(self, *arguments: Any) -> None:
        self._note("stop_playing", *arguments)

    def feed(self, *arguments: Any) -> None:
        self._note("feed", *arguments)
