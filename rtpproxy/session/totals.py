"""Totals of the process since it started (protocol.md 11.2, 11.3)."""

from dataclasses import dataclass

from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.session.session import Session


@dataclass(slots=True, eq=False)
class Totals:
    """Counts sessions and packets. Packets are those that userspace saw; the kernel's are added when somebody asks."""

    sessions_created: int = 0
    sessions_destroyed: int = 0
    sessions_timed_out: int = 0
    sessions_completed: int = 0
    """Sessions that got their second leg."""
    sessions_without_rtp: int = 0
    """Complete sessions that ended without a packet."""
    sessions_with_one_way_rtp: int = 0
    sessions_without_rtcp: int = 0
    sessions_with_one_way_rtcp: int = 0
    players_created: int = 0
    players_destroyed: int = 0
    packets_received: int = 0
    """RTP and RTCP of complete sessions, accepted or not."""
    packets_relayed: int = 0
    packets_played: int = 0
    packets_to_repacketize: int = 0
    packets_repacketized: int = 0
    packets_not_repacketized: int = 0
    packets_discarded: int = 0
    """From a wrong source, impossible to send on, too early for the session, or to a port just closed."""
    total_duration_s: float = 0.0
    """Sum over the sessions that ended."""
    sent: int = 0
    """Packets that parties sent, by sequence numbers. This and what follows: of the sessions that ended."""
    received: int = 0
    duplicates: int = 0
    lost: int = 0
    parse_errors: int = 0
    packets_per_second: float = 0.0
    """Packets received in the last second."""
    load: float = 0.0
    """Share of its time for which the event loop has work, from 0 to 1, averaged over some seconds."""

    @property
    def active_sessions(self) -> int:
        """Count the sessions that have not ended."""
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
