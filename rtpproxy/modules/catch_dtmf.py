"""Reports the DTMF of the sessions whose commands ask for it (`catch_dtmf`, protocol.md 13.3).

Telephone events are found by a tap of one payload type (`recording.dtmf`), whoever relays the stream.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rtpproxy.config import DtmfSettings
from rtpproxy.errors import ModuleError
from rtpproxy.modules.module import Module
from rtpproxy.rtp.telephone_events import Event, decode
from rtpproxy.seldom import is_worth_a_line
from rtpproxy.service.events import Ending
from rtpproxy.service.notification import Notifier, decode_tag
from rtpproxy.service.taps import Tap, Taps
from rtpproxy.session.session import Issuer, Notification, Role, Session

log = logging.getLogger(__name__)

DEFAULT_TYPE = 101
_MOST_TYPE = 127
_REMEMBERED = 8
"""Events that a side was told of last: a process that is started anew finds their last packets once more."""
_SIDES = {Role.CALLER: b"0", Role.CALLEE: b"1"}


@dataclass(slots=True, eq=False)
class _Watched:
    """One side that is watched."""

    session: Session
    role: Role
    tag: bytes
    """Of the first command; later ones do not change it."""
    told: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """SSRC and timestamp of events."""


class CatchDtmf(Module):
    """The sides that are watched, and whom to tell."""

    def __init__(self, settings: DtmfSettings, notifier: Notifier) -> None:
        self._otherwise = settings.target
        self._notifier = notifier
        self._taps: Taps | None = None
        self._watched: dict[Session, dict[Role, _Watched]] = {}
        self._untold = self._floods = 0
        """Events that were too many, and how often some were."""

    def begin(self, taps: Taps) -> None:
        """Take what streams are watched with."""
        self._taps = taps

    def command(self, arguments: Sequence[bytes], issuer: Issuer, now: float) -> bytes:
        """Watch what the issuer sends: `TAG [PT [h]]`. Raises ModuleError, RecordingError, SessionNotFoundError."""
        assert self._taps is not None, "commands come after the start"
        tag, payload_type, is_hiding = _read(arguments)
        session, role = issuer.session, issuer.role
        if self._notification(session) is None:
            raise ModuleError("no DTMF is reported: the session has no notification target, nor is there --dtmf-notify")
        watched = self._watched.get(session, {}).get(role) or _Watched(session, role, tag)
        tap = Tap(
            purpose=(self, role),
            kind="dtmf",
            streams=[session.leg(role).rtp],
            on_found=lambda found: self._on_found(watched, found),
            payload_type=payload_type,
            is_hiding=is_hiding,
        )
        self._taps.put(session, tap, now)
        self._watched.setdefault(session, {})[role] = watched
        return b""

    def ended(self, session: Session, why: Ending, now: float) -> None:
        """Forget a session. What is found of its last packets is still told."""
        self._watched.pop(session, None)

    def _on_found(self, watched: _Watched, found: bytes) -> None:
        event = decode(found)
        if isinstance(event, int):
            self._note_untold(watched.session, event)
            return
        known = event.ssrc, event.timestamp
        if known in watched.told:
            return
        watched.told.append(known)
        wanted = self._notification(watched.session)
        if wanted is not None:
            self._notifier.notify(wanted.target, wanted.controller_host, _message(watched, event), is_minor=True)

    def _note_untold(self, session: Session, events: int) -> None:
        self._untold += events
        self._floods += 1
        if is_worth_a_line(self._floods):
            log.error(
                "%s: too many DTMF events: %d of one second are not reported (%d of all sessions so far)",
                *(session.label, events, self._untold),
            )

    def _notification(self, session: Session) -> Notification | None:
        """Find out whom to tell: whom the newest `U` names or, where it names nobody, the one for all sessions."""
        if session.notification is not None or self._otherwise is None:
            return session.notification
        return Notification(self._otherwise, session.controller_host, b"")


def _read(arguments: Sequence[bytes]) -> tuple[bytes, int, bool]:
    """Read tag, payload type, and if packets are hidden. Raises ModuleError."""
    if not 1 <= len(arguments) <= 3:
        raise ModuleError("catch_dtmf takes a tag, a payload type and an option: TAG [PT [h]]")
    tag, *rest = arguments
    decoded = decode_tag(tag)
    if decoded is None:
        raise ModuleError("a % without two hexadecimal digits in the tag")
    digits = rest[0] if rest else b"%d" % DEFAULT_TYPE
    if not (digits.isdigit() and len(digits) <= len(b"%d" % _MOST_TYPE) and int(digits) <= _MOST_TYPE):
        raise ModuleError(f"catch_dtmf: the payload type is no number from 0 to {_MOST_TYPE}")
    options = rest[1].lower() if len(rest) > 1 else b""
    if options.strip(b"h"):
        raise ModuleError("catch_dtmf: unknown option; the only one is h")
    return decoded, int(digits), bool(options)


def _message(watched: _Watched, event: Event) -> bytes:
    return b"%s %s %d %d %s" % (watched.tag, event.digit, event.volume, event.duration, _SIDES[watched.role])
