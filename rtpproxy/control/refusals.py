"""Logs commands that are answered by an error, with the reason in words. Those beyond a rate are counted."""

import logging

from rtpproxy.control.messages import printable
from rtpproxy.seldom import is_worth_a_line

log = logging.getLogger(__name__)

LINES_PER_SECOND = 10
"""Limit of lines, so that a client that sends nonsense does not fill the log."""
MOST_BYTES = 300
"""Limit of what is shown of a command; that of a usual call has half of them."""
MOST_CHARACTERS = 4 * MOST_BYTES
"""Limit of a reason and of a session's label, which may quote a part of any length, with escapes."""


class Refusals:
    """The refused commands of one relay. Times are seconds, monotonic."""

    def __init__(self) -> None:
        self._since = float("-inf")
        self._lines = 0
        """In the second that began then."""
        self._unlogged = 0

    def refused(self, command: bytes, controller_host: str, reply: bytes, reason: str, now: float) -> None:
        """Log that a command was refused. The host is empty for this one."""
        if self._is_logged(logging.INFO, now):
            sender = f" of {controller_host}" if controller_host else ""
            log.info('command "%s"%s refused with %s: %s', _shown(command), sender, printable(reply), _cut(reason))

    def failed(self, session: str, reason: str, now: float) -> None:
        """Log that a sub-command on a session, named by its label, failed, which ended the list."""
        if self._is_logged(logging.WARNING, now):
            log.warning("%s: sub-command failed: %s", _cut(session), _cut(reason))

    def _is_logged(self, level: int, now: float) -> bool:
        """Tell if there is room for a line, and count it if not."""
        if not log.isEnabledFor(level):
            return False
        if now - self._since >= 1.0:
            self._since, self._lines = now, 0
        self._lines += 1
        if self._lines <= LINES_PER_SECOND:
            return True
        self._unlogged += 1
        if is_worth_a_line(self._unlogged):
            log.log(level, "refused commands that are not in the log: %d so far", self._unlogged)
        return False


def _shown(command: bytes) -> str:
    """Make a command fit between quotation marks, so that no command looks like the rest of a line."""
    text = command.strip(b" \t\r\n")
    shown = printable(text) if len(text) <= MOST_BYTES else printable(text[:MOST_BYTES]) + " …"
    return shown.replace('"', r"\x22")


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
