"""The values a relayed session is made of. They hold state; the rules are in `latch`, `table` and `service`."""

from dataclasses import dataclass
from enum import IntEnum

from rtpproxy.config import NotifyTarget
from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.session.latch import Latch
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.loops import LoopGuard


class Role(IntEnum):
    """Which leg. The numbers are those of the protocol's streams: 0 faces the callee, 1 the caller."""

    CALLEE = 0
    CALLER = 1

    @property
    def peer(self) -> "Role":
        """The other leg."""
        return Role.CALLEE if self is Role.CALLER else Role.CALLER


class Component(IntEnum):
    """ICE's word for RTP and RTCP of one media line. The number is the distance from the leg's RTP port."""

    RTP = 0
    RTCP = 1


@dataclass(slots=True, eq=False)
class Stream:
    """One component on one leg: one local port, one remote endpoint."""

    component: Component
    local: LocalAddress
    """Address of ours that its port is, or will be, on."""
    latch: Latch
    local_port: int = 0
    """UDP port of ours, host order; 0 until the leg has ports."""
    key: int = 0
    """What tells the local port from the same number on another of our addresses (`local.port_key`)."""
    settled_at: float = 0.0
    """When it came to its port, seconds, monotonic: what is known of the port from before is another stream's."""
    local_host: str = ""
    """Address of ours that this party sends to: that of the leg or, when it is on all addresses, what a packet told."""
    tos: int = 0
    """TOS byte or traffic class of what is sent to this party; ECN bits are 0."""
    activity: int = -1
    """Number in `reaper.Activity` of this party's idle time; in most sessions all streams share one."""
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
    loop_guard: LoopGuard | None = None
    """Made by the first packet that may be going round."""

    def settle(self, local: LocalAddress, port: int, now: float) -> None:
        """Be at this port from now on."""
        if local != self.local:
            self.local, self.local_host = local, local.host
        self.local_port = port
        self.key = local.key(port)
        self.settled_at = now


@dataclass(slots=True, eq=False)
class Leg:
    """One party's half of a session."""

    role: Role
    rtp: Stream
    rtcp: Stream
    is_weak: bool = False
    """The weak reference of protocol.md 4.5 is held for this leg."""
    has_own_timeout: bool = False
    """A command set the party's idle timeout, so that completion does not change it."""

    @property
    def local(self) -> LocalAddress:
        """Address of ours that its ports are, or will be, on."""
        return self.rtp.local

    @property
    def activity(self) -> int:
        """Number of the party's idle time."""
        return self.rtp.activity

    @property
    def streams(self) -> tuple[Stream, Stream]:
        """RTP and RTCP."""
        return self.rtp, self.rtcp

    @property
    def has_ports(self) -> bool:
        """Whether a port pair was allocated."""
        return self.rtp.local_port != 0


@dataclass(frozen=True, slots=True)
class Notification:
    """Whom to tell when the session is idle, and what."""

    target: NotifyTarget
    controller_host: str
    """Where the command came from; empty for this host. What a wildcard target means."""
    tag: bytes


@dataclass(slots=True, eq=False)
class Session:
    """Everything held for one call-id (with its media number) and tag pair."""

    call_id: bytes
    from_tag: bytes
    """As given in the creating command, with its media number."""
    created_at: float
    """Seconds, monotonic."""
    callee: Leg
    caller: Leg
    is_strong: bool = False
    is_complete: bool = False
    """Both legs have ports; packets flow."""
    notification: Notification | None = None

    @property
    def label(self) -> str:
        """The call-id for the log: on one line, whatever bytes it is made of."""
        return repr(self.call_id)[2:-1]

    @property
    def legs(self) -> tuple[Leg, Leg]:
        """In the order of the protocol's stream numbers."""
        return self.callee, self.caller

    @property
    def streams(self) -> tuple[Stream, Stream, Stream, Stream]:
        """All four."""
        return (*self.callee.streams, *self.caller.streams)

    def leg(self, role: Role) -> Leg:
        """The leg of that role."""
        return self.caller if role is Role.CALLER else self.callee


@dataclass(frozen=True, slots=True)
class Issuer:
    """The party that a command on a session speaks for: what its sub-commands call forward (protocol.md 2.6)."""

    session: Session
    role: Role

    @property
    def peer(self) -> "Issuer":
        """The other party."""
        return Issuer(self.session, self.role.peer)
