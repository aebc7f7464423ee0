"""Recordings and copies started and stopped at random, with the real service and process: they have what a model has.

That is each packet that arrived between the replies to start and stop, in order, and no other.
"""

import contextlib
import socket
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from rtpproxy.addr import Endpoint
from rtpproxy.cli.networks import read_media_network
from rtpproxy.recording.copier import Copier
from tests.recording.packets import read_adhoc
from tests.recording.running import RunningRecorder
from tests.running import rtp
from tests.scenario import Scenario

SIDES = ("f t", "t f")
ROLES = ("o", "a")


def open_socket(stream):
    """Stands in for one on the port that copies leave from, which another test may have."""
    return receiver()


def receiver():
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    opened.bind(("127.0.0.1", 0))
    return opened


class Recordings(RuleBasedStateMachine):
    """Calls, of which each side is recorded or copied at times, and each call into other sessions."""

    calls = Bundle("calls")
    forks = Bundle("forks")

    def __init__(self):
        super().__init__()
        self.directory = TemporaryDirectory()
        self.running = RunningRecorder(Path(self.directory.name), with_spool=True)
        self.play = Scenario(
            pairs=1000,
            now=time.monotonic(),
            recorder=self.running.recorder,
            copier=Copier(self.running.carrier, open_socket),
            tees=self.running.carrier,
            media_allow=(read_media_network("127.0.0.0/8"),),
        )
        self.begun = {}
        """By side of a call: name and packets of the recording or copy that goes on."""
        self.forked = {}
        """By name of a session that a call is copied into: the call, and the names of what each side sends there."""
        self.copied = {}
        """By name of a copy: its receiver, what came there, and what should have come."""
        self.alive = set()
        """Calls."""
        self.ended = {}
        """By name, what is in the file."""
        self.last_call = self.last_name = self.last_packet = 0

    def teardown(self):
        for side in list(self.begun):
            self._end(side)
        self.running.close()  # which ends them
        self._receive()
        for opened, came, expected in self.copied.values():
            assert came == expected
            opened.close()
        for name, packets in self.ended.items():
            assert [one.payload for one in read_adhoc(self.running.content(f"{name}.rtp"))] == packets
        assert len(self.running.names()) == 2 * len(self.ended)
        assert not list(self.running.spool.iterdir())
        self.running.loop.close()
        self.directory.cleanup()

    @rule(target=calls)
    def begin_call(self):
        self.last_call += 1
        call = f"call{self.last_call}"
        host = f"10.0.{self.last_call // 250}.{self.last_call % 250 + 1}"
        self.alive.add(call)
        to_callee = int(self._ask(f"U {call} {host} 4000 f").split()[0])
        to_caller = int(self._ask(f"L {call} {host} 5000 f t").split()[0])
        return multiple((call, 0, Endpoint(host, 4000), to_caller), (call, 1, Endpoint(host, 5000), to_callee))

    @rule(side=calls)
    def record(self, side):
        call, number, *_ = side
        self._begin(side, f"R {call} {SIDES[number]}", f"{call}=f.{ROLES[number]}")

    @rule(side=calls)
    def record_by_name(self, side):
        call, number, *_ = side
        self.last_name += 1
        self._begin(side, f"C {call} name{self.last_name} {SIDES[number]}", f"name{self.last_name}")

    @rule(side=calls)
    def copy(self, side):
        call, number, *_ = side
        name, port = self._receiver()
        self._begin(side, f"C {call} udp:127.0.0.1:{port} {SIDES[number]}", name)

    @rule(target=forks, side=calls)
    def fork(self, side):
        call = side[0]
        (first, port), (second, other_port) = self._receiver(), self._receiver()
        fork = f"fork{len(self.copied)}"
        reply = self._ask(f"U {fork} 127.0.0.1 {port} x y && C {call} f t")
        assert (reply[-2:] == "-1") == (call not in self.alive)
        self._ask(f"L {fork} 127.0.0.1 {other_port} x y")
        if call in self.alive:
            self.forked[fork] = call, (first, second)
        return fork

    @rule(fork=consumes(forks))
    def end_fork(self, fork):
        assert self._ask(f"D {fork} x y") == "0"
        self.forked.pop(fork, None)

    @rule(side=calls, is_both=st.booleans())
    def stop(self, side, is_both):
        call, number, *_ = side
        sides = [(call, one) for one in (0, 1) if is_both or one == number]
        expected = "0" if any(one in self.begun for one in sides) else "E50"
        assert self._ask(f"N{'a' * is_both} {call} {SIDES[number]}") == expected
        for one in sides:
            self._end(one)

    @rule(side=calls, count=st.integers(1, 30))
    def packets(self, side, count):
        _, number, source, port = side
        for _ in range(count):
            self.last_packet += 1
            data = rtp(self.last_packet, ssrc=number, payload=b"%08d" % self.last_packet)
            self.play.service.datagram(port, data, tuple(source), "10.0.0.1", time.monotonic())
            if side[:2] in self.begun:
                self.begun[side[:2]][1].append(data)
            for call, names in self.forked.values():
                if call == side[0]:
                    self.copied[names[number]][2].append(data)

    @rule(side=consumes(calls))
    def end_call(self, side):
        call = side[0]
        assert self._ask(f"D {call} f t") == ("0" if call in self.alive else "E50")
        self.alive.discard(call)
        for number in (0, 1):
            self._end((call, number))
        self.forked = {fork: about for fork, about in self.forked.items() if about[0] != call}

    @rule()
    def let_time_pass(self):
        self.running.run(0.001)

    @invariant()
    def nothing_is_lost(self):
        self.running.run()
        self._receive()
        assert self.running.recorder.counts()["packets_lost"] == 0

    def _ask(self, command):
        self.play.now = max(self.play.now, time.monotonic())
        return self.play.ask(command)

    def _begin(self, side, command, name):
        is_alive = side[0] in self.alive
        assert self._ask(command) == ("0" if is_alive else "E50")
        if is_alive:
            self.begun.setdefault(side[:2], (name, self.copied[name][2] if name in self.copied else []))

    def _end(self, side):
        if side in self.begun:
            name, packets = self.begun.pop(side)
            if name not in self.copied:
                self.ended[name] = packets

    def _receiver(self):
        """Make a place for a copy; its name and port."""
        opened, name = receiver(), f"copy{len(self.copied)}"
        self.copied[name] = opened, [], []
        return name, opened.getsockname()[1]

    def _receive(self):
        for opened, came, _ in self.copied.values():
            with contextlib.suppress(BlockingIOError):
                while True:
                    came.append(opened.recv(2000))


Recordings.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestRecordings = Recordings.TestCase
