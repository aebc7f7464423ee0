"""Commands of the control protocol as values, and the numbers of its errors.

Source: protocol.md sections 2, 3 and 11. Identifiers are opaque bytes, as received.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from rtpproxy.addr import Endpoint
from rtpproxy.session.local import LocalAddress

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
    """`I`: totals of the process; of ours, `It`: also who forwards its streams, and why not the kernel."""

    with_load: bool
    with_tiers: bool = False


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
