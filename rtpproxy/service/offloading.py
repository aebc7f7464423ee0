"""Lets the kernel forward what it can of each session, and adds what the kernel counted to what userspace knows.

The counters of a stream are up to date after `absorb`. The kernel's counters of a port are never reset, so each stream
remembers up to where they are absorbed, and the port's next stream starts from there.
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rtpproxy.offload.entry import ForwardingEntry, NotOffloaded, Owner, PortCounters, plan
from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.statistics import Arrival, SequenceTracker
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.events import Observers
from rtpproxy.session.latch import KnownSource, Verdict
from rtpproxy.session.session import Component, Session, Stream, Teeing

_TEE_MASK = 0xFFFFFFFF
"""The kernel's counters of the tee have 32 bits."""


class Entries(Protocol):
    """Installs and withdraws entries: `offload.forwarder.Forwarder` or `offload.off.NoEntries`. Ports come as keys."""

    @property
    def rest(self) -> str: ...
    def apply(
        self, owner: Owner, wanted: Mapping[int, ForwardingEntry | NotOffloaded], now: float
    ) -> Collection[int]: ...
    def withdraw(self, key: int, reason: str, now: float) -> None: ...
    def is_wanted(self, key: int) -> bool: ...
    def hold(self, key: int) -> None: ...
    def seed(self, key: int, tracker: SequenceTracker) -> None: ...
    def came_up(self, key: int, now: float) -> None: ...
    def by_program(self) -> Mapping[str, int]: ...
    def by_reason(self) -> Mapping[str, int]: ...


class KernelCounters(Protocol):
    """Reads the kernel's counters: `offload.counters.CounterTables` or `offload.off.NoCounters`. Ports come as keys."""

    def counters(self, key: int) -> PortCounters | None: ...
    def forwarded(self, key: int) -> int: ...
    def seen_at(self, key: int) -> float: ...
    def tee_missed(self, key: int) -> int: ...
    def tee_chosen(self, key: int) -> int: ...
    def last_seen(self) -> npt.NDArray[np.float64] | None: ...
    def row(self, key: int) -> int: ...
    def total_forwarded(self) -> int: ...
    def total_dropped(self) -> int: ...
    def total_parse_errors(self) -> int: ...
    def verdicts(self) -> Mapping[str, int]: ...


class Expecting(Protocol):
    """Keeps room for those who are expected: `media.steered.SteeredMedia` or `media.bound.BoundMedia`."""

    def expect(self, key: int, source: KnownSource | None, component: Component) -> None: ...


class Offloading:
    """The kernel's part in all sessions of one relay."""

    def __init__(
        self,
        entries: Entries,
        counters: KernelCounters,
        ports: Expecting,
        destinations: Destinations,
        observers: Observers,
    ) -> None:
        self._entries = entries
        self._counters = counters
        self._destinations = destinations
        self._observers = observers
        self._ports = ports

    def add(self, stream: Stream) -> None:
        """Start counting for a stream that got its port."""
        stream.forwarded_packets = self._counters.forwarded(stream.key)
        if stream.teeing is not None:
            self._begin_teeing(stream, stream.teeing)

    def remove(self, session: Session, stream: Stream, reason: str, now: float) -> None:
        """Stop forwarding for a stream that is about to lose its port, and count what was forwarded."""
        self._entries.withdraw(stream.key, reason, now)
        self.absorb(session, stream, now)

    def absorb(self, session: Session, stream: Stream, now: float) -> None:
        """Add what the kernel forwarded for a stream since the last time, and tell what the latch learned from it."""
        if not (session.is_complete and stream.local_port):
            return
        self._absorb_tee(stream)
        if self._counters.forwarded(stream.key) == stream.forwarded_packets:
            return
        counters = self._counters.counters(stream.key)
        if counters is None:
            return
        packets = counters.packets - stream.forwarded_packets
        stream.forwarded_packets = counters.packets
        stream.received_packets += packets
        stream.relayed_packets += packets
        if stream.teeing is not None and stream.teeing.number and stream.teeing.payload_type is None:
            stream.teeing.packets += packets
        if stream.component is not Component.RTP:
            return
        tracker = stream.tracker
        assert tracker is not None, "no RTP is forwarded before the kernel was told where to go on"
        verdict = Verdict.ACCEPTED
        if counters.sequence_set_at >= stream.settled_at:
            changed_at = 0.0 if counters.ssrc == tracker.ssrc else counters.ssrc_changed_at
            verdict = stream.latch.absorb_forwarded(
                counters.ssrc, counters.sequence, counters.sequence_set_at, changed_at, now
            )
        tracker.absorb_forwarded(packets, counters.state, counters.totals, counters.ssrc_changed_at)
        if verdict is Verdict.LEARNED:
            self._observers.learned(session, stream, now)

    def _absorb_tee(self, stream: Stream) -> None:
        """Add what the kernel counted of the tee, apart from the packets: that is counted after them."""
        teeing = stream.teeing
        if teeing is None:
            return
        missed = self._counters.tee_missed(stream.key) - teeing.missed_before & _TEE_MASK
        teeing.missed_before = teeing.missed_before + missed & _TEE_MASK
        teeing.missed_packets += missed
        if teeing.number and teeing.payload_type is None:
            teeing.packets -= missed
        chosen = self._counters.tee_chosen(stream.key) - teeing.chosen_before & _TEE_MASK
        teeing.chosen_before = teeing.chosen_before + chosen & _TEE_MASK
        teeing.packets += chosen

    def teeing(self, stream: Stream) -> Teeing:
        """Return what is teed of a stream. The kernel counts nothing of it before it has one."""
        if stream.teeing is None:
            stream.teeing = Teeing()
            self._begin_teeing(stream, stream.teeing)
        return stream.teeing

    def _begin_teeing(self, stream: Stream, teeing: Teeing) -> None:
        """Count from now on, or from when the stream gets its port."""
        if not stream.local_port:
            return
        teeing.missed_before = self._counters.tee_missed(stream.key)
        teeing.chosen_before = self._counters.tee_chosen(stream.key)

    def count(self, session: Session, stream: Stream, header: RtpHeader | None, now: float) -> Arrival:
        """Count a packet that userspace accepted, and tell how it follows those before.

        `header` is None for a packet that is not RTP. Of RTCP there are no statistics.
        """
        if stream.component is not Component.RTP:
            self._entries.came_up(stream.key, now)
            return Arrival.NOT_RTP
        tracker = stream.tracker
        if tracker is None:
            tracker = stream.tracker = SequenceTracker()
        if not self._entries.is_wanted(stream.key):
            return tracker.observe(header, now)
        if header is None or not stream.hides(header):
            self._entries.came_up(stream.key, now)
        # The kernel must not count between `absorb` and `seed`.
        self._entries.hold(stream.key)
        try:
            self.absorb(session, stream, now)
            return tracker.observe(header, now)
        finally:
            self._entries.seed(stream.key, tracker)

    def replan(self, session: Session, now: float) -> None:
        """Make the kernel do what it should do for a session."""
        if not session.is_complete:
            return
        for stream in session.streams:
            for witness in stream.witnesses:
                witness.look_again(now)
        for feeder in session.feeders:
            feeder.look_again(now)
        wanted = plan(session, self._destinations.is_denied)
        self.expect(session)
        for leg in session.legs:
            if isinstance(wanted.get(leg.rtp.key), ForwardingEntry):
                self._hand_over(leg.rtp)
        lost = self._entries.apply(_SessionOwner(session, self._observers), wanted, now)
        if lost:
            for stream in session.streams:
                if stream.key in lost:
                    self.absorb(session, stream, now)

    def expect(self, session: Session) -> None:
        """Tell from whom packets are expected, so that a flood by others displaces none of them.

        Nobody is expected where the peer's address is not known: what comes there could not be sent on.
        """
        callee, caller = session.callee, session.caller
        pairs = (
            (callee.rtp, caller.rtp),
            (callee.rtcp, caller.rtcp),
            (caller.rtp, callee.rtp),
            (caller.rtcp, callee.rtcp),
        )
        for stream, peer in pairs:
            if stream.local_port:
                to = peer.latch.remote
                source = stream.latch.known_source if to is not None and to.port else None
                self._ports.expect(stream.key, source, stream.component)

    def _hand_over(self, stream: Stream) -> None:
        """Tell the kernel where the statistics of an RTP stream stand, before it gets its first entry."""
        counters = self._counters.counters(stream.key)
        if counters is None or self._entries.is_wanted(stream.key):
            return
        if stream.tracker is None:
            stream.tracker = SequenceTracker()
        stream.tracker.skip_forwarded(counters.totals)
        self._entries.seed(stream.key, stream.tracker)


class _SessionOwner:
    """Owns the entries of a session: tells observers when the kernel takes a stream over or gives it back."""

    __slots__ = ("_observers", "_session")

    def __init__(self, session: Session, observers: Observers) -> None:
        self._session = session
        self._observers = observers

    @property
    def label(self) -> str:
        """Name the session in the log."""
        return self._session.label

    def entered_kernel(self, key: int, program: str, now: float) -> None:
        """Tell the observers."""
        self._observers.entered_kernel(self._session, self._stream(key), program, now)

    def left_kernel(self, key: int, reason: str, now: float) -> None:
        """Tell the observers."""
        self._observers.left_kernel(self._session, self._stream(key), reason, now)

    def _stream(self, key: int) -> Stream:
        for leg in (self._session.callee, self._session.caller):
            if leg.rtp.key == key:
                return leg.rtp
            if leg.rtcp.key == key:
                return leg.rtcp
        raise KeyError(key)
