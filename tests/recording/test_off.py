"""A relay without a directory for recordings."""

import pytest

from rtpproxy.errors import RecordingError
from rtpproxy.recording.off import NoRecorder
from rtpproxy.session.session import Role
from tests.fakes import make_session


def test_nothing_is_recorded():
    recorder = NoRecorder()
    with pytest.raises(RecordingError, match="-r"):
        recorder.record(
            make_session(), Role.CALLER, None, is_single=False, on_end=lambda at: None, absorb=lambda at: None
        )
    recorder.start()
    assert recorder.counts() == {}
