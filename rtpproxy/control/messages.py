"""Commands of the control protocol as values, and the numbers of its errors.

A command is a request to the service, plus what exists on the wire only: sub-commands, names of counters, modifiers.
Source: protocol.md sections 2, 3 and 11.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import NoReturn

from rtpproxy.service.requests import (
    CopyTo,
    Delete,
    DropReference,
    Feed,
    Lookup,
    MediaDescription,
    Play,
    Query,
    Record,
    RecordAs,
    SetTimeout,
    SetTos,
    StopPlaying,
    StopRecording,
    Update,
)

BASE_VERSION = b"20040107"
NOTIFICATION = b"20081224"
"""The extension that is supported only when a notification socket was configured."""

SUPPORTED_EXTENSIONS: dict[bytes, str] = {
    BASE_VERSION: "base protocol",
    b"20050322": "several RTP streams per call and music on hold",
    b"20060704": "argument to V",
    b"20071116": "repacketization",
    b"20071218": "copying a stream",
    b"20080403": "statistics query",
    b"20081102": "list of codecs in U and L",
    NOTIFICATION: "timeout notification",
    b"20090810": "automatic bridging",
    b"20140323": "load tracking",
    b"20140617": "anchoring the connect time",
    b"20141004": "extendable counters",
    b"20150330": "new port",
    b"20150420": "sequence tracking counters, extended query",
    b"20150617": "wildcard in the notification target",
    b"20191015": "sub-commands",
    b"20200226": "stopping a recording",
    b"20230205": "hiding packets of the DTMF module",
    b"20230314": "query fused with delete",
    b"20230424": "longest interval and jitter counters",
    b"20250523": "local port of a copied stream",
    b"20251015": "sub-command that sets timeout and TOS",
    b"20260306": "address labels",
    b"20260308": "both legs in one command",
    b"20260309": "copying both streams of another session",
}
"""Dates for which `VF` answers 1, with the feature (protocol.md 2.2). `rtpproxy -v` lists them."""


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
    OVERLOADED = 98
    STOPPING = 99


class CommandError(Exception):
    """Refuses a command, with the code of its reply and the reason in words, for the log."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"E{code.value}: {reason}")
        self.code = code
        self.reason = reason


def printable(text: bytes) -> str:
    """Put a text on one line: control characters and bytes that are not ASCII are escaped."""
    return repr(text.rstrip(b" \t\r\n"))[2:-1]


def refuse(code: ErrorCode, reason: str) -> NoReturn:
    """Raise CommandError. The command itself is logged with the reason, which need not repeat it."""
    raise CommandError(code, reason)


@dataclass(frozen=True, slots=True)
class Version:
    """`V`: asks for the base protocol version."""


@dataclass(frozen=True, slots=True)
class FeatureProbe:
    """`VF date`: asks for support of the extension of that date."""

    date: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """`&& L`: describes the media of the other leg, as `L` with the tags of the command would."""

    media: MediaDescription


@dataclass(frozen=True, slots=True)
class ModuleCommand:
    """`&& M`: hands arguments to an instance of a module; both numbers are 1 at least."""

    module: int
    instance: int
    arguments: tuple[bytes, ...]


Subcommand = SetTimeout | SetTos | DropReference | Answer | Feed | ModuleCommand


@dataclass(frozen=True, slots=True)
class UpdateCommand:
    """`U`."""

    request: Update
    subcommands: tuple[Subcommand, ...] = ()


@dataclass(frozen=True, slots=True)
class LookupCommand:
    """`L`."""

    request: Lookup
    subcommands: tuple[Subcommand, ...] = ()


@dataclass(frozen=True, slots=True)
class DeleteAll:
    """`X`: drops all sessions."""


@dataclass(frozen=True, slots=True)
class QueryCommand:
    """`Q`: asks for counters of one session."""

    request: Query
    modifiers: bytes = b""
    """As received; they are checked only after the session was found (protocol.md 3.4)."""
    counters: tuple[bytes, ...] = ()
    """Wire names; none for the default ones."""
    subcommands: tuple[Subcommand, ...] = ()


@dataclass(frozen=True, slots=True)
class Info:
    """`I`: asks for totals of the process; `It`, an extension of ours, also for its streams by tier and reason."""

    with_load: bool
    with_tiers: bool = False


@dataclass(frozen=True, slots=True)
class GetStats:
    """`G`: asks for named totals of the process."""

    counters: tuple[bytes, ...]
    """Wire names."""
    is_verbose: bool


@dataclass(frozen=True, slots=True)
class Unplayable:
    """`P` with a list of codecs that is none. The session is looked up first (protocol.md 3.4)."""

    session: Query
    reason: str
    """In words, for the log."""


@dataclass(frozen=True, slots=True)
class Uncopyable:
    """`C` with a target that no stream can be copied to. The session is looked up first (protocol.md 3.4)."""

    session: Query
    reason: str
    """In words, for the log."""


Recording = Record | RecordAs | CopyTo | Uncopyable | StopRecording
Playback = Play | StopPlaying | Unplayable
_Other = Version | FeatureProbe | UpdateCommand | LookupCommand | Delete | DeleteAll | QueryCommand | Info | GetStats
Command = Recording | Playback | _Other
