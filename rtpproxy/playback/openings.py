"""Opens prompts for commands, which wait for that, but not long (`budget`).

A prompt that is being opened is not opened once more for those who ask for it meanwhile: they get the same file, or,
with other payload types, wait for their turn. So a path that hangs takes one thread, however often it is asked for.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from rtpproxy.errors import PlaybackError
from rtpproxy.playback.budget import Budget
from rtpproxy.playback.disk import Job, Worker, directory_of
from rtpproxy.playback.files import Files, Found

_T_contra = TypeVar("_T_contra", contravariant=True)
_T = TypeVar("_T")


class Begin(Protocol[_T_contra]):
    """Takes a file that was opened, and those who asked for it. Raises PlaybackError."""

    def __call__(self, askers: Sequence[_T_contra], found: Found, /) -> None: ...


class Fail(Protocol[_T_contra]):
    """Tells those who asked for a file, and whose commands did not wait, that they will not get it."""

    def __call__(self, askers: Sequence[_T_contra], error: PlaybackError, /) -> None: ...


class Openings(Generic[_T]):
    """The prompts of one relay that are being opened, and who asked for them."""

    def __init__(
        self, files: Files, disk: Worker, clock: Callable[[], float], begin: Begin[_T], fail: Fail[_T]
    ) -> None:
        self._files = files
        self._disk = disk
        self._clock = clock
        self._begin = begin
        self._fail = fail
        self._budget = Budget()
        self._queues: dict[bytes, dict[tuple[int, ...], list[_T]]] = {}
        """Who asked, by prompt and payload types; of each prompt the first ones are being opened."""
        self._is_waiting = False
        """A command waits for what it asked."""

    def open(self, prompt: bytes, payload_types: Sequence[int], asker: _T) -> bool:
        """Open the file of the first payload type that has one. False if `begin` or `fail` is called later.

        Raises PlaybackError for what is known at once.
        """
        wanted = tuple(payload_types)
        queue = self._queues.get(prompt)
        if queue is not None:
            queue.setdefault(wanted, []).append(asker)
            return False
        job = self._start(prompt, wanted)
        self._queues[prompt] = {wanted: [asker]}
        begun_at = self._clock()
        is_answered = self._is_waiting = True
        try:
            is_answered = job.wait(self._budget.left(begun_at))
        finally:
            self._is_waiting = False
            self._budget.spend(self._clock() - begun_at, job.took_s if is_answered else None)
        return is_answered

    def forget(self, has_left: Callable[[_T], bool]) -> None:
        """Forget those who do not want it any more: a disk may hang for days, and prompts be asked for all the time."""
        for queue in self._queues.values():
            opening = next(iter(queue))
            for wanted, askers in tuple(queue.items()):
                askers[:] = [asker for asker in askers if not has_left(asker)]
                if not askers and wanted != opening:
                    del queue[wanted]

    def _start(self, prompt: bytes, wanted: tuple[int, ...]) -> Job[Found]:
        return self._disk.do(
            directory_of(prompt),
            lambda: self._files.open(prompt, wanted),
            lambda outcome: self._opened(prompt, wanted, outcome),
        )

    def _opened(self, prompt: bytes, wanted: tuple[int, ...], outcome: Callable[[], Found]) -> None:
        askers = self._queues[prompt].pop(wanted)
        try:
            self._begin(askers, outcome())
        except PlaybackError as error:
            if self._is_waiting:
                raise
            self._fail(askers, error)
        finally:
            self._go_on(prompt)

    def _go_on(self, prompt: bytes) -> None:
        """Open what is next of a prompt."""
        queue = self._queues[prompt]
        while queue:
            wanted = next(iter(queue))
            try:
                self._start(prompt, wanted)
            except PlaybackError as error:
                self._fail(queue.pop(wanted), error)
            else:
                return
        del self._queues[prompt]
