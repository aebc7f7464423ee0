"""Debian's Kamailio as a process of its own, and the commands that its rtpproxy module sends over UDP.

kamailio.cfg is the configuration; what differs from test to test comes from the command line. It needs no other file
and leaves none: its runtime directory is the test's.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients.sipp import SIP_PORT, is_bound
from tests.netns import Host
from tests.waiting import DEADLINE_S, wait_for

_CONFIGURATION = Path(__file__).with_name("kamailio.cfg")
_EVIDENCE_BYTES = 6000
_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 16 << 20
_UDP_HEADER_BYTES = 8
USUAL_FLAGS = "cor"
"""Of rtpproxy_manage(): the address in the SDP is the phone's (r); change every c= (c) and o= (o)."""


class Kamailio:
    """A proxy in a namespace, at port 5060 of its addresses."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        *,
        ips: Iterable[str],
        relays: Iterable[str],
        callee: str,
        offer: Sequence[str] = (USUAL_FLAGS,),
        answer: Sequence[str] = (USUAL_FLAGS,),
        music: str = "/nowhere/music",
        patience_s: int | None = round(DEADLINE_S),
    ) -> None:
        """`relays` as rtpproxy_sock names them, one set; `callee` is the host that every call goes to.

        `music` is a prompt for those on hold. `offer` and `answer` are what rtpproxy_manage() is given: flags, and
        where the relay does not say at which address it is, the address to tell. A relay that answers nothing in
        `patience_s` is asked again; with None, the parameters of the rtpproxy module are its defaults.
        """
        values = {
            "RELAYS": [" ".join(relays)],
            "CALLEE": [f"sip:{callee}:{SIP_PORT}"],
            "OFFER": offer,
            "ANSWER": answer,
            "MUSIC": [music],
        }
        arguments = [
            *("-f", _CONFIGURATION),
            *(part for ip in ips for part in ("-l", f"udp:{ip}:{SIP_PORT}")),
            *(part for name, texts in values.items() for part in ("-A", f"{name}={_quoted(texts)}")),
            *(("-A", f"PATIENCE={patience_s}") if patience_s is not None else ()),
        ]
        self._start(host, directory, arguments)

    def _start(self, host: Host, directory: Path, arguments: Sequence[str | Path]) -> None:
        """Start it and wait until it listens; the directory is its own and gets its log."""
        self._path = directory / "kamailio.log"
        command = ["kamailio", "-DD", "-E", "-m", "64", "-M", "8", "-Y", directory, "-w", directory, *arguments]
        with self._path.open("wb") as log:
            self.process: subprocess.Popen = host.popen(command, stdout=log, stderr=log)
        wait_for(lambda: self._has_ended or is_bound(self.process, SIP_PORT), DEADLINE_S, "Kamailio to listen")
        assert not self._has_ended, self.log

    def __enter__(self) -> "Kamailio":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its children too
            self.process.wait()

    @property
    def log(self) -> str:
        return self._path.read_text(errors="replace")

    @property
    def complaints(self) -> list[str]:
        """Errors and warnings about relays and media."""
        return [
            line for line in self.log.splitlines() if re.search(r"(ERROR|WARNING|CRITICAL).*(rtpproxy|media)", line)
        ]

    def evidence(self) -> str:
        return self.log[-_EVIDENCE_BYTES:]

    @property
    def _has_ended(self) -> bool:
        return self.process.poll() is not None


def _quoted(texts: Iterable[str]) -> str:
    return ", ".join(f'"{text}"' for text in texts)


@dataclass
class Exchange:
    """One cookie: the command, how many times it was sent, and the replies."""

    command: str
    times_sent: int = 0
    replies: list[str] = field(default_factory=list)


class ControlTap:
    """Commands and replies that pass a UDP control socket over a host's loopback, as they pass."""

    def __init__(self, host: Host, port: int) -> None:
        self._port = port
        self._exchanges: dict[str, Exchange] = {}
        # Of all protocols: only then does the kernel hand packets here before it hands them to the relay, which may
        # be so fast that its reply would come here first.
        self._socket = host.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self._socket.bind(("lo", _ETH_P_ALL))
        self._socket.setblocking(False)

    def __enter__(self) -> "ControlTap":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def exchanges(self) -> list[Exchange]:
        """Everything so far, oldest first."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, (_, protocol, kind, *_) = self._socket.recvfrom(65535)
                is_arriving = kind != socket.PACKET_OUTGOING  # over loopback each packet is seen leaving and arriving
                if protocol == _ETH_P_IP and is_arriving:
                    self._note(packet)
        return list(self._exchanges.values())

    def commands(self, call_id: str) -> list[str]:
        """Those about a call."""
        return [exchange.command for exchange in self.exchanges() if f" {call_id} " in exchange.command]

    def evidence(self) -> str:
        return "\n".join(f"{seen.command!r} x{seen.times_sent} -> {seen.replies}" for seen in self.exchanges()[-40:])

    def _note(self, packet: bytes) -> None:
        start = (packet[0] & 0x0F) * 4
        source, destination = int.from_bytes(packet[start : start + 2]), int.from_bytes(packet[start + 2 : start + 4])
        if packet[9] != socket.IPPROTO_UDP or self._port not in (source, destination):
            return
        cookie, _, text = packet[start + _UDP_HEADER_BYTES :].decode().partition(" ")
        if destination == self._port:
            self._exchanges.setdefault(cookie, Exchange(text)).times_sent += 1
        else:
            self._exchanges[cookie].replies.append(text)
