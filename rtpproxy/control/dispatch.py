"""One command text in, one reply text out: parse, ask the service, encode, and name errors by their wire number."""

import logging
from typing import Protocol

from rtpproxy.control.messages import (
    BASE_VERSION,
    SUPPORTED_EXTENSIONS,
    Command,
    CommandError,
    Delete,
    DeleteAll,
    ErrorCode,
    FeatureProbe,
    Info,
    Lookup,
    PortLine,
    Query,
    SessionCounters,
    Totals,
    Update,
    Version,
    encode_counters,
    encode_error,
    encode_port_line,
    encode_totals,
)
from rtpproxy.control.parser import is_verbose_query, parse
from rtpproxy.errors import LocalAddressError, NoPortsError, SessionNotFoundError, StoppingError

_LOG = logging.getLogger(__name__)

_DONE = b"0"
_NO_SESSION = b"0"
"""What `L` answers for a session that does not exist: not an error code."""


class Service(Protocol):
    """What the dispatcher needs of the relay. `now` is monotonic, in seconds."""

    def update(self, command: Update, now: float) -> PortLine:
        """Create or update a session. Raises NoPortsError, LocalAddressError, StoppingError."""

    def lookup(self, command: Lookup, now: float) -> PortLine | None:
        """The other side of a session; None if there is no such session. Raises NoPortsError, LocalAddressError."""

    def delete(self, command: Delete, now: float) -> None:
        """Drop a reference. Raises SessionNotFoundError."""

    def delete_all(self, now: float) -> None:
        """Drop every session."""

    def query(self, command: Query, now: float) -> SessionCounters:
        """Counters of a session. Raises SessionNotFoundError."""

    def info(self, now: float) -> Totals:
        """Totals of the process."""


class Dispatcher:
    """Executes command texts on a service, whatever transport they came by."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def execute(self, text: bytes, now: float) -> bytes:
        """The reply to one command, with exactly one LF at its end. `now` is monotonic, in seconds."""
        is_logged = _LOG.isEnabledFor(logging.DEBUG)
        if is_logged:
            _LOG.debug('received command "%s"', _printable(text))
        try:
            reply = self._answer(parse(text), now)
        except CommandError as error:
            reply = encode_error(error.code)
        except SessionNotFoundError:
            reply = encode_error(ErrorCode.SESSION_NOT_FOUND)
        except NoPortsError as error:
            is_new = error.is_new_session
            reply = encode_error(ErrorCode.NO_PORTS_CREATE if is_new else ErrorCode.NO_PORTS_UPDATE)
        except LocalAddressError as error:
            is_routed = error.is_routed
            reply = encode_error(ErrorCode.ROUTED_ADDRESS_UNKNOWN if is_routed else ErrorCode.LOCAL_ADDRESS_UNKNOWN)
        except StoppingError:
            reply = encode_error(ErrorCode.STOPPING)
        if is_logged:
            _LOG.debug('sending reply "%s"', _printable(reply))
        return reply + b"\n"

    def _answer(self, command: Command, now: float) -> bytes:
        match command:  # the frequent ones first
            case Update():
                return self._update(command, now)
            case Lookup():
                line = self._service.lookup(command, now)
                return _NO_SESSION if line is None else encode_port_line(line)
            case Delete():
                self._service.delete(command, now)
                return _DONE
            case Query():
                return self._query(command, now)
            case Info():
                return encode_totals(self._service.info(now), command.with_load)
            case Version():
                return BASE_VERSION
            case FeatureProbe():
                return b"1" if command.date in SUPPORTED_EXTENSIONS else b"0"
            case DeleteAll():
                self._service.delete_all(now)
                return _DONE

    def _update(self, command: Update, now: float) -> bytes:
        if command.has_notify:
            raise CommandError(ErrorCode.NOTIFY_OFF)  # no notification socket can be configured yet
        return encode_port_line(self._service.update(command, now))

    def _query(self, command: Query, now: float) -> bytes:
        counters = self._service.query(command, now)
        return encode_counters(counters, command.counters, is_verbose_query(command))


def _printable(text: bytes) -> str:
    """The text on one line: control characters and bytes that are not ASCII in escaped form."""
    return repr(text.rstrip(b" \t\r\n"))[2:-1]
