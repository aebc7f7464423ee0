"""Work on a disk that is done at once, or when a test says so, in the thread of the test."""

from collections.abc import Callable
from typing import Any

from rtpproxy.errors import PlaybackError
from rtpproxy.playback.disk import Job


class FakeDisk:
    """Does work when it is told to; the first `wait` of a job does it, unless the disk hangs."""

    def __init__(self) -> None:
        self.jobs: list[Job[Any]] = []
        """Work that is not done yet."""
        self.hangs = False
        self.refuses = False

    def do(self, work: Callable[[], Any], on_done: Callable[[Callable[[], Any]], None]) -> Job[Any]:
        if self.refuses:
            raise PlaybackError("the disk has not answered for long")
        job = _Job(self, work, on_done)
        self.jobs.append(job)
        return job

    def answer(self) -> None:
        """Do all work, and what follows from it."""
        while self.jobs:
            job = self.jobs.pop(0)
            job.run()
            job.tell()


class _Job(Job[Any]):
    def __init__(self, disk: FakeDisk, work: Callable[[], Any], on_done: Callable[[Callable[[], Any]], None]) -> None:
        super().__init__(work, on_done)
        self._disk = disk

    def wait(self, seconds: float) -> bool:
        if self._disk.hangs:
            return False
        if self in self._disk.jobs:
            self._disk.jobs.remove(self)
            self.run()
        return super().wait(0)
