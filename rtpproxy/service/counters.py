"""Counts of sessions and packets, those of the kernel included (protocol.md 11)."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.service.answers import SessionCounters, Tiers
from rtpproxy.service.events import Ending, Observer
from rtpproxy.service.offloading import Entries, KernelCounters, Offloading
from rtpproxy.service.timers import Timers
from rtpproxy.session.session import Issuer, Session
from rtpproxy.session.totals import Totals

_NOTHING_TRACKED = SequenceTracker()


class Receiving(Protocol):
    """Counts packets that came to open ports and that userspace was too slow for."""

    def waited_too_long(self) -> int: ...
    def no_room(self) -> int: ...


class SessionTotals(Observer):
    """Counts sessions in the totals of the process."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals

    def created(self, session: Session, now: float) -> None:
        """Count a new session."""
        self._totals.sessions_created += 1

    def completed(self, session: Session, now: float) -> None:
        """Count a session that got its second leg."""
        self._totals.sessions_completed += 1

    def timed_out(self, session: Session, timeout_s: float, now: float) -> None:
        """Count a session that was idle for too long."""
        self._totals.sessions_timed_out += 1

    def ended(self, session: Session, why: Ending, now: float) -> None:
        """Count a session that ended, and add what its streams counted."""
        self._totals.add_ended(session, now)


class Counters:
    """Answers questions about counts: of one session, of the process, of its streams by tier."""

    def __init__(
        self,
        totals: Totals,
        entries: Entries,
        kernel: KernelCounters,
        receiving: Receiving,
        offloading: Offloading,
        timers: Timers,
    ) -> None:
        """`totals` holds what userspace counts."""
        self._totals = totals
        self._entries = entries
        self._kernel = kernel
        self._receiving = receiving
        self._offloading = offloading
        self._timers = timers
        self._counted_at = math.inf
        """Time of the last call of `tick`; infinite before the first."""
        self._counted_packets = 0

    def query(self, issuer: Issuer, now: float) -> SessionCounters:
        """Return the counters of a session, seen from one of its legs."""
        session = issuer.session
        for stream in session.streams:
            self._offloading.absorb(session, stream, now)
        ours, peer = session.leg(issuer.role).rtp, session.leg(issuer.role.peer).rtp
        tracker = ours.tracker or _NOTHING_TRACKED
        return SessionCounters(
            seconds_left=self._timers.seconds_left(session, now),
            received_from_issuer=ours.received_packets,
            received_from_peer=peer.received_packets,
            relayed=ours.relayed_packets + peer.relayed_packets,
            dropped=ours.dropped_packets + peer.dropped_packets,
            longest_gap_s=tracker.longest_gap_s,
            jitter_last=tracker.jitter.last,
            jitter_max=tracker.jitter.maximum,
            jitter_average=tracker.jitter.average,
            sent=tracker.sent,
            received=tracker.received,
            duplicates=tracker.duplicates,
            lost=tracker.lost,
            parse_errors=tracker.parse_errors,
        )

    def totals(self) -> Totals:
        """Return the totals of the process."""
        totals, forwarded = self._totals, self._kernel.total_forwarded()
        dropped = self._kernel.total_dropped() + self._receiving.waited_too_long()
        return replace(
            totals,
            packets_received=totals.packets_received + forwarded + dropped,
            packets_relayed=totals.packets_relayed + forwarded,
            packets_discarded=totals.packets_discarded + dropped,
        )

    def tiers(
        self, streams: int, dropped: Mapping[str, int], recordings: Mapping[str, int], overload: Mapping[str, int]
    ) -> Tiers:
        """Count the streams by tier, and frames by verdict.

        `streams` is the number of streams that have ports; `dropped` are packets that userspace dropped, by verdict;
        `recordings` and `overload` are passed on.
        """
        by_program, by_reason = self._entries.by_program(), self._entries.by_reason()
        rest = streams - sum(by_program.values()) - sum(by_reason.values())
        verdicts = self._kernel.verdicts()
        frames = {name: count for name, count in verdicts.items() if count}
        if verdicts:
            frames["forwarded_though_not_rtp"] = self._kernel.total_parse_errors()
        frames |= dropped
        by_reason = {**by_reason, self._entries.rest: rest} if rest else by_reason
        return Tiers(by_program, by_reason, frames, recordings, overload)

    def tick(self, now: float) -> None:
        """Compute the packet rate since the last call. To be called every second."""
        packets = self.totals().packets_received
        if now > self._counted_at:
            self._totals.packets_per_second = (packets - self._counted_packets) / (now - self._counted_at)
        self._counted_at, self._counted_packets = now, packets
