"""A service and its model side by side: each command is given to both, and all that the service holds is compared."""

from random import Random

import numpy as np

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress, NotifyTarget
from rtpproxy.offload.entry import plan
from rtpproxy.session.reaper import NO_ROW
from rtpproxy.session.session import Stream
from tests.hostile.commands import REMOTES, Address, Command, Generator, World
from tests.hostile.model import Model, SessionModel
from tests.running import rtp
from tests.scenario import FIRST_PORT, OUR_HOST, Scenario

PAIRS = 6
PORTS = range(FIRST_PORT, FIRST_PORT + 2 * PAIRS, 2)
SETUP_S, IDLE_S = 10, 25
SPACES = 8
TARGETS = ("unix:/told", "tcp:%%CC_SELF%%:22223")


def one_address() -> World:
    """All IPv4 addresses of the host; commands bring others."""
    return World([Address()], extra=("10.0.0.8", "2001:db8::1", "2001:db8::3"))


def labelled() -> World:
    """Three addresses by label, one advertised under another name."""
    known = [
        Address("10.0.0.1"),
        Address("10.0.0.2", "two", shown="relay.example", space=1),
        Address("2001:db8::1", "six", is_ipv6=True, space=2),
    ]
    return World(known, extra=("10.0.0.8", "10.0.0.9", "10.0.0.10"))


def bridging() -> World:
    """Internal and external, of either family."""
    return World(
        [Address("10.0.0.1"), Address("2001:db8::1", is_ipv6=True, space=1)],
        is_bridging=True,
        extra=("10.0.0.8",),
    )


WORLDS = {"one address": one_address, "labelled": labelled, "bridging": bridging}


class Played:
    """A service between fakes, and its model."""

    def __init__(self, rng: Random, name: str, *, is_independent: bool = False, has_notify: bool = True) -> None:
        self.world = WORLDS[name]()
        self.world.foreign = ("10.9.9.9", "2001:db8::9999")
        self.world.routes = {"10.0.1.2": "10.0.0.8", "192.0.2.4": self.world.known[0].host or "10.0.0.1"}
        targets: tuple[NotifyTarget, ...] = ()
        if has_notify:
            self.world.notify = (*TARGETS, "/told")
            targets = NotifyTarget(path="/told", text=TARGETS[0]), NotifyTarget(port=22223, text=TARGETS[1])
        self.play = Scenario(
            listen=tuple(ListenAddress(one.host, one.is_ipv6, one.label, one.shown) for one in self.world.known),
            is_bridging=self.world.is_bridging,
            is_independent=is_independent,
            routes=self.world.routes,
            pairs=PAIRS,
            setup_timeout_s=SETUP_S,
            idle_timeout_s=IDLE_S,
            notify=targets,
        )
        self.play.recorder.refusal = "there is no directory for recordings"
        self.play.media.foreign = set(self.world.foreign)
        self.play.offload._last_seen = np.zeros(SPACES << 16)
        self.model = Model(self.world, PORTS, setup_s=SETUP_S, idle_s=IDLE_S, is_independent=is_independent)
        self.generator = Generator(rng, self.world)
        self.rng = rng
        self.history: list[str] = []

    def step(self) -> None:
        """Something happens: mostly a command, else a packet, time, or a port that another program takes."""
        number = self.rng.randrange(100)
        if number < 80:
            self.command(self.generator.next())
        elif number < 90:
            self.packet()
        elif number < 94:
            self.forward()
        elif number < 98:
            self.wait(self.rng.choice((0, 1, 1, 2, 3, 5, 9)))
        else:
            self.occupy()

    def command(self, command: Command) -> None:
        reply = self.play.ask(command.text, may_send=True)
        self.history.append(f"{self.play.now} {command.text!r} -> {reply!r}")
        self.model.check(command, reply, self.play.now)

    def packet(self) -> None:
        """A packet to a port of a space; one that is accepted keeps the party's side of the session alive."""
        space, port = self._any_port()
        key = space << 16 | port
        self.history.append(f"{self.play.now} packet to {key}")
        owner = self._owner(key)
        stream = self.play.service._packets._streams[key][1] if owner else None
        before, sent = _seen_in_userspace(stream) if stream else 0, len(self.play.media.sent)
        source = Endpoint(self.rng.choice(REMOTES), 4000 + port % 2)
        self.play.service.datagram(key, rtp(self.rng.randrange(1000)), tuple(source), OUR_HOST, self.play.now)
        if owner is None or stream is None or _seen_in_userspace(stream) == before:
            return
        session, side = owner
        assert session.is_complete
        assert not (session.is_played_to[1 - side] and key % 2 == 0 and len(self.play.media.sent) > sent)
        session.timers.touch(side, self.play.now)

    def forward(self) -> None:
        """The kernel forwards, where it may."""
        space, port = self._any_port()
        key = space << 16 | port
        if self.play.offload.entry(key) is None:
            return
        self.history.append(f"{self.play.now} the kernel forwards from {key}")
        self.play.offload.forward(key, 3, self.play.now, ssrc=0x1234, sequence=self.rng.randrange(1000))
        owner = self._owner(key)
        assert owner is not None
        owner[0].timers.touch(owner[1], self.play.now)

    def wait(self, seconds: int) -> None:
        self.play.now += seconds
        self.play.later.pass_until(self.play.now)
        self.history.append(f"{self.play.now} tick")
        before = len(self.play.notifier.told)
        self.play.tick()
        told = sorted((target.text, tag.decode()) for target, _, tag in self.play.notifier.told[before:])
        full = {"/told": "unix:/told"}
        assert told == sorted((full.get(target, target), tag) for target, tag in self.model.tick(self.play.now))

    def occupy(self) -> None:
        """Another program takes a pair that nobody has, or gives it back."""
        pair = self.rng.choice(range(len(self.world.known))), self.rng.choice(PORTS)
        key = pair[0] << 16 | pair[1]
        if pair in self.model.busy:
            self.model.busy.remove(pair)
            self.play.media.busy.difference_update((key, key + 1))
        elif pair not in self.model.held:
            self.model.busy.add(pair)
            self.play.media.busy.add(key + self.rng.getrandbits(1))

    def check(self) -> None:
        """Everything that the service holds is what the sessions of the model hold, and nothing is left of others."""
        service, sessions = self.play.service, list(self.play.service._table)
        assert [(one.call_id.decode(), one.from_tag.decode()) for one in sessions] == [
            (one.call, one.from_tag) for one in self.model.sessions
        ]
        assert [one.is_strong for one in sessions] == [one.is_strong for one in self.model.sessions]
        assert [[leg.is_weak for leg in one.legs] for one in sessions] == [one.weak for one in self.model.sessions]
        assert [[leg.rtp.is_played_to for leg in one.legs] for one in sessions] == [
            one.is_played_to for one in self.model.sessions
        ]
        players = sum(sum(one.is_played_to) for one in self.model.sessions)
        self.play.players.all = [one for one in self.play.players.all if not one.is_stopped]
        assert len(self.play.players.all) == players
        assert service.totals().players_created - service.totals().players_destroyed == players
        self._check_ports()
        self._check_entries(sessions)
        self._check_timers(sessions)
        self._check_waiting(sessions)
        totals = self.play.totals()
        assert (totals["active sessions"], totals["sessions created"]) == (len(sessions), self.model.created)
        assert service.totals().sessions_timed_out == self.model.expired
        self.play.journal.clear()
        self.play.media.sent.clear()

    def _check_ports(self) -> None:
        held = self.model.held
        keys = {space << 16 | port for space, port in held}
        assert self.play.media.open_ports == keys
        assert self.play.service._packets._streams.keys() == {key + odd for key in keys for odd in (0, 1)}
        spaces = {space for space, _ in held}
        for space, ports in self.play.service._legs._pairs._ports.items():
            assert {(space, port) for port in ports.held} == {pair for pair in held if pair[0] == space}
            assert ports.taken == len(ports.held)
            spaces.discard(space)
        assert not spaces
        assert len(self.play.locals.known) == len(self.world.known)

    def _check_entries(self, sessions: list) -> None:
        wanted = {}
        for session, model in zip(sessions, self.model.sessions, strict=True):
            assert session.is_complete == model.is_complete
            if session.is_complete:
                wanted.update(plan(session, self.play.service._destinations.is_denied))
        assert self.play.offload.installed == wanted

    def _check_timers(self, sessions: list) -> None:
        activity, numbers = self.play.service._timers._activity, self.play.service._timers._sessions
        used = set()
        for session, model in zip(sessions, self.model.sessions, strict=True):
            for side, leg in enumerate(session.legs):
                used.add(leg.activity)
                assert numbers[leg.activity] is session
                assert activity.timeout(leg.activity) == model.timers.timeout[side % len(model.timers.timeout)]
        assert len(used) == sum(len(model.timers.seen) for model in self.model.sessions)
        assert numbers.keys() == used
        free = activity._free
        assert len(free) == len(set(free)) == len(activity._timeout_s) - len(used)
        assert not used & set(free)
        rows = {column[number] for column in activity._rows for number in free}
        assert rows <= {NO_ROW}
        watched = [column[number] for column in activity._rows for number in used if column[number] != NO_ROW]
        assert sorted(watched) == sorted(self.play.service._packets._streams)

    def _check_waiting(self, sessions: list) -> None:
        """Packets wait in streams of sessions only, and a timer runs while any do."""
        waiting = self.play.service._packets.repacketizing._waiting
        resized = [one for session in sessions for one in session.streams if one.resizer is not None]
        assert waiting.keys() == {stream for stream in resized if stream.resizer.waiting}
        assert len(self.play.later.calls) <= 1
        assert self.play.later.calls or not waiting

    def _any_port(self) -> tuple[int, int]:
        held = sorted(self.model.held)
        if held and self.rng.randrange(8):
            space, port = self.rng.choice(held)
        else:
            space, port = 0, self.rng.choice(PORTS)
        return space, port + self.rng.getrandbits(1)

    def _owner(self, key: int) -> tuple[SessionModel, int] | None:
        for session in self.model.sessions:
            for side, (local, port) in enumerate(zip(session.locals, session.ports, strict=True)):
                if port is not None and local.space << 16 | port == key & ~1:
                    return session, side
        return None


def _seen_in_userspace(stream: Stream) -> int:
    """Packets accepted there; those that the kernel forwarded are absorbed when the relay pleases."""
    return stream.received_packets - stream.forwarded_packets
