"""Sends log lines to syslog without ever waiting for it."""

import contextlib
import errno
import logging
import socket

DEFAULT_PATH = "/dev/log"
LEVELS = {"DBUG": 10, "INFO": 20, "WARN": 30, "ERR": 40, "CRIT": 50}
"""Levels of the log, with their numbers in Python's logging."""
FACILITIES = {
    **{"KERN": 0, "USER": 1, "MAIL": 2, "DAEMON": 3, "AUTH": 4, "SYSLOG": 5, "LPR": 6, "NEWS": 7, "UUCP": 8, "CRON": 9},
    **{"AUTHPRIV": 10, "FTP": 11},
    **{f"LOCAL{number}": 16 + number for number in range(8)},
}
"""Facilities of syslog, with their numbers (syslog.h)."""
DEFAULT_FACILITY = "DAEMON"

_SEVERITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Severities of syslog.h, each with the lowest level of the log that it stands for."""
_DEBUG = 7


class SyslogHandler(logging.Handler):
    """Sends lines to syslog. Lines that syslog does not take at once are dropped and counted.

    So a slow syslog holds up neither media nor commands. Once syslog takes lines again, the first line says how many
    are missing. While nobody has the socket open, every line tries to connect again.
    """

    def __init__(self, path: str, facility: int) -> None:
        """`facility` is one of the numbers in `FACILITIES`."""
        super().__init__()
        self._path = path
        self._facility = facility
        self._dropped = 0
        # Early, because running out of descriptors is something that must be logged.
        self._socket = self._connect()

    def close(self) -> None:
        """Close the socket."""
        self._disconnect()
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line, or count it."""
        if self._dropped:
            if not self._send(self._count()):
                self._dropped += 1
                return
            self._dropped = 0
        if not self._send(record):
            self._dropped += 1

    def _count(self) -> logging.LogRecord:
        values = (__name__, logging.WARNING, __file__, 0, "lines that syslog did not take: %d", (self._dropped,), None)
        return logging.LogRecord(*values, func="emit")

    def _send(self, record: logging.LogRecord) -> bool:
        """Send one line; true if syslog took all of it."""
        priority = self._facility << 3 | _severity(record.levelno)
        # The NUL ends a line where the socket is a stream.
        line = f"<{priority}>{self.format(record)}\0".encode(errors="backslashreplace")
        try:
            return self._send_bytes(line)
        except BlockingIOError:
            return False
        except OSError:
            self._disconnect()
        # Syslog may have been restarted.
        self._socket = self._connect()
        try:
            return self._send_bytes(line)
        except OSError:
            return False

    def _send_bytes(self, line: bytes) -> bool:
        if self._socket is None:
            raise OSError(errno.ENOTCONN, "no syslog")
        if self._socket.send(line) == len(line):
            return True
        self._disconnect()  # the stream holds part of a line; a new one starts clean
        return False

    def _connect(self) -> socket.socket | None:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            with contextlib.ExitStack() as on_failure:
                try:
                    opened = on_failure.enter_context(socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK))
                    opened.connect(self._path)
                except OSError:
                    continue
                on_failure.pop_all()
                return opened
        return None

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _severity(level: int) -> int:
    return next((severity for lowest, severity in _SEVERITIES if level >= lowest), _DEBUG)
