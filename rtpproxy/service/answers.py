"""Answers of the service, as values. Each front end encodes them in its own wire form."""

from collections.abc import Mapping
from dataclasses import dataclass

from rtpproxy.session.local import LocalAddress


@dataclass(frozen=True, slots=True)
class PortLine:
    """The RTP port to put into the SDP for the other party, and our address that it belongs to."""

    port: int
    local: LocalAddress


@dataclass(frozen=True, slots=True)
class SessionCounters:
    """Counts of one session, seen from the leg that asked (the issuer); its peer is the other leg."""

    seconds_left: int
    """Until the first of the session's idle timeouts."""
    received_from_issuer: int
    """RTP packets accepted from that party."""
    received_from_peer: int
    relayed: int
    """RTP packets sent on, both directions."""
    dropped: int
    """RTP packets accepted and not sent on, both directions."""
    longest_gap_s: float
    """This and what follows are the statistics of the issuer's RTP packets."""
    jitter_last: float
    """Interarrival jitter (RFC 3550 6.4.1) in timestamp units."""
    jitter_max: float
    jitter_average: float
    sent: int
    """By sequence numbers."""
    received: int
    duplicates: int
    lost: int
    parse_errors: int


@dataclass(frozen=True, slots=True)
class Tiers:
    """Counts the current streams by tier, and the frames since the start by verdict."""

    kernel: Mapping[str, int]
    """Streams by the program that forwards them."""
    userspace: Mapping[str, int]
    """Streams that userspace relays, by reason."""
    frames: Mapping[str, int]
    """Frames by verdict of the kernel programs, and packets that userspace dropped, by reason."""
    recordings: Mapping[str, int]
    """Files and packets of recordings; empty where nothing can be recorded."""
    overload: Mapping[str, int]
    """What overload protection did; empty where there is none."""
