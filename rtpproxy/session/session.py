"""The values a relayed session is made of. They hold state; the rules are in `latch`, `table` and `service`."""

from dataclasses import dataclass, field
from enum import IntEnum

from rtpproxy.session.latch import Latch
from rtpproxy.session.stats import SequenceTracker


class Role(IntEnum):
    """Which leg. The numbers are those of the protocol's streams: 0 faces the callee, 1 the caller."""

    CALLEE = 0
    CALLER = 1

    @property
    def peer(self) -> "Role":
        """The other leg."""
        return Role(1 - self)


class Component(IntEnum):
    """ICE's word for RTP and RTCP of one media line. The number is the distance from the leg's RTP port."""

    RTP = 0
    RTCP = 1


@dataclass(slots=True, eq=False)
class Stream:
    """One component on one leg: one local port, one remote endpoint."""

    component: Component
    latch: Latch = field(default_factory=Latch)
    local_port: int = 0
    """UDP port of ours, host order; 0 until the leg has ports."""
    local_host: str = ""
    """Address of ours that this party sends to; empty until a packet told."""
    received_packets: int = 0
    """Packets accepted from this party, those that the kernel forwarded included as far as they are absorbed."""
    relayed_packets: int = 0
    """Of these, packets sent on to the peer."""
    dropped_packets: int = 0
    """Of these, packets that could not be sent on."""
    forwarded_packets: int = 0
    """The kernel's counter of the port, up to which its packets are absorbed."""
    tracker: SequenceTracker | None = None
    """Sequence statistics of RTP; made by the first packet."""


@dataclass(slots=True, eq=False)
class Leg:
    """One party's half of a session."""

    role: Role
    rtp: Stream = field(default_factory=lambda: Stream(Component.RTP))
    rtcp: Stream = field(default_factory=lambda: Stream(Component.RTCP))
    is_weak: bool = False
    """The weak reference of protocol.md 4.5 is held for this leg."""
    is_on_hold: bool = False

    @property
    def streams(self) -> tuple[Stream, Stream]:
        """RTP and RTCP."""
        return self.rtp, self.rtcp

    @property
    def has_ports(self) -> bool:
        """Whether a port pair was allocated."""
        return self.rtp.local_port != 0


@dataclass(slots=True, eq=False)
class Session:
    """Everything held for one call-id (with its media number) and tag pair."""

    call_id: bytes
    from_tag: bytes
    """As given in the creating command, with its media number."""
    created_at: float
    """Seconds, monotonic."""
    callee: Leg = field(default_factory=lambda: Leg(Role.CALLEE))
    caller: Leg = field(default_factory=lambda: Leg(Role.CALLER))
    is_strong: bool = False
    is_complete: bool = False
    """Both legs have ports; packets flow."""
    activity: int = -1
    """Number of this session's row in `reaper.Activity`."""

    def leg(self, role: Role) -> Leg:
        """The leg of that role."""
        return self.caller if role is Role.CALLER else self.callee
