"""Loads programs for interfaces: at once while the relay starts, in a thread while calls are up.

The kernel takes a tenth of a second to verify one, and commands and packets must not wait for that. bpf(2) is called
without Python's lock. With `-u`, what is not needed at the start is loaded in the thread right after it, while the
thread has the privilege (`process.privileges`); later nothing is left to load.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from rtpproxy.errors import OffloadError
from rtpproxy.network.background import Runner


class Loadable(Protocol):
    """Programs that can be loaded, as `loader.OnDemand` and `tracing.Traced`."""

    def is_settled(self, function: str) -> bool: ...
    def fd(self, function: str) -> int: ...


class BeingLoadedError(OffloadError):
    """A program is not loaded yet. Who needs it asks again when told that it was, or that it could not be."""

    def __init__(self) -> None:
        super().__init__("the program is being loaded")


class Loading:
    """Programs by their functions in `bpf/relay.c`, each loaded when it is first asked for, and never twice at once."""

    def __init__(self, programs: Loadable) -> None:
        self._programs = programs
        self._runner: Runner | None = None
        self._on_tried: Callable[[str], None] = lambda _: None
        self._under_way: set[str] = set()
        self._errors: dict[str, OffloadError] = {}
        """Why a program could not be loaded, while those who wait for it are told."""

    def load_by(self, runner: Runner, on_tried: Callable[[str], None]) -> None:
        """From now on, let `runner` load programs; `on_tried` is told of each that was loaded, or could not be."""
        self._runner, self._on_tried = runner, on_tried

    def load_at_once(self) -> None:
        """Load programs as before `load_by`. To be called after the runner was closed, which tells nobody any more."""
        self._runner = None
        self._under_way.clear()

    def fd(self, function: str) -> int:
        """Return the descriptor of a program.

        Raises OffloadError if it cannot be loaded, and BeingLoadedError while that is not known.
        """
        if function in self._errors:
            raise self._errors[function]
        if function not in self._under_way:
            if self._runner is None or self._programs.is_settled(function):
                return self._programs.fd(function)
            self._under_way.add(function)
            self._runner.run(partial(self._programs.fd, function), partial(self._on_done, function))
        raise BeingLoadedError

    def _on_done(self, function: str, outcome: Callable[[], int]) -> None:
        self._under_way.discard(function)
        try:
            outcome()
        except OffloadError as error:
            # Those who wait must hear of it. If they had it tried again, there would be no end.
            self._errors[function] = error
        try:
            self._on_tried(function)
        finally:
            self._errors.pop(function, None)
