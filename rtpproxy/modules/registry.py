"""The modules of one relay, by number and instance, as commands name them."""

from collections import Counter
from collections.abc import Sequence

from rtpproxy.config import ModuleKind
from rtpproxy.modules.module import Module
from rtpproxy.session.session import Issuer


class Registry:
    """Hands commands to modules."""

    def __init__(self, modules: Sequence[tuple[ModuleKind, Module]]) -> None:
        """Take the modules that run; those of one kind are its instances, counted from 1."""
        self._modules: dict[tuple[int, int], Module] = {}
        instances: Counter[ModuleKind] = Counter()
        for kind, module in modules:
            instances[kind] += 1
            self._modules[kind, instances[kind]] = module

    @property
    def modules(self) -> tuple[Module, ...]:
        """All of them, in the order in which they were given."""
        return tuple(self._modules.values())

    def start(self) -> None:
        """Tell all of them that the relay serves."""
        for module in self._modules.values():
            module.start()

    def has(self, number: int, instance: int) -> bool:
        """Tell whether that instance runs."""
        return (number, instance) in self._modules

    def run(self, number: int, instance: int, arguments: Sequence[bytes], issuer: Issuer, now: float) -> bytes:
        """Hand a command to a module that runs, and return the text that it answers.

        Raises ModuleError, SessionNotFoundError.
        """
        return self._modules[number, instance].command(arguments, issuer, now)
