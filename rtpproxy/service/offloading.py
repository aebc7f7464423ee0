"""What the kernel should forward of a session, and what it counted, put together with what userspace knows.

The counters of a stream are true after `absorb`. The kernel's totals of a port are never reset, so each stream
remembers up to where they are taken in, and a port's next stream starts from there.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded, PortCounters, plan
from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.statistics import Arrival, SequenceTracker
from rtpproxy.session.session import Component, Session, Stream
from rtpproxy.session.totals import Tiers, Totals


class Offload(Protocol):
    """The kernel path: `offload.forwarder.Forwarder` or `offload.off.NoOffload`. Ports are told by their keys."""

    def apply(self, label: str, wanted: Mapping[int, ForwardingEntry | NotOffloaded]) -> Collection[int]: ...
    def withdraw(self, key: int, reason: str) -> None: ...
    def is_wanted(self, key: int) -> bool: ...
    def hold(self, key: int) -> None: ...
    def seed(self, key: int, tracker: SequenceTracker) -> None: ...
    def counters(self, key: int) -> PortCounters | None: ...
    def forwarded(self, key: int) -> int: ...
    def seen_at(self, key: int) -> float: ...
    def total_forwarded(self) -> int: ...
    def total_dropped(self) -> int: ...
    def tiers(self) -> Tiers: ...
    def row(self, key: int) -> int: ...
    def last_seen(self) -> npt.NDArray[np.float64] | None: ...


class Offloading:
    """The kernel's part in all sessions of one relay."""

    def __init__(self, offload: Offload) -> None:
        self._offload = offload
        self.last_seen = offload.last_seen

    def add(self, stream: Stream) -> int:
        """A stream got its port; the row of `last_seen` that is the port's."""
        stream.forwarded_packets = self._offload.forwarded(stream.key)
        return self._offload.row(stream.key)

    def remove(self, session: Session, stream: Stream, reason: str, now: float) -> None:
        """A stream is about to lose its port: nothing is forwarded from it any more, and all is counted."""
        self._offload.withdraw(stream.key, reason)
        self.absorb(session, stream, now)

    def absorb(self, session: Session, stream: Stream, now: float) -> None:
        """Take in what the kernel forwarded for a stream since the last time."""
        if not (session.is_complete and stream.local_port):
            return
        if self._offload.forwarded(stream.key) == stream.forwarded_packets:
            return
        counters = self._offload.counters(stream.key)
        if counters is None:
            return
        packets = counters.packets - stream.forwarded_packets
        stream.forwarded_packets = counters.packets
        stream.received_packets += packets
        stream.relayed_packets += packets
        if stream.component is not Component.RTP:
            return
        tracker = stream.tracker
        assert tracker is not None, "no RTP is forwarded before the kernel was told where to go on"
        if counters.sequence_set_at >= stream.settled_at:
            changed_at = 0.0 if counters.ssrc == tracker.ssrc else counters.ssrc_changed_at
            stream.latch.absorb_forwarded(counters.ssrc, counters.sequence, counters.sequence_set_at, changed_at, now)
        tracker.absorb_forwarded(packets, counters.state, counters.totals)

    def count(self, session: Session, stream: Stream, header: RtpHeader | None, now: float) -> Arrival:
        """Keep the sequence statistics of a packet that userspace accepted, and tell what it is among those before.

        `header` is None for a packet that is not RTP.
        """
        tracker = stream.tracker
        if tracker is None:
            tracker = stream.tracker = SequenceTracker()
        if not self._offload.is_wanted(stream.key):
            return tracker.observe(header, now)
        # The kernel must not count between what is absorbed and what it goes on from.
        self._offload.hold(stream.key)
        try:
            self.absorb(session, stream, now)
            return tracker.observe(header, now)
        finally:
            self._offload.seed(stream.key, tracker)

    def replan(self, session: Session, now: float) -> None:
        """Make the kernel do what it should do for a session."""
        if not session.is_complete:
            return
        wanted = plan(session)
        for leg in session.legs:
            if isinstance(wanted.get(leg.rtp.key), ForwardingEntry):
                self._hand_over(leg.rtp)
        lost = self._offload.apply(session.label, wanted)
        if lost:
            for stream in session.streams:
                if stream.key in lost:
                    self.absorb(session, stream, now)

    def seen_at(self, stream: Stream) -> float:
        """When the kernel last forwarded a packet at the stream's port, seconds, monotonic; 0.0 for never."""
        return self._offload.seen_at(stream.key)

    def with_kernel(self, totals: Totals) -> Totals:
        """Totals of userspace with those of the kernel."""
        forwarded, dropped = self._offload.total_forwarded(), self._offload.total_dropped()
        return replace(
            totals,
            packets_received=totals.packets_received + forwarded + dropped,
            packets_relayed=totals.packets_relayed + forwarded,
            packets_discarded=totals.packets_discarded + dropped,
        )

    def tiers(self, streams: int) -> Tiers:
        """Who forwards the streams, of which there are so many; those without an opinion are not complete yet."""
        tiers = self._offload.tiers()
        rest = streams - sum(tiers.kernel.values()) - sum(tiers.userspace.values())
        return replace(tiers, userspace={**tiers.userspace, tiers.rest: rest}) if rest else tiers

    def _hand_over(self, stream: Stream) -> None:
        """Tell the kernel where the statistics of an RTP stream stand, before it gets an entry for the first time."""
        counters = self._offload.counters(stream.key)
        if counters is None or self._offload.is_wanted(stream.key):
            return
        if stream.tracker is None:
            stream.tracker = SequenceTracker()
        stream.tracker.skip_forwarded(counters.totals)
        self._offload.seed(stream.key, stream.tracker)
