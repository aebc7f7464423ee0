"""The installed daemon as a process, and phones as sockets, for end-to-end tests."""

import contextlib
import ctypes
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.activation import activating, descriptors
from tests.netns import Host
from tests.waiting import DEADLINE_S, wait_for

START_DEADLINE_S = 3 * DEADLINE_S
"""Longer than compiling and loading the BPF programs takes on a busy machine."""
PROGRAM = str(Path(sys.executable).parent / "rtpproxy")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def own_namespace() -> Iterator[None]:
    """A network namespace with nothing but loopback for the main thread, and for what it starts; root only.

    It has no name, so it goes with the last process that is in it.
    """
    with open("/proc/self/ns/net") as before:
        _check(_libc.unshare(_CLONE_NEWNET))
        try:
            subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
            yield
        finally:
            _check(_libc.setns(before.fileno(), _CLONE_NEWNET))  # os.setns comes with Python 3.12


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class RunningRelay:
    """A relay in a namespace (or on this host), with its control socket and log in a directory of the test."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        host: Host | None = None,
        name: str = "rtpproxy",
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        program: str = PROGRAM,
        passed: Sequence[socket.socket] = (),
        drops_old: bool = False,
    ) -> None:
        """`prefix` is a command that runs `program`, such as setpriv(1); `environment` is added to this process's.

        `passed` are sockets for each start to get as from a service manager; an option must ask for them. It relays
        packets however late, as a busy machine makes them, unless `drops_old`: then as it does by default.
        """
        self.socket_path = directory / f"{name}.sock"
        self.log_path = directory / f"{name}.log"
        self.pid_path = directory / f"{name}.pid"
        self.host = host
        self._directory = directory
        self._environment = {**os.environ, **(environment or {})}
        self._passed = passed
        self._arguments = [
            *prefix,
            *(activating(passed) if passed else ()),
            *(program, "-f", "-d", "INFO", "-s", f"unix:{self.socket_path}", "-p", str(self.pid_path)),
            *(() if drops_old else ("--max-wait", "0")),
            *options,
        ]
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "RunningRelay":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for leftover in (self.socket_path, self.pid_path):
            leftover.unlink(missing_ok=True)

    def start(self) -> None:
        """Start, or start again, and wait until it says that it serves: in the log, or by its pid file."""
        with self.log_path.open("ab") as log:
            before = self.log_path.stat().st_size
            popen = subprocess.Popen if self.host is None else self.host.popen
            # A signal that kills it may leave a core where it runs.
            self._process = popen(
                self._arguments,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._directory,
                pass_fds=descriptors(self._passed),
            )
        process = self._process

        def is_over() -> bool:
            has_said = b"rtpproxy started" in self.log_path.read_bytes()[before:]
            is_written = self.pid_path.is_file() and self.pid_path.read_text() == f"{process.pid}\n"
            return has_said or is_written or process.poll() is not None

        wait_for(is_over, START_DEADLINE_S, "the relay to start")
        assert process.poll() is None, self.log

    @property
    def process(self) -> subprocess.Popen:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        """Everything logged so far."""
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        """End it by SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        """End it so that it cannot clean up."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def ask(self, command: str) -> str:
        """One command over the control socket; the reply without its line feed."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(str(self.socket_path))
            client.sendall(command.encode())
            reply = b""
            while part := client.recv(4096):
                reply += part
        return reply.decode().removesuffix("\n")

    def port(self, command: str) -> int:
        """One `U` or `L`; the port it is answered with."""
        reply = self.ask(command)
        assert re.fullmatch(r"\d+( [0-9a-f.:]+( 6)?)?", reply), f"{command} -> {reply}"
        return int(reply.split()[0])

    def counters(self, call: str) -> dict[str, int]:
        """`Q` of a session, by name."""
        pairs = (pair.split("=") for pair in self.ask(f"Qv {call}").split())
        return {name: int(value) for name, value in pairs}

    def totals(self) -> dict[str, int]:
        """`I`, by name."""
        lines = (line.split(": ") for line in self.ask("I").splitlines())
        return {name: int(value) for name, value in lines}

    def forwarded(self) -> int:
        """Frames that the kernel forwarded, as the relay's last report says; ask after `stop`."""
        found = re.findall(r"forwarded (\d+)", self.log)
        return int(found[-1]) if found else 0


def rtp(sequence: int, *, ssrc: int = 0x1234, payload: bytes = b"\xd5" * 160, marker: bool = False) -> bytes:
    """An RTP packet, PCMU, 20 ms a packet."""
    head = bytes((0x80, 0x80 if marker else 0))
    return head + (sequence % 65536).to_bytes(2) + (sequence * 160 % 2**32).to_bytes(4) + ssrc.to_bytes(4) + payload


def muxed_rtcp(sequence: int, *, ssrc: int = 0x1234, kind: int = 200) -> bytes:
    """RTCP on an RTP port that, but for its second byte, would be the RTP packet of that number."""
    packet = rtp(sequence, ssrc=ssrc, payload=bytes(16))
    return packet[:1] + bytes((kind,)) + packet[2:]


def expect_refusal(asker: socket.socket) -> None:
    """Check that nobody has the port that `asker` is connected to: the kernel answers with ICMP.

    It is asked again each second: a queue of the kernel that packets of other tests fill drops question or answer.
    """
    asker.settimeout(1)
    wait_for(lambda: _is_refused(asker), DEADLINE_S, "a refusal")


def _is_refused(asker: socket.socket) -> bool:
    try:
        asker.send(b"anybody?")
        return not asker.recv(100)
    except TimeoutError:
        return False
    except ConnectionRefusedError:
        return True


class PhoneSocket:
    """One port of a phone."""

    def __init__(self, host: Host, ip: str, port: int) -> None:
        self.is_ipv6 = ":" in ip
        self._socket = host.socket(socket.AF_INET6 if self.is_ipv6 else socket.AF_INET)
        self._socket.bind((ip, port))
        self._socket.setblocking(False)
        self.address = ip, port

    def __enter__(self) -> "PhoneSocket":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        """Send one datagram. A full socket is waited for: while a next hop is looked for, packets queue up in it."""
        while True:
            try:
                self._socket.sendto(data, to)
            except BlockingIOError:
                if not select.select([], [self._socket], [], DEADLINE_S)[1]:
                    raise
            else:
                return

    def take(self) -> list[tuple[bytes, tuple[str, int]]]:
        """The datagrams that have arrived, with their sources; does not wait."""
        arrived = []
        while True:
            try:
                data, source = self._socket.recvfrom(65535)
                arrived.append((data, source[:2]))
            except BlockingIOError:
                return arrived

    def expect(self, count: int = 1, deadline_s: float = DEADLINE_S) -> list[tuple[bytes, tuple[str, int]]]:
        """Wait for so many datagrams; all that arrived by then."""
        arrived: list[tuple[bytes, tuple[str, int]]] = []

        def collect() -> bool:
            arrived.extend(self.take())
            return len(arrived) >= count

        wait_for(collect, deadline_s, f"{count} datagrams at {self.address}")
        return arrived
