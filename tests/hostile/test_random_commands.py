"""Random commands and time against the whole of the use cases; a simple model says what must result."""

import os
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.hostile.commands import Generator
from tests.hostile.played import WORLDS, Played

IS_QUICK = bool(os.environ.get("QUICK"))
"""`make check` sets it."""
EXAMPLES = 40 if IS_QUICK else 150
STEPS = 30_000 if IS_QUICK else 125_000
"""Four of five are commands."""
CHECK_EVERY = 4
SEED = int(os.environ.get("SEED", "1"))
"""`SEED=` repeats a failed run."""


class SessionsAtRandom(RuleBasedStateMachine):
    """Short runs, which can be cut down to the few steps that matter."""

    @initialize(rng=st.randoms(), name=st.sampled_from(sorted(WORLDS)), flags=st.tuples(st.booleans(), st.booleans()))
    def start(self, rng, name, flags):
        self.played = Played(rng, name, is_independent=flags[0], has_notify=flags[1])

    @rule(rng=st.randoms(), kind=st.sampled_from(["update", "lookup", "delete", "query", "next"]))
    def command(self, rng, kind):
        self.played.command(getattr(Generator(rng, self.played.world), kind)())

    @rule(rng=st.randoms(), what=st.sampled_from(["packet", "forward", "occupy"]))
    def happen(self, rng, what):
        self.played.rng = rng
        getattr(self.played, what)()

    @rule(seconds=st.integers(0, 12))
    def wait(self, seconds):
        self.played.wait(seconds)

    @invariant()
    def nothing_but_sessions_holds_anything(self):
        if hasattr(self, "played"):
            self.played.check()


TestSessionsAtRandom = SessionsAtRandom.TestCase
TestSessionsAtRandom.settings = settings(max_examples=EXAMPLES, stateful_step_count=50)


@pytest.mark.seeded
@pytest.mark.parametrize("is_independent", [False, True], ids=["unified", "independent"])
@pytest.mark.parametrize("name", sorted(WORLDS))
def test_many_random_commands(name, is_independent):
    played = Played(Random(f"{SEED} {name}"), name, is_independent=is_independent)
    try:
        for number in range(STEPS // 6):
            played.step()
            if not number % CHECK_EVERY:
                played.check()
                del played.history[:-60]
        played.check()
        played.play.command("X", "0")
        played.play.assert_nothing_is_left()
    except Exception as error:
        last = "\n".join(played.history[-60:])
        raise AssertionError(f"{error!r} with SEED={SEED} after\n{last}") from error
