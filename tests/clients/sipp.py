"""SIPp as a phone's signalling, in the phone's namespace. Its media is the test's: sockets of the phone.

A scenario (scenarios/*.xml) says what a user agent sends and expects. Its exit status says whether every call went that
way; its message trace, what it was told. `Caller` goes through its scenario step by step, as the test says: SIPp calls
such a connection its 3PCC twin, whose messages end with an escape character.
"""

import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.netns import Phone
from tests.waiting import DEADLINE_S, wait_for

_SCENARIOS = Path(__file__).with_name("scenarios")
SIP_PORT = 5060
MEDIA_PORT = 5000
"""That the SDPs of scenarios name; the caller's offers name what the test says."""
_TWIN_PORT = 6060
_TWIN_END = b"\x1b"
_EVIDENCE_BYTES = 6000
_MESSAGE = re.compile(r"^-{40,} .*\n(?:UDP message (sent|received) .*:\n\n)?", re.MULTILINE)


@dataclass(frozen=True)
class Media:
    """The address, port and direction of an SDP's only media line."""

    host: str
    port: int
    direction: str = "sendrecv"

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port

    def sdp(self) -> str:
        """As an SDP says it."""
        net = f"IP{6 if ':' in self.host else 4}"
        lines = (
            "v=0",
            f"o=caller 1 1 IN {net} {self.host}",
            "s=-",
            f"c=IN {net} {self.host}",
            "t=0 0",
            f"m=audio {self.port} RTP/AVP 0",
            "a=rtpmap:0 PCMU/8000",
            f"a={self.direction}",
        )
        return "".join(f"{line}\r\n" for line in lines)


def media_of(text: str) -> Media:
    """The media in a message's SDP, which must have no connection line of its own."""
    (host,) = re.findall(r"^c=IN IP[46] (\S+)", text, re.MULTILINE)
    (port,) = re.findall(r"^m=audio (\d+) ", text, re.MULTILINE)
    directions = re.findall(r"^a=(sendrecv|sendonly|recvonly|inactive)", text, re.MULTILINE)
    return Media(host, int(port), *directions)


class UserAgent:
    """A SIPp process at port 5060 of the phone, which handles so many calls and then ends."""

    def __init__(
        self,
        phone: Phone,
        directory: Path,
        scenario: str,
        *options: str,
        proxy: str = "",
        ip: str = "",
        calls: int = 1,
        status: str = "",
    ) -> None:
        """`proxy`, as host:port, is for who calls; `ip` is the phone's IPv4 address unless said otherwise.

        `status` is that of the scenario "refusing", as in a status line.
        """
        self.phone = phone
        self._directory = directory
        self._process: subprocess.Popen | None = None
        stem = f"{phone.name}-{scenario}"
        self._paths = {name: directory / f"{stem}.{name}" for name in ("messages", "errors", "screen")}
        self._filled = directory / f"{stem}.xml"
        text = (_SCENARIOS / f"{scenario}.xml").read_text()
        self._text_filled = text.replace("[rtp_port]", str(MEDIA_PORT)).replace("[status]", status)
        ip = ip or phone.ip
        self._arguments = [
            *("sipp", *([proxy] if proxy else []), "-sf", self._filled, "-m", calls),
            *("-i", ip, "-p", SIP_PORT, "-mi", ip, "-nostdin"),
            *("-trace_msg", "-message_file", self._paths["messages"]),
            *("-trace_err", "-error_file", self._paths["errors"]),
            *options,
        ]

    def __enter__(self) -> "UserAgent":
        """Start, and wait until it listens."""
        self._filled.write_text(self._text_filled)
        with self._paths["screen"].open("wb") as screen:
            self._process = self.phone.popen(self._arguments, stdout=screen, stderr=screen, cwd=self._directory)
        wait_for(lambda: self.has_ended or is_bound(self.process, SIP_PORT), DEADLINE_S, "SIPp to listen")
        assert self.process.poll() in (None, 0), self.evidence()  # a short call may be over by now
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def process(self) -> subprocess.Popen:
        assert self._process is not None
        return self._process

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def received(self) -> list[str]:
        """The SIP messages that arrived, oldest first, retransmissions included."""
        messages = _MESSAGE.split(self._text("messages"))
        ways, bodies = messages[1::2], messages[2::2]
        return [body for way, body in zip(ways, bodies, strict=True) if way == "received"]

    @property
    def offers(self) -> list[Media]:
        """The media of the INVITEs that arrived."""
        return [media_of(message) for message in self.received if message.startswith("INVITE ")]

    @property
    def answers(self) -> list[Media]:
        """The media of the final responses that arrived."""
        return [media_of(message) for message in self.received if re.match(r"SIP/2\.0 200 (.*\n)*m=audio ", message)]

    @property
    def statuses(self) -> list[int]:
        """Of the final responses that arrived."""
        return [int(status) for message in self.received for status in re.findall(r"\ASIP/2\.0 ([2-6]\d\d)", message)]

    def wait(self, deadline_s: float = DEADLINE_S) -> None:
        """Wait until all calls are over; AssertionError unless each went as the scenario says."""
        wait_for(lambda: self.has_ended, deadline_s, f"the calls of {self.phone.name} to end")
        assert self.process.returncode == 0, f"SIPp of {self.phone.name}: status {self.process.returncode}"

    def evidence(self) -> str:
        """The ends of what SIPp wrote."""
        return "\n".join(self._text(name)[-_EVIDENCE_BYTES:] for name in self._paths)

    def _text(self, name: str) -> str:
        path = self._paths[name]
        return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""


class Caller(UserAgent):
    """One call, which goes on when the test says so."""

    def __init__(self, phone: Phone, directory: Path, proxy: str, call_id: str) -> None:
        super().__init__(phone, directory, "caller", "-3pcc", f"{phone.ip}:{_TWIN_PORT}", proxy=proxy)
        self._head = f"Call-ID: {call_id}\r\n"
        self._twin = phone.socket(kind=socket.SOCK_STREAM)
        self._twin.settimeout(DEADLINE_S)

    def __enter__(self) -> "Caller":
        super().__enter__()
        wait_for(self._connect, DEADLINE_S, "SIPp to take commands")
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._twin.close()

    def offer(self, media: Media) -> Media:
        """Send an INVITE, the first or another within the call; what the answer says."""
        self._command("offer", media.sdp())
        answer = b""
        while not answer.endswith(_TWIN_END):
            part = self._twin.recv(4096)
            assert part, f"SIPp of {self.phone.name} gave the call up"
            answer += part
        return media_of(answer.decode().replace("\r", ""))

    def hang_up(self) -> None:
        """Send BYE and wait until the call is over."""
        self._command("bye", "")
        self.wait()

    def _connect(self) -> bool:
        assert not self.has_ended, f"SIPp of {self.phone.name} does not start"
        return self._twin.connect_ex((self.phone.ip, _TWIN_PORT)) == 0

    def _command(self, step: str, sdp: str) -> None:
        self._twin.sendall(f"{self._head}Step: {step}\r\n\r\n{sdp}".encode() + _TWIN_END)


def is_bound(process: subprocess.Popen, port: int) -> bool:
    """Tell whether a UDP port is bound, over IPv4 or IPv6, in the namespace of the process."""
    tables = (Path(f"/proc/{process.pid}/net/{name}") for name in ("udp", "udp6"))
    try:
        return any(f":{port:04X} " in table.read_text() for table in tables)
    except OSError:  # it has just ended
        return False
