"""Sends reports of RTCP to Homer, in the process that writes, sends and watches (protocol.md 13.2).

Each session has a handler of its own, which knows its call-id; all of them share one connection to each collector.
"""

import struct
from typing import NamedTuple

from rtpproxy.recording.collector import Collector
from rtpproxy.recording.hep import HepPacker, correlate
from rtpproxy.recording.messages import Collected, Reports
from rtpproxy.recording.packet import Packet
from rtpproxy.recording.rtcp_json import bodies
from rtpproxy.rtp.rtcp import read_rtcp

KIND = "hep"
"""Name of taps that are for this (`handlers`)."""
NEWS_NS = 1_000_000_000
"""Time after which the relay is told what was sent and lost."""
_SETTINGS = struct.Struct("=?HIH")


class Agent(NamedTuple):
    """To whom reports go, and as whose."""

    host: str
    """An address or a name."""
    port: int
    is_tcp: bool
    capture_id: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tcp' if self.is_tcp else 'udp'}:{host}:{self.port}"


def encode_settings(agent: Agent, call_id: bytes) -> bytes:
    """Write the settings of the tap of a session."""
    host = agent.host.encode()
    return _SETTINGS.pack(agent.is_tcp, agent.port, agent.capture_id, len(host)) + host + call_id


def decode_settings(data: bytes) -> tuple[Agent, bytes]:
    """Read the settings of a tap: the agent, and the session's call-id."""
    is_tcp, port, capture_id, host_bytes = _SETTINGS.unpack_from(data)
    rest = data[_SETTINGS.size :]
    return Agent(rest[:host_bytes].decode(), port, is_tcp, capture_id), rest[host_bytes:]


class Collectors:
    """The collectors that the sessions of one relay report to: one, as a rule. Times are monotonic, in nanoseconds."""

    def __init__(self) -> None:
        self._reporters: dict[Agent, _Reporter] = {}
        self._told_ns = 0
        self._told = Reports()

    def handler(self, settings: bytes) -> "HepHandler":
        """Make what reports the RTCP of one session."""
        agent, call_id = decode_settings(settings)
        reporter = self._reporters.get(agent)
        if reporter is None:
            reporter = self._reporters[agent] = _Reporter(agent)
        return HepHandler(reporter, correlate(call_id))

    def work(self, now_ns: int) -> None:
        """Go on with what is under way. Never waits."""
        for one in self._reporters.values():
            one.collector.work(now_ns)

    def due_ns(self, now_ns: int) -> int | None:
        """Return the time until something is to be done; None if nothing is."""
        if not self._reporters:
            return None
        dues = [due for one in self._reporters.values() if (due := one.collector.due_ns(now_ns)) is not None]
        if self._total() != self._told:
            dues.append(max(0, self._told_ns + NEWS_NS - now_ns))
        return min(dues, default=None)

    def news(self, now_ns: int) -> Collected | None:
        """Tell what changed since this was asked last, about once a second; None if nothing did."""
        return self._news(now_ns) if now_ns - self._told_ns >= NEWS_NS else None

    def close(self, now_ns: int) -> Collected | None:
        """Send what waits, for a short time each, and close all connections. Tells what changed."""
        for one in self._reporters.values():
            one.collector.close(now_ns)
        return self._news(now_ns)

    def _news(self, now_ns: int) -> Collected | None:
        self._told_ns = now_ns
        total = self._total()
        if total == self._told:
            return None
        changes, self._told = total.minus(self._told), total
        reporters = self._reporters.values()
        why = "; ".join(f"{one.agent}: {one.collector.why}" for one in reporters if one.collector.why)
        return Collected(changes, why)

    def _total(self) -> Reports:
        reporters = self._reporters.values()
        return Reports(
            sent=sum(one.collector.sent for one in reporters),
            lost=sum(one.collector.lost for one in reporters),
            malformed=sum(one.malformed for one in reporters),
            encrypted=sum(one.encrypted for one in reporters),
            without_report=sum(one.without_report for one in reporters),
        )


class _Reporter:
    """One collector, and what all sessions together reported to it."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.packer = HepPacker(agent.capture_id)
        self.collector = Collector(agent.host, agent.port, is_tcp=agent.is_tcp)
        self.malformed = self.encrypted = self.without_report = 0


class HepHandler:
    """Reports the RTCP of one session."""

    def __init__(self, reporter: _Reporter, correlation: bytes) -> None:
        self._reporter = reporter
        self._correlation = correlation

    def packet(self, packet: Packet, wall_ns: int) -> tuple[()]:
        """Report a datagram that came to an RTCP port, `wall_ns` since 1970. Returns nothing for the relay."""
        _, source, to, payload = packet
        reporter = self._reporter
        rtcp = read_rtcp(payload)
        reporter.malformed += rtcp.is_malformed
        reporter.encrypted += rtcp.is_encrypted
        reports = bodies(rtcp)
        for body in reports:
            reporter.collector.send(reporter.packer.pack(source, to, wall_ns, self._correlation, body))
        if not reports and not rtcp.is_encrypted:
            reporter.without_report += 1
        return ()

    def rest(self, now_ns: int) -> tuple[()]:
        """Do nothing: collectors are worked on more often."""
        return ()

    def finish(self) -> tuple[()]:
        """Do nothing: what waits for a collector is sent all the same."""
        return ()

    def close(self) -> None:
        """Do nothing: the connection is for other sessions, too."""
