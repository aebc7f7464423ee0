"""G.729 by the library of Debian."""

import numpy as np
import pytest

from rtpproxy.errors import CodecMissingError
from rtpproxy.makeann import g729


@pytest.fixture
def encoder():
    try:
        return g729.G729Encoder()
    except CodecMissingError as error:
        pytest.skip(str(error))


def test_silence_is_not_suppressed(encoder):
    """With the silence suppression of Annex B, most frames of silence are empty, others 2 bytes."""
    coded = encoder.encode(np.zeros(80 * 200, np.int16))
    frames = np.frombuffer(coded, np.uint8).reshape(200, 10)
    assert frames[:, 2:].any(axis=1).all()


def test_samples_may_be_spread_in_memory(encoder):
    wide = np.arange(1600, dtype=np.int32)
    assert encoder.encode(wide[::2].astype(np.int16)) == g729.G729Encoder().encode(np.arange(0, 1600, 2, np.int16))
    assert encoder.encode(np.zeros(0, np.int16)) == b""


def test_a_part_of_a_frame_is_a_mistake(encoder):
    with pytest.raises(ValueError, match="reshape"):
        encoder.encode(np.zeros(79, np.int16))


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setattr(g729, "_LIBRARY", "libbcg729.so.of-nobody")
    with pytest.raises(CodecMissingError, match=r"^the library libbcg729.so.of-nobody is missing: apt-get install "):
        g729.G729Encoder()
