"""A playbook for the service: a command and its reply, a packet and exactly what goes out for it, and the time.

    play = Scenario()
    play.command("U call 10.0.1.2 4000 from", "20000")
    play.command("L call 10.0.2.2 5000 from to", "20002")
    play.at(1.0)
    play.packet(CALLEE, 20000, rtp(1), (20002, CALLER))

Media ports are given away in ascending order from 20000, so that they can be written down.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rtpproxy.addr import Endpoint
from rtpproxy.config import Config, ListenAddress
from rtpproxy.control.dispatch import Dispatcher
from rtpproxy.control.parser import Parser
from rtpproxy.instance.modules import build_modules
from rtpproxy.service.copies import UserspaceCopier
from rtpproxy.service.events import Observer
from rtpproxy.service.notification import TimeoutNotification
from rtpproxy.service.offloading import Entries, KernelCounters
from rtpproxy.service.recordings import Recorder
from rtpproxy.service.sessions import Service
from rtpproxy.service.witnesses import Copier, Tees
from rtpproxy.session.local import LocalAddresses
from tests.fakes import (
    FakeLater,
    FakeMedia,
    FakeNotifier,
    FakeOffload,
    FakePlayers,
    FakeRecorder,
    FakeTapper,
    FakeTees,
    Journal,
    JournalledPorts,
    Sent,
)
from tests.running import rtp

FIRST_PORT = 20000
OUR_HOST = "10.0.0.1"
CALLER = Endpoint("10.0.1.2", 4000)
CALLER_RTCP = Endpoint("10.0.1.2", 4001)
CALLEE = Endpoint("10.0.2.2", 5000)
CALLEE_RTCP = Endpoint("10.0.2.2", 5001)
STRANGER = Endpoint("203.0.113.9", 666)

FACES_CALLEE, FACES_CALLEE_RTCP, FACES_CALLER, FACES_CALLER_RTCP = range(FIRST_PORT, FIRST_PORT + 4)
"""The ports of the first session, once both its legs have them: the callee sends to the first."""

TO_CALLER = (FACES_CALLER, CALLER)
TO_CALLEE = (FACES_CALLEE, CALLEE)
"""Where packets of the first session leave from, and for whom."""

RTCP = b"\x81\xc9\x00\x07" + bytes(28)
ALL_COUNTERS = "npkts_ina npkts_ino nrelayed ndropped rtpa_nsent rtpa_nrcvd rtpa_ndups rtpa_nlost rtpa_perrs"

Routes = dict[str, str]
Out = tuple[int, Endpoint] | tuple[int, Endpoint, bytes]
"""A port of ours that a packet leaves from, where it goes, and the packet, if it is another than came."""


class Scenario:
    """A service between fakes, and a clock that stands still until told."""

    def __init__(
        self,
        *,
        listen_host: str = "",
        pairs: int = 10,
        now: float = 1000.0,
        routes: Routes | None = None,
        capacity: int = 1000,
        observers: Sequence[Observer] = (),
        entries: Entries | None = None,
        counters: KernelCounters | None = None,
        recorder: Recorder | None = None,
        copier: Copier | None = None,
        tees: Tees | None = None,
        **config: Any,
    ) -> None:
        """`routes` has our address on the way to others. Adapters are fakes unless given; userspace sends copies.

        The keywords not named here are those of `Config`.
        """
        config.setdefault("listen", (ListenAddress(listen_host),))
        self.journal: Journal = []
        self.media = FakeMedia(self.journal)
        self.offload = FakeOffload(self.journal)
        self.notifier = FakeNotifier()
        self.recorder = FakeRecorder()
        self.tapper = FakeTapper()
        self.tees = FakeTees()
        self.later = FakeLater(now)
        self.players = FakePlayers()
        modules = build_modules(
            config.get("modules", ()), self.notifier, lambda: self.now, lambda: self.now, None, ExitStack()
        )
        self.all_ports: list[JournalledPorts] = []
        self.locals = LocalAddresses(config["listen"], config.get("is_bridging", False), (routes or {}).get)

        def new_ports() -> JournalledPorts:
            self.all_ports.append(JournalledPorts(FIRST_PORT, FIRST_PORT + 2 * (pairs - 1), self.journal))
            return self.all_ports[-1]

        self.service = Service(
            Config(**config),
            self.locals,
            self.media,
            entries or self.offload,
            counters or self.offload,
            recorder or self.recorder,
            copier or UserspaceCopier(self.media),
            self.tapper,
            tees or self.tees,
            self.players,
            new_ports,
            (TimeoutNotification(self.notifier), *observers, *modules.modules),
            capacity,
            self.later.call,
        )
        self.ports = self.all_ports[0]
        self.now = now
        self._start = now
        for module in modules.modules:
            module.begin(self.service.taps)
        self._dispatcher = Dispatcher(self.service, Parser(self.locals, modules), modules)

    def at(self, second: float) -> None:
        """It is so many seconds after the start now."""
        assert self._start + second >= self.now, "time goes forward only"
        self.later.pass_until(self._start + second)
        self.now = self._start + second

    def ask(self, command: str, controller_host: str = "", *, may_send: bool = False) -> str:
        """Give a command; its reply without the line feed. No packet goes out for it unless it may end `z`."""
        before = len(self.media.sent)
        reply = self._dispatcher.execute(command.encode(), self.now, controller_host).decode()
        assert reply.endswith("\n")
        assert may_send or len(self.media.sent) == before
        return reply[:-1]

    def answer(self, text: bytes) -> bytes:
        """Give any bytes as a command; the whole reply."""
        return self._dispatcher.execute(text, self.now)

    def command(self, command: str, reply: str) -> None:
        """Give a command and check its reply."""
        answered = self.ask(command)
        assert answered == reply, f"{command} -> {answered}, not {reply}"

    def call(self, call_id: str = "call", *, caller: Endpoint = CALLER, callee: Endpoint = CALLEE) -> None:
        """Make a session with both legs; the first one gets the ports FACES_CALLEE and FACES_CALLER."""
        for text, port in ((f"U {call_id} {caller.host} {caller.port} f", 0), (_answer(call_id, callee), 2)):
            reply = self.ask(text)
            if call_id == "call":
                assert int(reply.split()[0]) == FIRST_PORT + port

    def packet(self, source: Endpoint, key: int, data: bytes, *outs: Out, local_host: str = OUR_HOST) -> None:
        """A datagram arrives at a port of ours. It must go out in these ways only, unchanged or as given."""
        before = len(self.media.sent)
        self.service.datagram(key, data, tuple(source), local_host, self.now)
        sent = [(one.from_port, one.to, one.data) for one in self.media.sent[before:]]
        expected = [(from_port, to, *(rest or (data,))) for from_port, to, *rest in outs]
        assert sent == expected, f"{source} to port {key} at {self.now - self._start} s"

    def tick(self, second: float | None = None) -> None:
        """The second hand moves; to that second, if one is given."""
        if second is not None:
            self.at(second)
        self.service.tick(self.now)

    def counters(self, call: str) -> dict[str, int]:
        """`Q` of a session, by name. Only with a to-tag are counters taken."""
        pairs = (pair.split("=") for pair in self.ask(f"Qv {call}").split())
        return {name: int(value) for name, value in pairs}

    def totals(self) -> dict[str, int]:
        """`I`, by name."""
        lines = (line.split(": ") for line in self.ask("I").splitlines())
        return {name: int(value) for name, value in lines}

    def stats(self, names: str) -> dict[str, float]:
        """`G` of these names."""
        pairs = (pair.split("=") for pair in self.ask(f"Gv {names}").split())
        return {name: float(value) for name, value in pairs}

    @property
    def discarded(self) -> int:
        """Packets that were thrown away."""
        return int(self.stats("npkts_discard")["npkts_discard"])

    @property
    def sessions(self) -> int:
        """How many there are."""
        return self.totals()["active sessions"]

    @property
    def last_sent(self) -> Sent:
        """The datagram that left last."""
        return self.media.sent[-1]

    def assert_nothing_is_left(self) -> None:
        """Check that no session holds anything any more."""
        assert self.sessions == 0
        assert self.media.open_ports == set()
        assert all(ports.held == set() for ports in self.all_ports)
        assert self.offload.installed == {}


def start_talking(play: Scenario, *, ssrc: int = 0x1234) -> None:
    """Both parties of the first session send a packet: number 100 of the callee, 200 of the caller."""
    play.packet(CALLEE, FACES_CALLEE, rtp(100, ssrc=ssrc), TO_CALLER)
    play.packet(CALLER, FACES_CALLER, rtp(200, ssrc=ssrc), TO_CALLEE)


def _answer(call_id: str, callee: Endpoint) -> str:
    return f"L {call_id} {callee.host} {callee.port} f t"
