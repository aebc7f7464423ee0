"""Whatever bytes are in call-ids, tags and names, recordings are files in their directory, and nothing else is touched.

A command that is refused makes no file, and no command but those that record makes any.
"""

import os
import stat
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from rtpproxy.config import RecordFormat
from rtpproxy.recording.directories import UNFINISHED
from tests.hostile.mutations import Mutations
from tests.recording.running import RunningRecorder
from tests.scenario import Scenario

HOSTILE = (
    *(b"..", b".", b"../victim", b"../../victim", b"./victim", b"x/../../victim", b"/", b"//"),
    *(b".hidden", b"-rf", b"~", b"*", b"$(touch${IFS}victim)", b"`id`", b"|", b"x\x01\x1b[2J"),
    *(b"\xff\xfe", b"\xc0\xae", b"n" * 250, b"n" * 251, b"n" * 300),
    *(b"%2e%2e%2fvictim", b"..\\victim", b"link", b"directory", b"fifo"),
)
_BLANKS = b" \t\r\n\v\f\0"
WORDS = st.one_of(
    st.sampled_from(HOSTILE),
    st.binary(min_size=1, max_size=40).map(lambda data: bytes(byte for byte in data if byte not in _BLANKS) or b"x"),
)
SIDES = st.booleans()


class HostileNames(RuleBasedStateMachine):
    """Calls with hostile names, in a directory that has a file beside those of recordings."""

    calls = Bundle("calls")

    @initialize(kind=st.sampled_from(RecordFormat), with_spool=st.booleans())
    def start(self, kind, with_spool):
        self.outer = TemporaryDirectory()
        self.jail = Path(self.outer.name, "jail")
        self.jail.mkdir()
        self.victims = [self.jail / "victim", self.jail.parent / "victim"]
        for victim in self.victims:
            victim.write_bytes(b"precious")
        self.running = RunningRecorder(self.jail, kind, with_spool=with_spool)
        self.running.spool.mkdir(exist_ok=True)
        for place in (self.running.recordings, self.running.spool):
            for ending in (".rtp", ".rtcp", ""):
                (place / f"link{ending}").symlink_to(self.victims[0])
                os.mkfifo(place / f"fifo{ending}")
            (place / "directory.rtcp").mkdir()
        self.play = Scenario(pairs=500, recorder=self.running.recorder, now=time.monotonic())
        self.known = self.files()

    def teardown(self):
        if hasattr(self, "running"):
            self.running.close()
            self.nothing_else_is_touched()
            self.running.loop.close()
            self.outer.cleanup()

    @rule(target=calls, call=WORDS, from_tag=WORDS, to_tag=WORDS)
    def begin_call(self, call, from_tag, to_tag):
        replies = [
            self.ask(b"U %s 10.0.1.2 4000 %s" % (call, from_tag)),
            self.ask(b"L %s 10.0.2.2 5000 %s %s" % (call, from_tag, to_tag)),
        ]
        return (call, from_tag, to_tag) if all(reply[:1].isdigit() for reply in replies) else multiple()

    @rule(call=calls, is_reverse=SIDES, letters=st.sampled_from([b"R", b"Rs"]))
    def record(self, call, is_reverse, letters):
        self.ask(b"%s %s %s %s" % (letters, call[0], *tags(call, is_reverse)), may_record=True)

    @rule(call=calls, is_reverse=SIDES, name=WORDS, letters=st.sampled_from([b"C", b"Cs", b"CP"]))
    def record_as(self, call, is_reverse, name, letters):
        self.ask(b"%s %s %s %s %s" % (letters, call[0], name, *tags(call, is_reverse)), may_record=True)

    @rule(call=calls, is_reverse=SIDES, name=WORDS)
    def record_as_victim(self, call, is_reverse, name):
        path = os.fsencode(self.victims[0]) + name
        self.ask(b"C %s %s %s %s" % (call[0], path, *tags(call, is_reverse)))

    @rule(call=calls, is_reverse=SIDES, letters=st.sampled_from([b"N", b"Na"]))
    def stop(self, call, is_reverse, letters):
        self.ask(b"%s %s %s %s" % (letters, call[0], *tags(call, is_reverse)))

    @rule(call=consumes(calls))
    def end_call(self, call):
        self.ask(b"D %s %s" % call[:2])

    @rule(rng=st.randoms())
    def send_anything(self, rng):
        self.ask(Mutations(rng).next(), may_record=True)

    @invariant()
    def nothing_else_is_touched(self):
        if not hasattr(self, "running"):
            return
        self.running.run()
        assert [victim.read_bytes() for victim in self.victims] == [b"precious", b"precious"]
        assert set(os.listdir(self.jail)) == {"victim", "recordings"} | {self.running.spool.name} - {UNFINISHED}
        assert set(os.listdir(self.jail.parent)) == {"victim", "jail"}
        for place in (self.running.recordings, self.running.spool):
            for name in os.listdir(os.fsencode(place)):
                kind = os.lstat(os.path.join(os.fsencode(place), name)).st_mode
                is_planted = name.split(b".")[0] in (b"link", b"fifo", b"directory") or name == UNFINISHED.encode()
                assert is_planted or (stat.S_ISREG(kind) and not name.startswith(b".")), name

    def ask(self, text, *, may_record=False):
        self.play.now = max(self.play.now, time.monotonic())
        reply = self.play.answer(text)
        files = self.files()
        if reply[:1] == b"E" or not may_record:
            assert files <= self.known, (text, reply)
        self.known = files
        return reply

    def files(self):
        """Inodes of recordings. A file may just be moved out of the spool, which therefore comes first."""
        places = (self.running.spool, self.running.recordings)
        entries = [entry for place in places for entry in os.scandir(os.fsencode(place))]
        return {entry.inode() for entry in entries if entry.is_file(follow_symlinks=False)}


def tags(call, is_reverse):
    """From-tag and to-tag of a command about one side."""
    return call[:0:-1] if is_reverse else call[1:]


HostileNames.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestHostileNames = HostileNames.TestCase
