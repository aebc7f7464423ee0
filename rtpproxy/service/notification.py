"""Timeout notification: finds the target that a request names, and notifies it of a timeout (protocol.md 2.4, 10)."""

import logging
import re
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import unquote_to_bytes

from rtpproxy.config import NotifyTarget, find_target
from rtpproxy.service.events import Observer
from rtpproxy.service.requests import NotifyArguments
from rtpproxy.session.session import Notification, Session

log = logging.getLogger(__name__)

_ESCAPED = re.compile(rb"(?:[^%]|%[0-9a-fA-F]{2})*", re.DOTALL)


class Notifier(Protocol):
    """Sends notifications to controllers: `outbound.notify.Notifier`."""

    def notify(self, target: NotifyTarget, controller_host: str, text: bytes, *, is_minor: bool = False) -> None: ...


class TimeoutNotification(Observer):
    """Notifies the controller that asked for it when a session times out."""

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier

    def timed_out(self, session: Session, timeout_s: float, now: float) -> None:
        """Send the notification that the last update of the session asked for, if it did."""
        wanted = session.notification
        if wanted is not None:
            self._notifier.notify(wanted.target, wanted.controller_host, wanted.tag)


def find_notification(
    session: Session, wanted: NotifyArguments, targets: Sequence[NotifyTarget], controller_host: str
) -> Notification | None:
    """Find the target that a request names among the configured ones; None, and logged, when it is none of them."""
    target = find_target(targets, wanted.target)
    if target is None:
        log.error("%s: no notification: %r is none of the targets given with -n", session.label, wanted.target)
        return None
    return Notification(target, controller_host, wanted.tag)


def decode_tag(text: bytes) -> bytes | None:
    """Decode the URL escapes of a tag (protocol.md 2.4); None if one of them is none."""
    return unquote_to_bytes(text.replace(b"+", b" ")) if _ESCAPED.fullmatch(text) else None
