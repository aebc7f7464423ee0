"""What every module is: an observer of sessions that commands can be handed to (protocol.md 13)."""

from collections.abc import Sequence

from rtpproxy.errors import ModuleError
from rtpproxy.service.events import Observer
from rtpproxy.service.taps import Taps
from rtpproxy.session.session import Issuer


class Module(Observer):
    """Base of all modules. One object is one instance; nothing in the service knows of it but as an observer."""

    def begin(self, taps: Taps) -> None:
        """Begin, before the first request. `taps` is for having the packets of sessions looked at."""

    def command(self, arguments: Sequence[bytes], issuer: Issuer, now: float) -> bytes:
        """Do what `&& M` asks for, on the session of the issuer, and return the text to answer, empty for none.

        The text is one line and holds no `&&`. Raises ModuleError, SessionNotFoundError.
        """
        raise ModuleError("the module takes no commands")

    def start(self) -> None:
        """Begin, because the relay serves now, as the user that it stays. Raises StartError."""

    def close(self) -> None:
        """Finish within a bounded time, because the relay stops."""
