"""A collector for HEP that is not ours: the module of Debian's Kamailio by which Homer captures."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from tests.clients.kamailio import Kamailio
from tests.clients.sipp import SIP_PORT
from tests.netns import Host
from tests.waiting import DEADLINE_S, wait_for

_CONFIGURATION = Path(__file__).with_name("homer.cfg")
_LINE = re.compile(
    r"HEP (?P<version>\d+) (?P<family>\d+) (?P<protocol>\d+) \[(?P<source>.*?)\]:(?P<source_port>\d+) "
    r"\[(?P<to>.*?)\]:(?P<to_port>\d+) (?P<kind>\d+) (?P<capture_id>\d+) (?P<correlation>\S+) "
    r"(?P<seconds>\d+)\.(?P<micros>\d+) (?P<body>.*)"
)
PORT = SIP_PORT


class Captured(NamedTuple):
    """A packet, as Kamailio read it."""

    kinds: tuple[int, int, int, int]
    """Version; family, protocol and kind of payload."""
    source: tuple[str, int]
    to: tuple[str, int]
    time_us: int
    capture_id: int
    correlation: str
    body: dict[str, Any]


class Homer(Kamailio):
    """Takes HEP packets by UDP at port 5060."""

    def __init__(self, host: Host, directory: Path, ip: str) -> None:
        literal = f"[{ip}]" if ":" in ip else ip
        self._start(host, directory, ["-f", _CONFIGURATION, "-l", f"udp:{literal}:{PORT}"])

    def expect(self, count: int) -> list[Captured]:
        """So many packets, and no more, since the beginning."""
        found = wait_for(lambda: self._read(count), DEADLINE_S, f"{count} packets in Kamailio's log")
        assert len(found) == count
        return found

    def _read(self, count: int) -> list[Captured]:
        lines = [_LINE.search(line) for line in self.log.splitlines()]
        found = [_captured(line) for line in lines if line is not None]
        return found if len(found) >= count else []


def _captured(line: re.Match[str]) -> Captured:
    return Captured(
        (int(line["version"]), int(line["family"]), int(line["protocol"]), int(line["kind"])),
        (line["source"], int(line["source_port"])),
        (line["to"], int(line["to_port"])),
        int(line["seconds"]) * 1_000_000 + int(line["micros"]),
        int(line["capture_id"]),
        line["correlation"],
        json.loads(line["body"]),
    )
