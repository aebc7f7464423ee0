"""Requests that the service executes, as values.

They hold no wire form: each front end translates its own protocol into them, as `control` does with RTPproxy's.
Call-ids and tags are opaque bytes, as the SIP proxy gave them. Source of the meanings: protocol.md sections 2.3 to 2.6
and 4.
"""

from dataclasses import dataclass

from rtpproxy.addr import Endpoint
from rtpproxy.session.local import LocalAddress


@dataclass(frozen=True, slots=True)
class MediaDescription:
    """Describes one leg's media, and which of our addresses to use for it."""

    remote: Endpoint | None = None
    """Signalled RTP endpoint; None when none was given, or a null one as on hold (protocol.md 2.3)."""
    is_weak: bool = False
    """Hold a weak reference to the session instead of the strong one (protocol.md 4.5)."""
    is_asymmetric: bool | None = None
    """Accept packets from any port of the remote host; None for the configured default."""
    is_new_port: bool = False
    """Open a new port pair, which the answer names, even if the leg has one."""
    local: LocalAddress | None = None
    """Our address for ports that are opened; None for the usual one."""
    directions: tuple[LocalAddress, ...] = ()
    """In bridge mode, our addresses towards the caller and, if there is a second, towards the callee."""
    packet_ms: int = 0
    """Milliseconds of the packets that the other party gets, of prompts, too; 0 for as they come."""
    codecs: tuple[int, ...] | None = None
    """Payload types that the party offers, in its order; None if none are named."""
    is_hold: bool = False
    """A null endpoint was given, which puts the party on hold (protocol.md 5.7); media flows on."""


@dataclass(frozen=True, slots=True)
class NotifyArguments:
    """Asks to be told when the session times out (protocol.md 2.4)."""

    target: bytes
    """As written in the request; must denote one of the configured targets."""
    tag: bytes
    """Sent with the notification."""


@dataclass(frozen=True, slots=True)
class Update:
    """Creates a session, or changes one."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    media: MediaDescription
    notify: NotifyArguments | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """Describes the answering leg of an existing session."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    media: MediaDescription


@dataclass(frozen=True, slots=True)
class Delete:
    """Drops the strong or a weak reference to every session that the tags match (protocol.md 4.5)."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    is_weak: bool


@dataclass(frozen=True, slots=True)
class Query:
    """Names one session, whose tags match exactly, and with the from-tag the leg that the request speaks for."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None


@dataclass(frozen=True, slots=True)
class Record:
    """Records what the party of the from-tag sends, in every session that the tags match (protocol.md 2.5)."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    is_single: bool
    """In one file for all streams of the session, where the format permits it."""


@dataclass(frozen=True, slots=True)
class RecordAs:
    """Records what the party of the from-tag sends, in files of a given name."""

    session: Query
    name: bytes
    is_single: bool


@dataclass(frozen=True, slots=True)
class CopyTo:
    """Sends copies of what the party of the from-tag sends to another host: RTP there, RTCP to the next port."""

    session: Query
    to: Endpoint
    wants_port: bool
    """Answer with the port that the copies leave from."""


@dataclass(frozen=True, slots=True)
class StopRecording:
    """Ends the recording or copy of what the party of the from-tag sends, in every session that the tags match."""

    call_id: bytes
    from_tag: bytes
    to_tag: bytes | None
    is_both: bool
    """End those of the other party, too."""


@dataclass(frozen=True, slots=True)
class Play:
    """Plays a prompt to the party of the from-tag, in place of one that is played to it (protocol.md 2.5, 9)."""

    session: Query
    prompt: bytes
    """Path of the file, without the payload type that is its ending."""
    payload_types: tuple[int, ...] | None
    """In order of preference; None for those that the party offered."""
    passes: int | None
    """How many times; None for ever."""


@dataclass(frozen=True, slots=True)
class StopPlaying:
    """Ends what is played to the party of the from-tag, if anything is."""

    session: Query


# Requests that may follow another one on its session. The *issuer* is the leg that the first request spoke for.


@dataclass(frozen=True, slots=True)
class SetTimeout:
    """Sets the idle timeout of the issuer's direction, seconds."""

    seconds: int
    is_reverse: bool
    """Set that of the peer's direction instead."""


@dataclass(frozen=True, slots=True)
class SetTos:
    """Sets the TOS byte (traffic class) of the RTP packets to the issuer."""

    tos: int
    is_reverse: bool
    """Set that of the packets to the peer instead."""


@dataclass(frozen=True, slots=True)
class DropReference:
    """Drops a reference to the session, as `Delete` with the session's own from-tag does."""

    is_weak: bool


@dataclass(frozen=True, slots=True)
class Feed:
    """Sends what the parties of another session send to those of this one, too (protocol.md 8.7)."""

    source: Query
