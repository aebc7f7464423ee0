"""Forwarding entries as values: what the kernel should do for a session, and the steps to get there. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from rtpproxy.addr import Endpoint, is_ipv6, is_link_local
from rtpproxy.network.vlan import VlanTag
from rtpproxy.rtp.statistics import RtpState, RtpTotals
from rtpproxy.session.local import port_key
from rtpproxy.session.session import Component, Session, Stream


@dataclass(frozen=True, slots=True)
class ForwardingEntry:
    """Matches what arrives at one port, and says how to send it on. Addresses are text, ports in host order."""

    port: int
    """Local UDP port that packets arrive at."""
    local_host: str
    """Our address that they are sent to."""
    source: Endpoint
    """The learned endpoint that the stream is locked to."""
    is_any_source_port: bool
    """Asymmetric leg: only the host of `source` is locked."""
    is_rtp: bool
    from_host: str
    """Our address that they leave from; empty to let the route decide."""
    from_port: int
    to: Endpoint
    """The peer's endpoint."""
    tos: int
    """TOS byte or traffic class of packets that leave; ECN bits are 0."""
    slot: int = 0
    """Number of the port space that `port` belongs to (`session.local`)."""
    tee: int = 0
    """Number under which the kernel also writes what it forwards into the tee's ring, as it arrived; 0: it does not."""
    tee_type: int | None = None
    """Only RTP packets of this payload type are written; None for all packets."""
    hidden_type: int | None = None
    """RTP packets of this payload type are not forwarded, and go to userspace; None for no such packets."""

    @property
    def key(self) -> int:
        """Identifies the port among those of all port spaces."""
        return port_key(self.slot, self.port)


class Tier(Enum):
    """Names the tiers: what forwards packets that arrive at an interface."""

    XDP = "kernel, native XDP"
    TC = "kernel, TC"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True)
class XdpWay:
    """Says how XDP sends by an interface: where it redirects frames to, and their VLAN tags, outer first."""

    ifindex: int
    tags: tuple[VlanTag, ...] = ()


@dataclass(frozen=True, slots=True)
class Ingress:
    """The interface that a peer's packets are expected to arrive by: that of the route back to it."""

    ifindex: int = 0
    """0 where none is known."""
    mac: str = ""


NO_INGRESS = Ingress()


@dataclass(frozen=True, slots=True)
class NextHop:
    """Says where frames for a neighbour go. `mtu` is the largest IP packet, in bytes."""

    ifindex: int
    """The interface, by which TC sends."""
    to_mac: str
    from_mac: str
    mtu: int
    xdp_way: XdpWay | None
    """None when XDP cannot send there, so that TC must."""


@dataclass(frozen=True, slots=True)
class PortCounters:
    """Counters of a port since the programs were loaded. Times are seconds, monotonic, 0.0 for never."""

    packets: int
    ssrc: int
    sequence: int
    """A recent sequence number of `ssrc`, set about once a second."""
    ssrc_changed_at: float
    sequence_set_at: float
    state: RtpState
    """The running state of the RTP statistics."""
    totals: RtpTotals


class NotOffloaded(str):
    """Says why a stream has no entry, in words for the log."""

    __slots__ = ()


class Owner(Protocol):
    """Wants entries: a session. It is told what becomes of them; `now` is seconds, monotonic."""

    @property
    def label(self) -> str:
        """Name the owner in the log."""

    def entered_kernel(self, key: int, program: str, now: float) -> None:
        """Hear that a program of the kernel forwards what arrives at a port; again when another program does."""

    def left_kernel(self, key: int, reason: str, now: float) -> None:
        """Hear that the kernel does not forward any more what arrives at a port."""


NOT_LEARNED = NotOffloaded("its source is not learned yet")
PEER_UNKNOWN = NotOffloaded("the peer's address is not known yet")
OTHER_FAMILY = NotOffloaded("a party's address is of another family than our port for it")
LINK_LOCAL = NotOffloaded("a link-local address does not tell its interface")
CONTESTED = NotOffloaded("several sources take a stream of the session in turn")
DENIED = NotOffloaded("nothing may be sent to the peer's address")
REPACKETIZED = NotOffloaded("userspace repacketizes its packets")
WITNESSED = NotOffloaded("userspace records, copies or watches its packets")
PLAYED = NotOffloaded("a prompt is played to the peer")
FED = NotOffloaded("the session gets copies of another session's packets, and none of its own")
REFLECTED = NotOffloaded("the peer may be the sender itself, to whom nothing is sent back")


def plan(session: Session, is_denied: Callable[[Stream], bool]) -> dict[int, ForwardingEntry | NotOffloaded]:
    """Work out for each open port of a complete session, by its key, the entry or the reason for none.

    `is_denied` tells that nothing may be sent to a stream's remote. Such a remote is never learned; it is asked again
    here, because the kernel is not to send there, whatever went wrong.

    One leg may still be without ports: a session is also completed by new ports for the leg that has some.
    """
    if session.is_fed:
        return {stream.key: FED for stream in session.streams if stream.local_port}
    if session.is_contested:
        # Where the one stream sends changes with each packet of the other, and where RTCP is expected, too.
        return {stream.key: CONTESTED for stream in session.streams if stream.local_port}
    if not session.has_latched:
        return {stream.key: NOT_LEARNED for stream in session.streams if stream.local_port}
    wanted: dict[int, ForwardingEntry | NotOffloaded] = {}
    for leg, peer_leg in ((session.callee, session.caller), (session.caller, session.callee)):
        for stream, peer in zip(leg.streams, peer_leg.streams, strict=True):
            if stream.local_port:
                want = _plan_stream(stream, peer)
                is_refused = isinstance(want, ForwardingEntry) and is_denied(peer)
                wanted[stream.key] = DENIED if is_refused else want
    return wanted


def _plan_stream(stream: Stream, peer: Stream) -> ForwardingEntry | NotOffloaded:
    if peer.is_played_to:
        return PLAYED
    if stream.resizer is not None:
        return REPACKETIZED
    if stream.witnesses and not stream.tee:
        return WITNESSED
    source, to = stream.latch.remote, peer.latch.remote
    if source is None or not stream.latch.is_locked or not stream.local_host:
        return NOT_LEARNED
    if to is None or not to.port or not peer.local_port:
        return PEER_UNKNOWN
    if is_ipv6(to.host) != peer.local.is_ipv6 or is_ipv6(source.host) != is_ipv6(stream.local_host):
        return OTHER_FAMILY
    if source == to or (stream.latch.is_asymmetric and source.host == to.host):
        return REFLECTED
    if is_link_local(source.host) or is_link_local(stream.local_host):
        return LINK_LOCAL
    if is_link_local(to.host) or is_link_local(peer.local_host):
        return LINK_LOCAL
    return ForwardingEntry(
        port=stream.local_port,
        local_host=stream.local_host,
        source=source,
        is_any_source_port=stream.latch.is_asymmetric,
        is_rtp=stream.component is Component.RTP,
        from_host=peer.local_host,
        from_port=peer.local_port,
        to=to,
        tos=peer.tos,
        slot=stream.local.slot,
        tee=stream.tee,
        tee_type=stream.tee_type,
        hidden_type=stream.hidden_type,
    )


@dataclass(frozen=True, slots=True)
class Diff:
    """Lists what to do, in this order, so that no port ever keeps an entry that is not wanted."""

    withdraw: tuple[int, ...]
    """Keys of ports."""
    install: tuple[ForwardingEntry, ...]


def diff(have: Mapping[int, ForwardingEntry], want: Mapping[int, ForwardingEntry]) -> Diff:
    """Compare installed entries with wanted ones; an entry that changed is installed over the old one."""
    return Diff(
        withdraw=tuple(key for key in have if key not in want),
        install=tuple(entry for key, entry in want.items() if have.get(key) != entry),
    )
