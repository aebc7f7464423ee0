"""Stands in for the recorder where there is no directory for recordings (`-r`)."""

from collections.abc import Callable, Mapping

from rtpproxy.errors import RecordingError
from rtpproxy.recording.taken import Side
from rtpproxy.session.session import Role, Session


class NoRecorder:
    """Same interface as `recorder.Recorder`; records nothing."""

    has_single_files = False

    def record(
        self,
        session: Session,
        role: Role,
        name: bytes | None,
        *,
        is_single: bool,
        on_end: Callable[[float], None],
        absorb: Callable[[float], None],
    ) -> Side:
        """Raise RecordingError."""
        raise RecordingError("there is no directory for recordings: name one with -r")

    def start(self) -> None:
        """Do nothing."""

    def counts(self) -> Mapping[str, int]:
        """Return no counts."""
        return {}
