"""Commands and replies of the control protocol as values; the only home of wire names and numbers.

Source: protocol.md sections 2, 3 and 11. Identifiers are opaque bytes, as received.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from rtpproxy.addr import Endpoint

BASE_VERSION = b"20040107"

SUPPORTED_EXTENSIONS: dict[bytes, str] = {
    BASE_VERSION: "base protocol",
    # Kamailio and OpenSIPS use no relay that lacks this one. Several streams work; music on hold (P and S) does not
    # yet, but a controller learns of that only when it asks for music, so the answer is yes.
    b"20050322": "several RTP streams per call and music on hold",
    b"20060704": "argument to V",
    b"20080403": "statistics query",
}
"""What `VF` answers 1 for and `rtpproxy -v` lists (there without the first): date and feature (protocol.md 2.2)."""


class ErrorCode(IntEnum):
    """The number behind `E` in an error reply (protocol.md 3.3)."""

    UNKNOWN_COMMAND = 0
    ARGUMENT_COUNT = 1
    MODIFIER_NOT_ALLOWED = 2
    SUBCOMMAND = 3
    MALFORMED = 5
    DELETE_MODIFIER = 8
    NOTIFY_TAG = 10
    EXTERNAL_DIRECTION = 11
    INTERNAL_DIRECTION = 12
    CODEC_LIST = 14
    LOCAL_ADDRESS = 15
    ROUTED_ADDRESS = 16
    INFO_MODIFIER = 18
    QUERY_MODIFIER = 19
    LOCAL_ADDRESS_UNKNOWN = 31
    ROUTED_ADDRESS_UNKNOWN = 32
    UPDATE_MODIFIER = 35
    FAMILY = 36
    REMOTE_ADDRESS = 37
    SESSION_NOT_FOUND = 50
    COUNTER_UNKNOWN = 62
    NO_PORTS_UPDATE = 71
    NO_PORTS_CREATE = 72
    NOTIFY_OFF = 75
    STOPPING = 99


class CommandError(Exception):
    """A command that is refused, with the code of its reply."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(f"E{code.value}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Version:
    """`V`: the base protocol version."""


@dataclass(frozen=True, slots=True)
class FeatureProbe:
    """`VF date`: is the extension of that date supported?"""

    date: bytes


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """What a `U` or `L` says of the party that it describes."""

    remote: Endpoint | None = None
    """Signalled RTP endpoint; None when the address was ignored (protocol.md 2.3) or null."""
    is_hold: bool = False
    """The address was `0.0.0.0` or `::`."""
    is_weak: bool = False
    is_asymmetric: bool = False
    """The last of the modifiers `a` and `s` was `a`."""
    local_host: str = ""
    """Address of ours to use for sockets that are created, dotted; empty for the usual one."""
    routed_host: str = ""
    """Use the address of ours from which the host would reach this one, dotted; empty for the usual one."""


@dataclass(frozen=True, slots=True)
class Update:
    """`U`: create or update a session."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    media: MediaDescription
    has_notify: bool = False
    """A notification socket and tag were given."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """`L`: the answering party's side of a session."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    media: MediaDescription


@dataclass(frozen=True, slots=True)
class Delete:
    """`D`: drop the strong, or with `w` the weak reference."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    is_weak: bool


@dataclass(frozen=True, slots=True)
class DeleteAll:
    """`X`: drop all sessions."""


@dataclass(frozen=True, slots=True)
class Query:
    """`Q`: counters of one session."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    modifiers: bytes = b""
    """As received; they are judged only after the session was found (protocol.md 3.4)."""
    counters: tuple[bytes, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Info:
    """`I`: totals of the process."""

    with_load: bool


Command = Version | FeatureProbe | Update | Lookup | Delete | DeleteAll | Query | Info


@dataclass(frozen=True, slots=True)
class PortLine:
    """Answer to `U` and `L`: the port for the other party and, unless bound to any address, our address."""

    port: int
    host: str = ""


@dataclass(frozen=True, slots=True)
class SessionCounters:
    """What `Q` tells of a session (protocol.md 11.1); `a` is the party in the from position, `o` the other."""

    ttl_s: int
    npkts_ina: int
    npkts_ino: int
    nrelayed: int
    ndropped: int
    longest_ipi_s: float
    jitter_last: float
    """Interarrival jitter (RFC 3550 6.4.1) in timestamp units."""
    jitter_max: float
    jitter_average: float
    sent: int
    received: int
    duplicates: int
    lost: int
    parse_errors: int


@dataclass(frozen=True, slots=True)
class Totals:
    """What `I` tells of the process (protocol.md 11.2)."""

    sessions_created: int
    active_sessions: int
    packets_received: int
    packets_transmitted: int


DEFAULT_COUNTERS = (b"ttl", b"npkts_ina", b"npkts_ino", b"nrelayed", b"ndropped")
"""What `Q` without names tells, in this order."""

_COUNTERS: dict[bytes, tuple[str, bytes]] = {
    b"ttl": ("ttl_s", b"%d"),
    b"npkts_ina": ("npkts_ina", b"%d"),
    b"npkts_ino": ("npkts_ino", b"%d"),
    b"nrelayed": ("nrelayed", b"%d"),
    b"ndropped": ("ndropped", b"%d"),
    b"longest_ipi": ("longest_ipi_s", b"%f"),
    b"rtpa_jlast": ("jitter_last", b"%f"),
    b"rtpa_jmax": ("jitter_max", b"%f"),
    b"rtpa_javg": ("jitter_average", b"%f"),
    b"rtpa_nsent": ("sent", b"%d"),
    b"rtpa_nrcvd": ("received", b"%d"),
    b"rtpa_ndups": ("duplicates", b"%d"),
    b"rtpa_nlost": ("lost", b"%d"),
    b"rtpa_perrs": ("parse_errors", b"%d"),
}


def encode_error(code: ErrorCode) -> bytes:
    """The reply `E<code>`. Like all encoders here: without the final LF (protocol.md 3.3)."""
    return b"E%d" % code


def encode_port_line(line: PortLine) -> bytes:
    """The reply to `U` and `L` (protocol.md 3.2)."""
    if not line.host:
        return b"%d" % line.port
    suffix = b" 6" if ":" in line.host else b""
    return b"%d %s%s" % (line.port, line.host.encode(), suffix)


def encode_counters(counters: SessionCounters, names: Sequence[bytes], is_verbose: bool) -> bytes:
    """The reply to `Q`: the counters named, or the default ones if none is (protocol.md 11.1).

    Raises CommandError for a name that is not a counter's; case matters.
    """
    values = []
    for name in names or DEFAULT_COUNTERS:
        if name not in _COUNTERS:
            raise CommandError(ErrorCode.COUNTER_UNKNOWN)
        attribute, form = _COUNTERS[name]
        value = form % getattr(counters, attribute)
        values.append(b"%s=%s" % (name, value) if is_verbose else value)
    return b" ".join(values)


def encode_totals(totals: Totals, with_load: bool) -> bytes:
    """The reply to `I`: five lines, or six with the load (protocol.md 11.2)."""
    lines = [
        b"sessions created: %d" % totals.sessions_created,
        b"active sessions: %d" % totals.active_sessions,
        # RTP streams: a session counts for two even before it has its second leg.
        b"active streams: %d" % (2 * totals.active_sessions),
        b"packets received: %d" % totals.packets_received,
        b"packets transmitted: %d" % totals.packets_transmitted,
    ]
    if with_load:
        lines.append(b"average load: 0.000000")  # never measured, as in the reference
    return b"\n".join(lines)
