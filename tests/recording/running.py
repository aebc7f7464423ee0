"""A recorder or copier with its process, in an event loop that runs while a test waits."""

import asyncio
import time

import uvloop

from rtpproxy.config import Config, RecordFormat
from rtpproxy.recording.arrivals import when_read
from rtpproxy.recording.carrier import Carrier
from rtpproxy.recording.directories import UNFINISHED, Directories
from rtpproxy.recording.recorder import Recorder
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.session import Role
from tests.fakes import make_session
from tests.waiting import DEADLINE_S, wait_for

OUR_HOST = "192.0.2.1"


class RunningProcess:
    """The process, for recordings in some directories or for copies alone."""

    def __init__(self, directories, arrived_ns=when_read):
        self.loop = uvloop.new_event_loop()
        self.carrier = Carrier(self.loop, directories, time.monotonic, None, arrived_ns)
        self._is_closed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self.loop.close()

    def close(self):
        if not self._is_closed:
            self._is_closed = True
            self.carrier.close(time.monotonic())

    @property
    def pid(self):
        """The process that writes and sends."""
        return self.process.pid

    @property
    def process(self):
        """None while it is not running."""
        return self.carrier._supervisor.process

    def run(self, seconds=0.0):
        """Let the loop do what is due."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def wait_for(self, condition, what):
        """Run the loop until something is true."""

        def look():
            self.run(0.001)
            return condition()

        return wait_for(look, DEADLINE_S, what)

    def wait_until_all_ended(self):
        """Run the loop until the process has done everything that was stopped."""
        self.wait_for(lambda: not self.carrier._groups, "everything to end")


class RunningRecorder(RunningProcess):
    """Records into `DIRECTORY/recordings`, by a spool in there or, if asked to, in `DIRECTORY/spool`."""

    def __init__(self, directory, kind=RecordFormat.ADHOC, *, with_spool=False, arrived_ns=when_read, **config):
        self.recordings = directory / "recordings"
        self.recordings.mkdir(exist_ok=True)
        self.spool = directory / "spool" if with_spool else self.recordings / UNFINISHED
        if with_spool:
            self.spool.mkdir(exist_ok=True)
        spool = str(self.spool) if with_spool else ""
        self.directories = Directories(str(self.recordings), spool)
        super().__init__(self.directories, arrived_ns)
        config = Config(record_directory=str(self.recordings), spool_directory=spool, record_format=kind, **config)
        self.recorder = Recorder(config, self.directories, self.carrier)
        self.ended = []

    def close(self):
        super().close()
        self.directories.close()

    def record(self, session, role=Role.CALLER, name=None, *, is_single=False, meanwhile=lambda: None):
        """Begin as the service does; `meanwhile` happens while the files are being made."""
        side = self.recorder.record(
            *(session, role, name),
            is_single=is_single,
            on_end=lambda at: self.end(side, at),
            absorb=lambda at: None,
        )
        meanwhile()
        side.begin()
        return side

    def end(self, side, at):
        """What the service does when a recording ends by itself."""
        self.ended.append(side)
        side.stop(at)

    def send(self, side, *payloads, component=0, source=("192.0.2.9", 4000), now=None):
        """Packets arrive, at once unless a time is given."""
        for data in payloads:
            side.streams[component].packet(data, source, OUR_HOST, time.monotonic() if now is None else now)

    def content(self, name):
        return (self.recordings / name).read_bytes()

    def names(self):
        """Of recordings that are complete."""
        return sorted(path.name for path in self.recordings.iterdir() if path != self.spool)

    def unfinished(self):
        """Names of recordings that go on."""
        return sorted(path.name for path in self.spool.iterdir())


def session_with_ports(call_id=b"call", from_tag=b"f;1", *, is_ipv6=False):
    """A session whose legs have the ports 20000 and 20002."""
    session = make_session(call_id, from_tag)
    local = LocalAddress(0, "2001:db8::1" if is_ipv6 else OUR_HOST, is_ipv6)
    for leg, port in ((session.callee, 20000), (session.caller, 20002)):
        for stream in leg.streams:
            stream.settle(local, port + stream.component, 0.0)
    return session
