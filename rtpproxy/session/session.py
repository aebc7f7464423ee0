"""A session and its parts, as state without rules; the rules are in `latch`, `table` and `service`."""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from rtpproxy.config import NotifyTarget
from rtpproxy.rtp.header import RtpHeader
from rtpproxy.rtp.resizer import Resizer
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


class Witness(Protocol):
    """Gets packets that a stream accepts, beside the peer: a recording, a copy or a tap (protocol.md 6.1)."""

    @property
    def payload_type(self) -> int | None:
        """It gets only RTP packets of this payload type; None for all packets."""

    def packet(self, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        """Take a packet. `local_host` is our address that it came to, empty if unknown; `now` is its arrival."""

    def look_again(self, now: float) -> None:
        """Take note that addresses of the session may have changed."""


@dataclass(slots=True, eq=False)
class Teeing:
    """What the kernel is to tee of a stream, and what it has teed."""

    number: int = 0
    """The stream's `tee`."""
    payload_type: int | None = None
    """Its `tee_type`."""
    hidden_type: int | None = None
    packets: int = 0
    """Its `teed_packets`."""
    missed_packets: int = 0
    """Its `tee_missed_packets`."""
    missed_before: int = 0
    """Value of the kernel's counter of the port up to which these are absorbed."""
    chosen_before: int = 0
    """Value of the kernel's counter of packets teed by type, of the port, up to which `packets` has them."""


@dataclass(slots=True, eq=False)
class Stream:
    """One component on one leg: one local port, one remote endpoint."""

    component: Component
    local: LocalAddress
    """Our address that its port is on, or will be on."""
    latch: Latch
    local_port: int = 0
    """UDP port of ours, host order; 0 until the leg has ports."""
    key: int = 0
    """Tells the local port from the same port on another of our addresses (`local.port_key`)."""
    settled_at: float = 0.0
    """Time that it got its port, seconds, monotonic. Counts of the port from before belong to another stream."""
    local_host: str = ""
    """Our address that its packets arrive at: that of the leg, or, if it is on all addresses, of the latest packet."""
    tos: int = 0
    """TOS byte or traffic class of what is sent to the remote endpoint; ECN bits are 0."""
    activity: int = -1
    """Number of its timer in `reaper.Activity`; in most sessions all streams share one."""
    received_packets: int = 0
    """Packets accepted at its port; those that the kernel forwarded are included once they are absorbed."""
    relayed_packets: int = 0
    """Accepted packets that were sent on to the peer."""
    dropped_packets: int = 0
    """Accepted packets that were not sent on."""
    forwarded_packets: int = 0
    """Value of the kernel's counter of the port up to which its packets are absorbed."""
    tracker: SequenceTracker | None = None
    """Sequence statistics of RTP; made by the first packet."""
    is_denied: bool = False
    """The latest endpoint that was to become its remote was refused (`reach`); to be asked while it has none."""
    loop_guard: LoopGuard | None = None
    """Made by the first packet that may be going round between relays."""
    witnesses: tuple[Witness, ...] = ()
    """Recordings, copies and taps of what it receives."""
    resizer: Resizer | None = None
    """Repacketizes what it receives."""
    is_played_to: bool = False
    """A prompt is played to its party, which gets nothing of what the peer receives meanwhile (protocol.md 9.4)."""
    teeing: Teeing | None = None
    """Made with its first witness. Most streams never have one: it is apart because of their memory."""

    @property
    def tee(self) -> int:
        """Number under which the kernel tees what it forwards from its port, for the witnesses; 0: for none."""
        return 0 if self.teeing is None else self.teeing.number

    @property
    def tee_type(self) -> int | None:
        """Only RTP packets of this payload type are teed; None for all packets."""
        return None if self.teeing is None else self.teeing.payload_type

    @property
    def hidden_type(self) -> int | None:
        """RTP packets of this payload type are for the witnesses alone, and not relayed; None for no such packets."""
        return None if self.teeing is None else self.teeing.hidden_type

    @property
    def teed_packets(self) -> int:
        """Packets that the kernel teed, up to when they were last absorbed."""
        return 0 if self.teeing is None else self.teeing.packets

    @property
    def tee_missed_packets(self) -> int:
        """Packets that the kernel forwarded and could not tee, for want of room, up to when they were last absorbed."""
        return 0 if self.teeing is None else self.teeing.missed_packets

    def hides(self, header: RtpHeader) -> bool:
        """Tell if an RTP packet is for the witnesses alone."""
        return header.payload_type == self.hidden_type

    def settle(self, local: LocalAddress, port: int, now: float) -> None:
        """Move the stream to a port."""
        if local is not self.local and local != self.local:
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
    """The leg's weak reference (protocol.md 4.5) is held."""
    codecs: tuple[int, ...] | None = None
    """Payload types that the party offered in its latest command, in its order; None if it named none."""
    has_own_timeout: bool = False
    """A command set the leg's idle timeout, so completion of the session does not change it."""
    is_on_hold: bool = False
    """The last address that a command named for the party was null (protocol.md 5.7). Changes nothing else."""
    holds: int = 0
    """Commands that named a null address."""

    @property
    def local(self) -> LocalAddress:
        """Our address that its ports are on, or will be on."""
        return self.rtp.local

    @property
    def activity(self) -> int:
        """Number of its timer."""
        return self.rtp.activity

    @property
    def streams(self) -> tuple[Stream, Stream]:
        """RTP and RTCP."""
        return self.rtp, self.rtcp

    @property
    def packet_ms(self) -> int:
        """Milliseconds of the packets that the peer is to get, by the party's latest command; 0 for as they come."""
        return 0 if self.rtp.resizer is None else self.rtp.resizer.packet_ms

    @property
    def has_ports(self) -> bool:
        """A port pair was allocated."""
        return self.rtp.local_port != 0


@dataclass(frozen=True, slots=True)
class Notification:
    """Recipient and text of the message that is sent when the session times out."""

    target: NotifyTarget
    controller_host: str
    """Host that the command came from, which a wildcard target stands for; empty for this host."""
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
    is_fed: bool = False
    """Its parties get copies of another session's packets, and none of what arrives at its own ports."""
    feeders: tuple[Witness, ...] = ()
    """The copies that its parties get."""
    notification: Notification | None = None
    controller_host: str = ""
    """Host that the newest `U` came from; empty for this host."""

    @property
    def label(self) -> str:
        """Names the session in the log: its call-id, and its media number if it has one.

        On one line, with escapes for all but printable ASCII.
        """
        call = repr(self.call_id)[2:-1]
        _, semicolon, number = self.from_tag.rpartition(b";")
        return f"{call} media {number.decode()}" if semicolon and number.isdigit() else call

    @property
    def legs(self) -> tuple[Leg, Leg]:
        """In the order of the protocol's stream numbers."""
        return self.callee, self.caller

    @property
    def streams(self) -> tuple[Stream, Stream, Stream, Stream]:
        """All four."""
        return (*self.callee.streams, *self.caller.streams)

    @property
    def has_latched(self) -> bool:
        """The source of a stream is known, so that the kernel may have something to do."""
        callee, caller = self.callee, self.caller
        return (
            callee.rtp.latch.is_latched
            or caller.rtp.latch.is_latched
            or callee.rtcp.latch.is_latched
            or caller.rtcp.latch.is_latched
        )

    @property
    def is_contested(self) -> bool:
        """Several sources take one of the streams in turn. RTCP has no memory by which it could be taken."""
        return self.callee.rtp.latch.is_contested or self.caller.rtp.latch.is_contested

    def leg(self, role: Role) -> Leg:
        """The leg of that role."""
        return self.caller if role is Role.CALLER else self.callee


@dataclass(frozen=True, slots=True)
class Issuer:
    """The leg that a command on a session speaks for; its sub-commands call this forward (protocol.md 2.6)."""

    session: Session
    role: Role

    @property
    def peer(self) -> "Issuer":
        """The other leg of the session."""
        return Issuer(self.session, self.role.peer)
