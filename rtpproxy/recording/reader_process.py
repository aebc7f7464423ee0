"""The relay's end of the process that writes recordings (`reader`): starts it, talks to it, sees it die."""

import logging
import socket
import subprocess
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable, Sequence
from pathlib import Path

from rtpproxy.buffers import force_receive_buffer, force_send_buffer
from rtpproxy.recording.messages import ROOM_BYTES, ToReader, ToRelay, decode, encode
from rtpproxy.recording.outbox import Outbox

log = logging.getLogger(__name__)

_BUFFER_BYTES = 4 << 20
_DEATH_S = 1.0
"""Time that the process may take to end once its socket is closed."""
_BATCH = 64
"""Messages of the process that are read before others get their turn."""
_REAP_S = 0.02
"""Time between two looks whether it has ended."""
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from rtpproxy.recording.reader import main; main()"
_ROOT = str(Path(__file__).resolve().parent.parent.parent)
"""The directory that our package is in: the process must run this version, wherever it is."""


class ReaderProcess:
    """One run of the process. All calls from the loop's thread."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        on_message: Callable[[ToRelay], None],
        on_death: Callable[[str], None],
    ) -> None:
        """Start it, which takes a millisecond; it reads what it is sent somewhat later. Raises OSError.

        `on_death` is called with how it ended, in words, unless it was asked to.
        """
        self._loop = loop
        self._on_message = on_message
        self._on_death = on_death
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._socket.setblocking(False)
            for force in (force_send_buffer, force_receive_buffer):
                force(self._socket, _BUFFER_BYTES)
            command = [sys.executable, "-I", "-c", _PROGRAM, _ROOT]
            # The process closes what it inherits: here, with thousands of descriptors, that would take long.
            self._process = subprocess.Popen(command, stdin=theirs.fileno(), close_fds=False)
        except OSError:
            self._socket.close()
            raise
        finally:
            theirs.close()
        self._outbox = Outbox(loop, self._socket)
        # Bound here: this saves a call for each packet.
        self.add_packet = self._outbox.add_packet
        loop.add_reader(self._socket, self._on_readable)

    @property
    def pid(self) -> int:
        """Its process ID."""
        return self._process.pid

    @property
    def has_room(self) -> bool:
        """True if packets may be added."""
        return self._outbox.has_room

    def send(self, message: ToReader, descriptors: Sequence[int] = ()) -> None:
        """Send a message after all packets so far. Its descriptors are closed once they are sent."""
        self._outbox.send(encode(message), descriptors)

    def close(self, wait_s: float) -> bool:
        """Let it finish all files and end. False if it is still at it after this time: it ends by itself then."""
        self._loop.remove_reader(self._socket)
        left_bytes = self._outbox.drain(wait_s)
        if left_bytes:
            log.error("recordings: %.1f MB of packets were not taken in time, and are lost", left_bytes / 1e6)
            wait_s = 0.0
            self._socket.settimeout(wait_s)
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while data := self._socket.recv(ROOM_BYTES):
                self._on_message(decode(data))  # type: ignore[arg-type]
            self._process.wait(wait_s)
        except (TimeoutError, BlockingIOError, subprocess.TimeoutExpired):
            return False
        except OSError as error:
            log.debug("the process that writes recordings: %s", error.strerror)
        finally:
            self._socket.close()
        return True

    def _hang_up(self) -> None:
        self._loop.remove_reader(self._socket)
        self._outbox.close()
        self._socket.close()

    def _on_readable(self) -> None:
        for _ in range(_BATCH):
            try:
                data = self._socket.recv(ROOM_BYTES)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._die()
                return
            message = decode(data)
            self._on_message(message)  # type: ignore[arg-type]

    def _die(self) -> None:
        self._hang_up()
        self._reap(self._loop.time() + _DEATH_S)

    def _reap(self, until: float) -> None:
        """Tell of the end of the process. It has closed its socket, which only its end does."""
        status = self._process.poll()
        if status is not None:
            self._on_death(f"killed by signal {-status}" if status < 0 else f"ended with status {status}")
            return
        if self._loop.time() >= until:
            self._process.kill()
        self._loop.call_later(_REAP_S, self._reap, until)
