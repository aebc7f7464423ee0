"""Answers one command text: parses it, asks the service, encodes the answer, translates errors into wire codes."""

import logging
from collections.abc import Sequence
from typing import Protocol

from rtpproxy.control.messages import (
    BASE_VERSION,
    NOTIFICATION,
    SUPPORTED_EXTENSIONS,
    Answer,
    Command,
    CommandError,
    DeleteAll,
    ErrorCode,
    FeatureProbe,
    GetStats,
    Info,
    LookupCommand,
    ModuleCommand,
    Playback,
    QueryCommand,
    Recording,
    Subcommand,
    Uncopyable,
    Unplayable,
    UpdateCommand,
    Version,
    printable,
    refuse,
)
from rtpproxy.control.modules import Modules, NoModules
from rtpproxy.control.parser import Parser, is_verbose_query
from rtpproxy.control.refusals import Refusals
from rtpproxy.control.replies import (
    DONE,
    FAILED,
    CommandCounts,
    encode_counters,
    encode_error,
    encode_port_line,
    encode_results,
    encode_stats,
    encode_tiers,
    encode_totals,
)
from rtpproxy.errors import (
    ModuleError,
    NoCodecsError,
    NoPortsError,
    NotificationOffError,
    OverloadError,
    PlaybackError,
    RecordingError,
    RtpproxyError,
    SessionNotFoundError,
    StoppingError,
)
from rtpproxy.service.answers import PortLine, SessionCounters, Tiers
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
from rtpproxy.session.session import Issuer
from rtpproxy.session.totals import Totals

log = logging.getLogger(__name__)

_NO_SESSION = b"0"
"""Reply to an `L` for a session that does not exist: not an error code, but counted as an error."""


class Service(Protocol):
    """The part of `service.sessions.Service` that commands use. `now` is monotonic, in seconds."""

    @property
    def has_notification(self) -> bool:
        """Tell whether a notification socket was configured."""

    def update(self, request: Update, controller_host: str, now: float) -> tuple[PortLine, Issuer]:
        """Create or update a session. Raises NoPortsError, NotificationOffError, StoppingError, OverloadError."""

    def lookup(self, request: Lookup, now: float) -> tuple[PortLine, Issuer] | None:
        """Describe the answering leg; None if there is no such session. Raises NoPortsError."""

    def delete(self, request: Delete, now: float) -> None:
        """Drop a reference. Raises SessionNotFoundError."""

    def delete_all(self, now: float) -> None:
        """Drop every session."""

    def find(self, request: Query) -> Issuer:
        """Find the session whose tags match exactly. Raises SessionNotFoundError."""

    def query(self, issuer: Issuer, now: float) -> SessionCounters:
        """Return the counters of a session."""

    def totals(self) -> Totals:
        """Return the totals of the process."""

    def tiers(self) -> Tiers:
        """Count the streams by tier, and frames by verdict."""

    def answer(self, issuer: Issuer, media: MediaDescription, now: float) -> PortLine:
        """Describe the peer of the issuer's leg. Raises NoPortsError, SessionNotFoundError."""

    def set_timeout(self, issuer: Issuer, request: SetTimeout, now: float) -> None:
        """Change the idle timeout. Raises SessionNotFoundError."""

    def set_tos(self, issuer: Issuer, request: SetTos, now: float) -> None:
        """Change the TOS byte of packets to one leg's party. Raises SessionNotFoundError."""

    def drop(self, issuer: Issuer, request: DropReference, now: float) -> None:
        """Drop a reference of the session. Raises SessionNotFoundError."""

    def record(self, request: Record, now: float) -> None:
        """Record a side. Raises SessionNotFoundError, RecordingError."""

    def record_as(self, request: RecordAs, now: float) -> None:
        """Record a side in files of a given name. Raises SessionNotFoundError, RecordingError."""

    def copy_to(self, request: CopyTo, now: float) -> PortLine | None:
        """Copy a side to another host. Raises SessionNotFoundError, RecordingError."""

    def stop_recording(self, request: StopRecording, now: float) -> None:
        """End recordings and copies. Raises SessionNotFoundError if there are none."""

    def play(self, request: Play, now: float) -> None:
        """Play a prompt. Raises SessionNotFoundError, NoCodecsError, PlaybackError."""

    def stop_playing(self, request: StopPlaying, now: float) -> None:
        """End a prompt, if one is played. Raises SessionNotFoundError."""

    def feed(self, issuer: Issuer, request: Feed, now: float) -> None:
        """Send another session's packets to the parties. Raises SessionNotFoundError, RecordingError."""


_CODES: dict[type[RtpproxyError], ErrorCode] = {
    SessionNotFoundError: ErrorCode.SESSION_NOT_FOUND,
    NotificationOffError: ErrorCode.NOTIFY_OFF,
    OverloadError: ErrorCode.OVERLOADED,
    StoppingError: ErrorCode.STOPPING,
}
"""Errors that have one code, whatever command they refuse."""


class _UnknownLookupError(RtpproxyError):
    """Refuses an `L` for a session that does not exist."""


class Dispatcher:
    """Executes command texts on a service, for all transports."""

    def __init__(self, service: Service, parser: Parser, modules: Modules | None = None) -> None:
        self._service = service
        self._modules = modules or NoModules()
        self._parse = parser.parse
        self._counts = CommandCounts()
        self._refusals = Refusals()

    def execute(self, text: bytes, now: float, controller_host: str = "") -> bytes:
        """Execute one command and return its reply, which ends with exactly one LF.

        `now` is monotonic, in seconds; `controller_host` is the address that the command came from, empty for this
        host.
        """
        counts = self._counts
        counts.received += 1
        reason = None
        is_logged = log.isEnabledFor(logging.DEBUG)
        if is_logged:
            log.debug('received command "%s"', printable(text))
        try:
            reply = self._answer(self._parse(text), controller_host, now)
        except _UnknownLookupError as error:
            reply, reason = _NO_SESSION, str(error)
        except CommandError as error:
            reply, reason = encode_error(error.code), error.reason
        except NoPortsError as error:
            is_new = error.is_new_session
            code = ErrorCode.NO_PORTS_CREATE if is_new else ErrorCode.NO_PORTS_UPDATE
            reply, reason = encode_error(code), str(error)
        except tuple(_CODES) as error:
            reply, reason = encode_error(_CODES[type(error)]), str(error)
        if reason is not None:
            self._refusals.refused(text, controller_host, reply, reason, now)
        counts.succeeded += reason is None
        counts.failed += reason is not None
        counts.answered += 1
        if is_logged:
            log.debug('sending reply "%s"', printable(reply))
        return reply + b"\n"

    def count_repeated(self) -> None:
        """Count a command that was repeated, and answered without being executed again."""
        self._counts.repeated += 1

    def _answer(self, command: Command, controller_host: str, now: float) -> bytes:
        match command:  # the frequent ones first
            case UpdateCommand():
                line, issuer = self._service.update(command.request, controller_host, now)
                return self._follow(encode_port_line(line), command.subcommands, issuer, now)
            case LookupCommand():
                return self._lookup(command, now)
            case Delete():
                self._service.delete(command, now)
                return DONE
            case QueryCommand():
                return self._query(command, now)
            case DeleteAll():
                self._service.delete_all(now)
                return DONE
            case Version():
                return BASE_VERSION
            case FeatureProbe():
                return b"1" if self._is_supported(command.date) else b"0"
            case Info() | GetStats():
                return self._tell_totals(command)
            case Play() | StopPlaying() | Unplayable():
                return self._play(command, now)
            case _:
                return self._record(command, now)

    def _lookup(self, command: LookupCommand, now: float) -> bytes:
        found = self._service.lookup(command.request, now)
        if found is None:
            raise _UnknownLookupError("no such session")
        line, issuer = found
        return self._follow(encode_port_line(line), command.subcommands, issuer, now)

    def _query(self, command: QueryCommand, now: float) -> bytes:
        issuer = self._service.find(command.request)
        is_verbose = is_verbose_query(command)
        reply = encode_counters(self._service.query(issuer, now), command.counters, is_verbose)
        return self._follow(reply, command.subcommands, issuer, now)

    def _tell_totals(self, command: Info | GetStats) -> bytes:
        totals = self._service.totals()
        if isinstance(command, Info):
            reply = encode_totals(totals, command.with_load)
            return reply + b"\n" + encode_tiers(self._service.tiers()) if command.with_tiers else reply
        return encode_stats(totals, self._counts, command.counters, command.is_verbose)

    def _is_supported(self, date: bytes) -> bool:
        return date in SUPPORTED_EXTENSIONS and (date != NOTIFICATION or self._service.has_notification)

    def _record(self, command: Recording, now: float) -> bytes:
        line = None
        try:
            match command:
                case Record():
                    self._service.record(command, now)
                case RecordAs():
                    self._service.record_as(command, now)
                case CopyTo():
                    line = self._service.copy_to(command, now)
                case StopRecording():
                    self._service.stop_recording(command, now)
                case Uncopyable():
                    self._service.find(command.session)
                    raise RecordingError(command.reason)
        except RecordingError as error:
            refuse(ErrorCode.SESSION_NOT_FOUND if isinstance(command, Record) else ErrorCode.NOT_COPIED, str(error))
        return DONE if line is None else encode_port_line(line)

    def _play(self, command: Playback, now: float) -> bytes:
        try:
            match command:
                case Play():
                    self._service.play(command, now)
                case StopPlaying():
                    self._service.stop_playing(command, now)
                case Unplayable():
                    self._service.find(command.session)
                    raise PlaybackError(command.reason)
        except NoCodecsError as error:
            refuse(ErrorCode.NO_CODECS, str(error))
        except PlaybackError as error:
            refuse(ErrorCode.NOT_PLAYABLE, str(error))
        return DONE

    # Sub-commands

    def _follow(self, reply: bytes, subcommands: Sequence[Subcommand], issuer: Issuer, now: float) -> bytes:
        """Run sub-commands up to the first that fails (protocol.md 2.6), and return the reply with their results."""
        if not subcommands:
            return reply
        results = []
        for subcommand in subcommands:
            try:
                results.append(self._run(subcommand, issuer, now))
            except (NoPortsError, SessionNotFoundError, RecordingError, ModuleError) as error:
                self._refusals.failed(issuer.session.label, str(error), now)
                results.append(FAILED)
                break
            if isinstance(subcommand, Answer):
                issuer = issuer.peer
        return encode_results(reply, results)

    def _run(self, subcommand: Subcommand, issuer: Issuer, now: float) -> bytes:
        """Run one sub-command and return its result, empty when it has none."""
        match subcommand:
            case Answer():
                return encode_port_line(self._service.answer(issuer, subcommand.media, now))
            case SetTimeout():
                self._service.set_timeout(issuer, subcommand, now)
            case SetTos():
                self._service.set_tos(issuer, subcommand, now)
            case DropReference():
                self._service.drop(issuer, subcommand, now)
            case Feed():
                self._service.feed(issuer, subcommand, now)
            case ModuleCommand(module, instance, arguments):
                return self._modules.run(module, instance, arguments, issuer, now)
        return b""
