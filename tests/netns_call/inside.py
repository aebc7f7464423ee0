"""A relay in a process of its own that does what it is told, also what no command of the protocol does yet: teeing."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rtpproxy.config import NOTES_DIRECTORY, Config, OffloadMode
from rtpproxy.control.server import ControlServer
from rtpproxy.instance.build import Clocks, Parts, build
from rtpproxy.instance.start import start
from rtpproxy.instance.stop import Stop
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
from rtpproxy.offload.tee import OpenRing
from rtpproxy.session.session import Session, Stream, Teeing
from tests.fakes import FakeRecordedStream
from tests.netns import Host
from tests.running import START_DEADLINE_S
from tests.waiting import DEADLINE_S, wait_for

_READY = "ready to be told"


class InsideRelay:
    """The process, seen from the test. Has what of `running.RunningRelay` is needed by `call.Call`."""

    def __init__(self, process: subprocess.Popen, log_path: Path, files: socket.socket) -> None:
        self._process = process
        self._log_path = log_path
        self._files = files

    @property
    def log(self) -> str:
        """Everything logged so far."""
        return self._log_path.read_text(errors="replace")

    def ask(self, command: str) -> str:
        """One command of the protocol; the reply without its line feed."""
        return str(self._tell("ask", command))

    def port(self, command: str) -> int:
        """One `U` or `L`; the port it is answered with."""
        reply = self.ask(command)
        assert re.fullmatch(r"\d+( \S+)?", reply), f"{command} -> {reply}"
        return int(reply.split()[0])

    def forwarded(self) -> int:
        """Frames that the kernel forwarded up to now."""
        return int(self._tell("forwarded"))

    def tee(self, port: int, number: int) -> None:
        """Let the kernel tee what it forwards from a port, from the return on; 0: no longer."""
        self._tell("tee", port, number)

    def replan(self, port: int) -> None:
        """Make the plan of the session again that has a port."""
        self._tell("replan", port)

    def missed(self, port: int) -> int:
        """Packets of the stream that has a port which could not be teed, as far as they are absorbed."""
        return int(self._tell("missed", port))

    def open_ring(self) -> OpenRing:
        """The tee's ring, made unless it is there; the descriptor is the caller's."""
        numbers = self._tell("open_ring")
        _, (fd,), _, _ = socket.recv_fds(self._files, 1, 1)
        return OpenRing(fd, *numbers[1:])

    def _tell(self, *words: object) -> Any:
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.log
        return json.loads(line)


@contextlib.contextmanager
def inside_relay(host: Host, directory: Path, mode: OffloadMode) -> Iterator[InsideRelay]:
    """Serve in a namespace while the body runs."""
    log_path = directory / "inside.log"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, log_path.open("wb") as log:
        with theirs:
            process = host.popen(
                [sys.executable, "-m", "tests.netns_call.inside", mode.value, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=[theirs.fileno()],
            )
        relay = InsideRelay(process, log_path, ours)
        wait_for(lambda: _READY in relay.log or process.poll() is not None, START_DEADLINE_S, "the relay to serve")
        assert process.poll() is None, relay.log
        yield relay
        process.stdin.close()
        assert process.wait(DEADLINE_S) == 0, relay.log


class _Inside:
    """What the process does; one method for each word."""

    def __init__(self, parts: Parts, files: socket.socket) -> None:
        self._parts = parts
        self._files = files

    def ask(self, command: str) -> str:
        return self._parts.dispatcher.execute(command.encode(), time.monotonic()).decode().removesuffix("\n")

    def forwarded(self) -> int:
        return self._parts.kernel.counters.total_forwarded()

    def tee(self, port: int, number: int) -> None:
        stream = self._find(port)[1]
        stream.witnesses = (FakeRecordedStream(stream, is_teed=True),) if number else ()
        stream.teeing = Teeing(number)
        self.replan(port)

    def replan(self, port: int) -> None:
        self._parts.service._offloading.replan(self._find(port)[0], time.monotonic())

    def missed(self, port: int) -> int:
        return self._find(port)[1].tee_missed_packets

    def open_ring(self) -> OpenRing:
        assert self._parts.ports.programs is not None
        opened = self._parts.ports.programs.tee.open()
        socket.send_fds(self._files, [b"."], [opened.fd])
        return opened

    def _find(self, port: int) -> tuple[Session, Stream]:
        found = [
            (session, stream)
            for session in self._parts.service._table
            for stream in session.streams
            if stream.local_port == port
        ]
        (one,) = found
        return one


async def _serve(mode: OffloadMode, files: socket.socket) -> None:
    clocks = Clocks(time.monotonic, time.time, time.time_ns, time.thread_time)
    config = Config(control=(), offload=mode, max_wait_ms=0, tee_memory_mb=1)
    stop, is_over = Stop(lambda number: None), asyncio.Event()
    with contextlib.ExitStack() as stack:
        notes = Notes([NOTES_DIRECTORY], here)
        stack.callback(notes.close)
        server = ControlServer((), time.monotonic)
        stack.callback(server.close)
        parts = build(config, clocks, notes, server, stack)
        start(parts, stop, stack)
        inside = _Inside(parts, files)

        def on_line() -> None:
            line = sys.stdin.buffer.raw.readline()
            if not line:
                is_over.set()
                return
            word, *arguments = json.loads(line)
            print(json.dumps(getattr(inside, word)(*arguments)), flush=True)

        asyncio.get_running_loop().add_reader(0, on_line)
        logging.getLogger("rtpproxy").info(_READY)
        await is_over.wait()
        asyncio.get_running_loop().remove_reader(0)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with socket.socket(fileno=int(sys.argv[2])) as files:
        asyncio.run(_serve(OffloadMode(sys.argv[1]), files))


if __name__ == "__main__":
    main()
