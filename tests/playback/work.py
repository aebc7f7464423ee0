"""Work on a disk that is done at once, or when a test says so, in the thread of the test."""

from collections.abc import Callable
from typing import Any

from rtpproxy.errors import PlaybackError
from rtpproxy.playback.disk import Job


class FakeDisk:
    """Does work when it is told to; a `wait` for a job does it, unless the disk hangs or is too slow."""

    def __init__(self, pass_time: Callable[[float], None] = lambda seconds: None) -> None:
        """`pass_time` is told how long somebody waits."""
        self.jobs: list[Job[Any]] = []
        """Work that is not done yet."""
        self.hangs = False
        self.refuses = False
        self.takes = 0.0
        """Seconds from the start of a wait to the answer."""
        self.pass_time = pass_time

    def do(self, directory: bytes, work: Callable[[], Any], on_done: Callable[[Callable[[], Any]], None]) -> Job[Any]:
        if self.refuses:
            raise PlaybackError("the disk has not answered for long")
        job = _Job(self, work, on_done)
        self.jobs.append(job)
        return job

    def answer(self) -> None:
        """Do all work, and what follows from it."""
        while self.jobs:
            self.answer_one()

    def answer_one(self) -> None:
        """Do what was asked first."""
        job = self.jobs.pop(0)
        job.run()
        job.tell()


class _Job(Job[Any]):
    def __init__(self, disk: FakeDisk, work: Callable[[], Any], on_done: Callable[[Callable[[], Any]], None]) -> None:
        super().__init__(work, on_done, lambda: 0.0)
        self._disk = disk

    def wait(self, seconds: float) -> bool:
        if self._disk.hangs or self._disk.takes >= seconds:
            self._disk.pass_time(seconds)
            return False
        self._disk.pass_time(self._disk.takes)
        if self in self._disk.jobs:
            self._disk.jobs.remove(self)
            self.run()
            self.took_s = self._disk.takes
        return super().wait(0)
