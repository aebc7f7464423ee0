"""Recordings started and stopped at random, with the real service and process: the files have what a model has.

That is each packet that arrived between the replies to start and stop, in order, and no other.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from rtpproxy.addr import Endpoint
from tests.recording.packets import read_adhoc
from tests.recording.running import RunningRecorder
from tests.running import rtp
from tests.scenario import Scenario

SIDES = ("f t", "t f")
ROLES = ("o", "a")


class Recordings(RuleBasedStateMachine):
    """Calls, of which each side is recorded at times."""

    calls = Bundle("calls")

    def __init__(self):
        super().__init__()
        self.directory = TemporaryDirectory()
        self.running = RunningRecorder(Path(self.directory.name), with_spool=True)
        self.play = Scenario(pairs=1000, recorder=self.running.recorder, now=time.monotonic())
        self.begun = {}
        """By side of a call: name and packets of the recording that goes on."""
        self.alive = set()
        """Calls."""
        self.ended = {}
        """By name, what is in the file."""
        self.last_call = self.last_name = self.last_packet = 0

    def teardown(self):
        for side in list(self.begun):
            self._end(side)
        self.running.close()  # which ends them
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

    @rule(side=consumes(calls))
    def end_call(self, side):
        call = side[0]
        assert self._ask(f"D {call} f t") == ("0" if call in self.alive else "E50")
        self.alive.discard(call)
        for number in (0, 1):
            self._end((call, number))

    @rule()
    def let_time_pass(self):
        self.running.run(0.001)

    @invariant()
    def nothing_is_lost(self):
        self.running.run()
        assert self.running.recorder.counts()["packets_lost"] == 0

    def _ask(self, command):
        self.play.now = max(self.play.now, time.monotonic())
        return self.play.ask(command)

    def _begin(self, side, command, name):
        is_alive = side[0] in self.alive
        assert self._ask(command) == ("0" if is_alive else "E50")
        if is_alive:
            self.begun.setdefault(side[:2], (name, []))

    def _end(self, side):
        if side in self.begun:
            name, packets = self.begun.pop(side)
            self.ended[name] = packets


Recordings.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestRecordings = Recordings.TestCase
