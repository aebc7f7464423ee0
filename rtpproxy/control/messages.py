"""Commands and replies of the control protocol as values; the only home of wire names and numbers.

Source: protocol.md sections 2, 3 and 11. Identifiers are opaque bytes, as received.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from rtpproxy.addr import Endpoint
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.totals import Totals

BASE_VERSION = b"20040107"
NOTIFICATION = b"20081224"
"""The extension that is there only when a notification socket was configured."""

SUPPORTED_EXTENSIONS: dict[bytes, str] = {
    BASE_VERSION: "base protocol",
    # Kamailio and OpenSIPS use no relay that lacks this one. Several streams work; music on hold (P and S) does not
    # yet, but a controller learns of that only when it asks for music, so the answer is yes.
    b"20050322": "several RTP streams per call and music on hold",
    b"20060704": "argument to V",
    b"20080403": "statistics query",
    NOTIFICATION: "timeout notification",
    b"20090810": "automatic bridging",
    b"20140323": "load tracking",
    b"20140617": "anchoring the connect time",
    b"20141004": "extendable counters",
    b"20150330": "new port",
    b"20150420": "sequence tracking counters, extended query",
    b"20150617": "wildcard in the notification target",
    b"20191015": "sub-commands",
    b"20230314": "query fused with delete",
    b"20230424": "longest interval and jitter counters",
    b"20251015": "sub-command that sets timeout and TOS",
    b"20260306": "address labels",
    b"20260308": "both legs in one command",
}
"""What `VF` answers 1 for and `rtpproxy -v` lists (there without the first): date and feature (protocol.md 2.2)."""


class ErrorCode(IntEnum):
    """The number behind `E` in an error reply (protocol.md 3.3)."""

    UNKNOWN_COMMAND = 0
    ARGUMENT_COUNT = 1
    MODIFIER_NOT_ALLOWED = 2
    SUBCOMMAND = 3
    MALFORMED = 5
    RECORD_MODIFIERS = 6
    RECORD_MODIFIER = 7
    DELETE_MODIFIER = 8
    STATS_MODIFIER = 9
    NOTIFY_TAG = 10
    EXTERNAL_DIRECTION = 11
    INTERNAL_DIRECTION = 12
    PACKET_LENGTH = 13
    CODEC_LIST = 14
    LOCAL_ADDRESS = 15
    ROUTED_ADDRESS = 16
    PLAY_COUNT = 17
    INFO_MODIFIER = 18
    QUERY_MODIFIER = 19
    LOCAL_ADDRESS_UNKNOWN = 31
    ROUTED_ADDRESS_UNKNOWN = 32
    UPDATE_MODIFIER = 35
    NO_CODECS = 35
    FAMILY = 36
    REMOTE_ADDRESS = 37
    SESSION_NOT_FOUND = 50
    NOT_PLAYABLE = 60
    COUNTER_UNKNOWN = 62
    NOT_COPIED = 65
    STATS_COUNTER_UNKNOWN = 68
    NO_PORTS_UPDATE = 71
    NO_PORTS_CREATE = 72
    NOTIFY_OFF = 75
    STOPPING = 99


class CommandError(Exception):
    """A command that is refused, with the code of its reply."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(f"E{code.value}")
        self.code = code


def refuse(code: ErrorCode) -> NoReturn:
    """Raise CommandError."""
    raise CommandError(code)


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
    """Signalled RTP endpoint; None when the address was ignored, or null as on hold (protocol.md 2.3)."""
    is_weak: bool = False
    is_asymmetric: bool | None = None
    """The last of the modifiers `a` and `s` was `a`; None when there was neither."""
    is_new_port: bool = False
    """Give the party that the reply is for a new port pair."""
    local: LocalAddress | None = None
    """Address of ours to use for sockets that are created; None for the usual one."""
    directions: tuple[LocalAddress, ...] = ()
    """In bridge mode, our addresses towards the caller and, if there is a second, towards the callee."""


@dataclass(frozen=True, slots=True)
class SetTimeout:
    """`&& S ttl=`: the idle timeout of the session, seconds."""

    seconds: int
    is_reverse: bool
    """Meant is the direction of the party that did not issue the command."""


@dataclass(frozen=True, slots=True)
class SetTos:
    """`&& S tos=`: the TOS byte of packets to one party."""

    tos: int
    is_reverse: bool
    """Packets to the party that did not issue the command."""


@dataclass(frozen=True, slots=True)
class DropReference:
    """`&& D`: delete the session, as by `D` with its own from-tag."""

    is_weak: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """`&& L`: the other party's media, as by `L` with the tags of the command."""

    media: MediaDescription


@dataclass(frozen=True, slots=True)
class Fork:
    """`&& C`: copy the streams of another session into this one; not supported, so it always fails."""


Subcommand = SetTimeout | SetTos | DropReference | Answer | Fork


@dataclass(frozen=True, slots=True)
class NotifyArguments:
    """Where a `U` asks timeouts to be told (protocol.md 2.4)."""

    target: bytes
    """As written; it must denote one of the configured targets."""
    tag: bytes
    """Decoded."""


@dataclass(frozen=True, slots=True)
class Update:
    """`U`: create or update a session."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    media: MediaDescription
    notify: NotifyArguments | None = None
    subcommands: tuple[Subcommand, ...] = ()


@dataclass(frozen=True, slots=True)
class Lookup:
    """`L`: the answering party's side of a session."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    media: MediaDescription
    subcommands: tuple[Subcommand, ...] = ()


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
    counters: tuple[bytes, ...] = ()
    subcommands: tuple[Subcommand, ...] = ()


@dataclass(frozen=True, slots=True)
class Info:
    """`I`: totals of the process."""

    with_load: bool


@dataclass(frozen=True, slots=True)
class GetStats:
    """`G`: named totals of the process."""

    counters: tuple[bytes, ...]
    is_verbose: bool


@dataclass(frozen=True, slots=True)
class Play:
    """`P`: play a prompt to a party. Not supported: only stopping, which needs no player, succeeds."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    is_stop: bool
    """The count was 0."""
    wants_session_codecs: bool
    """The codecs are those that `c` gave in the party's last command."""


@dataclass(frozen=True, slots=True)
class StopPlay:
    """`S`: stop playing to a party, which succeeds when nothing plays."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None


@dataclass(frozen=True, slots=True)
class Copy:
    """`C`: record to a named file, or copy to another host. Not supported."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None


@dataclass(frozen=True, slots=True)
class Record:
    """`R` and `N`: start recording, stop it. Not supported: there is nothing to start or to stop."""


_Supported = Version | FeatureProbe | Update | Lookup | Delete | DeleteAll | Query | Info | GetStats
_Unsupported = Play | StopPlay | Copy | Record
Command = _Supported | _Unsupported


@dataclass(frozen=True, slots=True)
class PortLine:
    """Answer to `U` and `L`: the port for the other party, and our address that it belongs to."""

    port: int
    local: LocalAddress


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


@dataclass(slots=True)
class CommandCounts:
    """What `G` tells of commands (protocol.md 11.4)."""

    received: int = 0
    """Repeated ones left out."""
    repeated: int = 0
    """UDP commands that were answered from the cache."""
    succeeded: int = 0
    failed: int = 0
    answered: int = 0


DEFAULT_COUNTERS = (b"ttl", b"npkts_ina", b"npkts_ino", b"nrelayed", b"ndropped")
"""What `Q` without names tells, in this order."""

DONE = b"0"
FAILED = b"-1"
"""Result of a sub-command that failed."""

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


_COMMAND_COUNTS: dict[bytes, str] = {
    b"ncmds_rcvd": "received",
    b"ncmds_rcvd_ndups": "repeated",
    b"ncmds_succd": "succeeded",
    b"ncmds_errs": "failed",
    b"ncmds_repld": "answered",
}

_TOTALS: dict[bytes, tuple[str, bytes]] = {
    b"nsess_created": ("sessions_created", b"%d"),
    b"nsess_destroyed": ("sessions_destroyed", b"%d"),
    b"nsess_timeout": ("sessions_timed_out", b"%d"),
    b"nsess_complete": ("sessions_completed", b"%d"),
    b"nsess_nortp": ("sessions_without_rtp", b"%d"),
    b"nsess_owrtp": ("sessions_with_one_way_rtp", b"%d"),
    b"nsess_nortcp": ("sessions_without_rtcp", b"%d"),
    b"nsess_owrtcp": ("sessions_with_one_way_rtcp", b"%d"),
    b"nplrs_created": ("players_created", b"%d"),
    b"nplrs_destroyed": ("players_destroyed", b"%d"),
    b"npkts_rcvd": ("packets_received", b"%d"),
    b"npkts_played": ("packets_played", b"%d"),
    b"npkts_relayed": ("packets_relayed", b"%d"),
    b"npkts_resizer_in": ("packets_to_repacketize", b"%d"),
    b"npkts_resizer_out": ("packets_repacketized", b"%d"),
    b"npkts_resizer_discard": ("packets_not_repacketized", b"%d"),
    b"npkts_discard": ("packets_discarded", b"%d"),
    b"total_duration": ("total_duration_s", b"%f"),
    b"rtpa_nsent": ("sent", b"%d"),
    b"rtpa_nrcvd": ("received", b"%d"),
    b"rtpa_ndups": ("duplicates", b"%d"),
    b"rtpa_nlost": ("lost", b"%d"),
    b"rtpa_perrs": ("parse_errors", b"%d"),
    b"pps_in": ("packets_per_second", b"%f"),
}


def encode_error(code: ErrorCode) -> bytes:
    """The reply `E<code>`. Like all encoders here: without the final LF (protocol.md 3.3)."""
    return b"E%d" % code


def encode_port_line(line: PortLine) -> bytes:
    """The reply to `U` and `L` (protocol.md 3.2): no address where the port is on all addresses of a family."""
    shown = line.local.advertised or line.local.host
    if not shown:
        return b"%d" % line.port
    suffix = b" 6" if line.local.is_ipv6 else b""
    return b"%d %s%s" % (line.port, shown.encode(), suffix)


def encode_results(main: bytes, results: Sequence[bytes]) -> bytes:
    """A reply with the results of its sub-commands (protocol.md 2.6), less those at the end that say nothing."""
    while results and not results[-1]:
        results = results[:-1]
    return b" && ".join([main, *(result or DONE for result in results)])


def encode_counters(counters: SessionCounters, names: Sequence[bytes], is_verbose: bool) -> bytes:
    """The reply to `Q`: the counters named, or the default ones if none is (protocol.md 11.1).

    Raises CommandError for a name that is not a counter's; case matters.
    """
    values = []
    for name in names or DEFAULT_COUNTERS:
        if name not in _COUNTERS:
            refuse(ErrorCode.COUNTER_UNKNOWN)
        attribute, form = _COUNTERS[name]
        values.append((name, form % getattr(counters, attribute)))
    return _join(values, is_verbose)


def encode_stats(totals: Totals, commands: CommandCounts, names: Sequence[bytes], is_verbose: bool) -> bytes:
    """The reply to `G`: the totals named, an empty line when none is (protocol.md 11.3).

    Raises CommandError for a name that is not a total's; case matters.
    """
    values = []
    for name in names:
        if name in _COMMAND_COUNTS:
            values.append((name, b"%d" % getattr(commands, _COMMAND_COUNTS[name])))
            continue
        if name not in _TOTALS:
            refuse(ErrorCode.STATS_COUNTER_UNKNOWN)
        attribute, form = _TOTALS[name]
        values.append((name, form % getattr(totals, attribute)))
    return _join(values, is_verbose)


def _join(values: Sequence[tuple[bytes, bytes]], is_verbose: bool) -> bytes:
    return b" ".join(b"%s=%s" % pair if is_verbose else pair[1] for pair in values)


def encode_totals(totals: Totals, with_load: bool) -> bytes:
    """The reply to `I`: five lines, or six with the load (protocol.md 11.2)."""
    lines = [
        b"sessions created: %d" % totals.sessions_created,
        b"active sessions: %d" % totals.active_sessions,
        # RTP streams: a session counts for two even before it has its second leg.
        b"active streams: %d" % (2 * totals.active_sessions),
        b"packets received: %d" % totals.packets_received,
        b"packets transmitted: %d" % (totals.packets_relayed + totals.packets_played),
    ]
    if with_load:
        lines.append(b"average load: 0.000000")  # never measured, as in the reference
    return b"\n".join(lines)
