"""Commands, packets and time at random, against a simple model."""

import math

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLER,
    OUR_HOST,
    STRANGER,
    Scenario,
)


class Model:
    """A session as the commands describe it."""

    def __init__(self, from_tag, port, is_weak, now):
        self.from_tag = from_tag
        self.ports = [port, None]
        self.is_strong = not is_weak
        self.weak = [is_weak, False]
        self.seen = now
        self.timeout = SETUP_S


SETUP_S, IDLE_S = 10, 25
TAGS = ("f", "f;1", "f;2", "g", "t", "t;1")
ENDPOINTS = (CALLER, CALLEE, STRANGER)
calls, tags = st.sampled_from(["a", "b"]), st.sampled_from(TAGS)


class SessionsComeAndGo(RuleBasedStateMachine):
    """Work out a second time which session a command means, who holds which port, and how long a session lives."""

    def __init__(self):
        super().__init__()
        self.play = Scenario(pairs=8, setup_timeout_s=SETUP_S, idle_timeout_s=IDLE_S)
        self.models = {"a": [], "b": []}
        self.created = 0

    @property
    def all(self):
        return [model for models in self.models.values() for model in models]

    def find(self, call, from_tag, to_tag):
        """The first that matches, and the stream (0 or 1) that a `U` would be answered with."""
        for model in self.models[call]:
            if model.from_tag == from_tag:
                return model, 0
            numbered = to_tag + ";" + from_tag.rsplit(";")[-1] if ";" in from_tag else to_tag
            if model.from_tag in (to_tag, numbered):
                return model, 1
        return None, 0

    def took(self, reply):
        """Tell whether the reply names a port. If it does not, no pair may be free but the one taken last."""
        if reply in ("E71", "E72"):
            free = {20000 + 2 * number for number in range(8)} - {port for m in self.all for port in m.ports}
            assert len(free) <= 1, "the pair taken last is the only one that may be withheld"
            return False
        assert reply.isdigit()
        return True

    @rule(call=calls, from_tag=tags, to_tag=tags, is_weak=st.booleans(), to=st.sampled_from(ENDPOINTS))
    def update(self, call, from_tag, to_tag, is_weak, to):
        reply = self.play.ask(f"U{'w' * is_weak} {call} {to.host} {to.port} {from_tag} {to_tag}")
        model, stream = self.find(call, from_tag, to_tag)
        if not self.took(reply):
            return
        if model is None:
            self.created += 1
            self.models[call].append(Model(from_tag, int(reply), is_weak, self.play.now))
            return
        model.is_strong |= not is_weak
        self.answered(model, stream, int(reply), is_weak)

    @rule(call=calls, from_tag=tags, to_tag=tags, is_weak=st.booleans(), to=st.sampled_from(ENDPOINTS))
    def lookup(self, call, from_tag, to_tag, is_weak, to):
        reply = self.play.ask(f"L{'w' * is_weak} {call} {to.host} {to.port} {from_tag} {to_tag}")
        model, stream = self.find(call, from_tag, to_tag)
        if model is None:
            assert reply == "0"
        elif self.took(reply):
            self.answered(model, 1 - stream, int(reply), is_weak)

    def answered(self, model, stream, port, is_weak):
        model.seen = self.play.now
        model.weak[stream] |= is_weak
        if model.ports[stream] is None:
            assert port not in [held for other in self.all for held in other.ports]
            model.ports[stream] = port
            model.timeout = IDLE_S
        assert model.ports[stream] == port

    @rule(call=calls, from_tag=tags, to_tag=tags, is_weak=st.booleans())
    def delete(self, call, from_tag, to_tag, is_weak):
        reply = self.play.ask(f"D{'w' * is_weak} {call} {from_tag} {to_tag}")
        is_found = False
        for model in list(self.models[call]):
            prefixes = (model.from_tag, model.from_tag.split(";")[0])
            if from_tag not in prefixes and to_tag not in prefixes:
                continue
            is_found = True
            if is_weak:
                model.weak[1 if from_tag in prefixes else 0] = False
            else:
                model.is_strong = False
            if not (model.is_strong or any(model.weak)):
                self.models[call].remove(model)
        assert reply == ("0" if is_found else "E50")

    @rule()
    def delete_all(self):
        self.play.command("X", "0")
        self.models = {"a": [], "b": []}

    @rule(port=st.integers(20000, 20016), source=st.sampled_from(ENDPOINTS), sequence=st.integers(0, 999))
    def packet(self, port, source, sequence):
        """One that is accepted renews the idle time, also if it cannot be sent on (protocol.md 4.6)."""
        call, model = next(
            ((call, model) for call, models in self.models.items() for model in models if port & ~1 in model.ports),
            (None, None),
        )
        is_complete = model is not None and None not in model.ports
        dropped = self.dropped(call, model)
        before, sent = self.play.service.totals().packets_discarded, len(self.play.media.sent)
        self.play.service.datagram(port, rtp(sequence), tuple(source), OUR_HOST, self.play.now)
        is_sent = len(self.play.media.sent) > sent
        assert is_sent is (self.play.service.totals().packets_discarded == before)
        is_accepted = is_sent or self.dropped(call, model) > dropped
        if is_accepted:
            assert is_complete
            model.seen = self.play.now
        if is_sent:
            # It leaves from the other leg's port of the same component.
            assert {port, self.play.last_sent.from_port} == {held + port % 2 for held in model.ports}

    def dropped(self, call, model):
        """Packets of a session that were accepted, but not sent on."""
        return 0 if model is None else self.play.counters(f"{call} {model.from_tag}")["ndropped"]

    @rule(port=st.integers(20000, 20016), packets=st.integers(1, 5))
    def forward(self, port, packets):
        if self.play.offload.entry(port) is None:
            return
        self.play.offload.forward(port, packets, self.play.now, ssrc=0x1234, sequence=packets)
        next(model for model in self.all if port & ~1 in model.ports).seen = self.play.now

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds):
        self.play.now += seconds
        self.play.tick()
        for call, models in self.models.items():
            self.models[call] = [model for model in models if self.play.now - model.seen < model.timeout]

    @invariant()
    def sessions_are_counted(self):
        totals = self.play.totals()
        assert (totals["active sessions"], totals["sessions created"]) == (len(self.all), self.created)

    @invariant()
    def ports_are_held_by_sessions_only(self):
        held = {port for model in self.all for port in model.ports if port is not None}
        assert self.play.ports.held == held
        assert self.play.media.open_ports == held
        assert self.play.service._packets._streams.keys() == {port + odd for port in held for odd in (0, 1)}

    @invariant()
    def only_complete_sessions_are_offloaded(self):
        complete = {
            port + odd for model in self.all if None not in model.ports for port in model.ports for odd in (0, 1)
        }
        assert self.play.offload.installed.keys() == complete

    @invariant()
    def time_left_is_known(self):
        for call, models in self.models.items():
            for model in models:
                left = math.ceil(model.timeout - (self.play.now - model.seen))
                assert self.play.counters(f"{call} {model.from_tag}")["ttl"] == left

    def teardown(self):
        self.play.command("X", "0")
        self.play.assert_nothing_is_left()


SessionsComeAndGo.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestSessionsComeAndGo = SessionsComeAndGo.TestCase


def test_packet_that_cannot_be_sent_on_renews_the_idle_time():
    """Both parties say that they are at one address: what comes from there is accepted, and not sent back."""
    state = SessionsComeAndGo()
    state.update(call="a", from_tag="f", to_tag="f", is_weak=False, to=CALLER)
    state.lookup(call="a", from_tag="f", to_tag="f", is_weak=False, to=CALLER)
    state.wait(seconds=1)
    state.packet(port=20000, source=CALLER, sequence=0)
    assert state.play.counters("a f")["ndropped"] == 1
    state.time_left_is_known()
    state.teardown()
