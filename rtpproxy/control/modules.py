"""The modules that commands can be handed to (`&& M`, protocol.md 2.6), as control sees them."""

from collections.abc import Sequence
from typing import NoReturn, Protocol

from rtpproxy.errors import ModuleError
from rtpproxy.session.session import Issuer


class Modules(Protocol):
    """The modules of one relay: `modules.registry.Registry` or `NoModules`."""

    def has(self, number: int, instance: int) -> bool:
        """Tell whether that instance of a module runs."""

    def run(self, number: int, instance: int, arguments: Sequence[bytes], issuer: Issuer, now: float) -> bytes:
        """Hand a command to a module that runs, and return the text that it answers, empty for plain success.

        Raises ModuleError, SessionNotFoundError.
        """


class NoModules:
    """Of a relay without modules."""

    def has(self, number: int, instance: int) -> bool:
        """Tell that none runs."""
        return False

    def run(self, number: int, instance: int, arguments: Sequence[bytes], issuer: Issuer, now: float) -> NoReturn:
        """Refuse."""
        raise ModuleError("no module runs")
