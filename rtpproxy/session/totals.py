"""What happened in the whole process since it started, as `I` and `G` tell it (protocol.md 11.2, 11.3)."""

from collections.abc import Mapping
from dataclasses import dataclass

from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.session.session import Session


@dataclass(frozen=True, slots=True)
class Tiers:
    """Who forwards the streams that there are now, and what became of frames since the start."""

    kernel: Mapping[str, int]
    """Streams by the program that forwards them."""
    userspace: Mapping[str, int]
    """Streams that it relays, by why the kernel does not."""
    frames: Mapping[str, int]
    """Frames that the kernel programs saw, by verdict; empty without them."""
    rest: str
    """Why streams that are not counted here are relayed by userspace."""


@dataclass(slots=True, eq=False)
class Totals:
    """Counts of sessions and packets. Those of packets hold what userspace saw; the kernel's are added when asked."""

    sessions_created: int = 0
    sessions_destroyed: int = 0
    sessions_timed_out: int = 0
    sessions_completed: int = 0
    """That got their second leg."""
    sessions_without_rtp: int = 0
    """Complete ones that ended without a packet."""
    sessions_with_one_way_rtp: int = 0
    sessions_without_rtcp: int = 0
    sessions_with_one_way_rtcp: int = 0
    players_created: int = 0
    players_destroyed: int = 0
    packets_received: int = 0
    """RTP and RTCP, on complete sessions, accepted or not."""
    packets_relayed: int = 0
    packets_played: int = 0
    packets_to_repacketize: int = 0
    packets_repacketized: int = 0
    packets_not_repacketized: int = 0
    packets_discarded: int = 0
    """Wrong source, not sendable, before completion, or to a port just closed."""
    total_duration_s: float = 0.0
    """Of the sessions that ended."""
    sent: int = 0
    """Sequence statistics of the sessions that ended: what parties sent, by their numbers."""
    received: int = 0
    duplicates: int = 0
    lost: int = 0
    parse_errors: int = 0
    packets_per_second: float = 0.0
    """Packets received during the last second."""

    @property
    def active_sessions(self) -> int:
        """Sessions that have not ended."""
        return self.sessions_created - self.sessions_destroyed

    def add_ended(self, session: Session, now: float) -> None:
        """Count a session that ends. Everything the kernel forwarded for it must have been absorbed."""
        self.sessions_destroyed += 1
        self.total_duration_s += now - session.created_at
        for leg in session.legs:
            if leg.rtp.tracker is not None:
                self._add_tracked(leg.rtp.tracker)
        if not session.is_complete:
            return
        callee, caller = session.legs
        rtp_ways = (callee.rtp.received_packets > 0) + (caller.rtp.received_packets > 0)
        self.sessions_without_rtp += rtp_ways == 0
        self.sessions_with_one_way_rtp += rtp_ways == 1
        rtcp_ways = (callee.rtcp.received_packets > 0) + (caller.rtcp.received_packets > 0)
        self.sessions_without_rtcp += rtcp_ways == 0
        self.sessions_with_one_way_rtcp += rtcp_ways == 1

    def _add_tracked(self, tracker: SequenceTracker) -> None:
        self.sent += tracker.sent
        self.received += tracker.received
        self.duplicates += tracker.duplicates
        self.lost += tracker.lost
        self.parse_errors += tracker.parse_errors
