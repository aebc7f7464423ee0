"""A recording as the relay sees it: its files, and how they ended. Without I/O."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rtpproxy.config import RecordFormat
from rtpproxy.recording.directories import Identity
from rtpproxy.recording.taken import Group, Sink
from rtpproxy.session.session import Session


@dataclass(slots=True, eq=False, kw_only=True)
class File(Sink):
    """One file."""

    name: bytes
    """In the directory of recordings."""
    spool_name: bytes
    """In the spool while it is written; empty once it is found not to be there."""
    identity: Identity
    format: RecordFormat


@dataclass(slots=True, eq=False, kw_only=True)
class Recording(Group):
    """One or two files."""

    session: Session | None = None
    """The session that it is the whole of; None if it is of one side."""
    spool: str
    """The path of the spool that its files were made in."""
    files: list[File] = field(default_factory=list)

    @property
    def sinks(self) -> Sequence[Sink]:
        """The files."""
        return self.files

    @property
    def names(self) -> str:
        """Names of the files, as they are written in the log."""
        return ", ".join(_written(file.name) for file in self.files)

    def result(self) -> tuple[str, bool]:
        """Tell in one line what became of it, and whether all is well."""
        packets = sum(file.ended.packets for file in self.files if file.ended is not None)
        left = [file for file in self.files if file.ended is not None and not file.ended.is_in_place]
        left_names = ", ".join(_written(file.spool_name) for file in left if file.spool_name)
        where = f"; left in {self.spool}: {left_names}" if left_names else ""
        return self.outcome(f"{packets} packets in {self.names}", where)


def _written(name: bytes) -> str:
    return repr(name)[2:-1]
