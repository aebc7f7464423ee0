"""The codecs of prompts (protocol.md 9.1): their payload types, and encoders from libraries.

libsndfile has PCMU, PCMA and GSM 06.10, libg722 has G.722, bcg729 has G.729. There is no G.723.1 (payload type 4):
neither Debian nor PyPI has an encoder.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from rtpproxy.errors import CodecMissingError, NoPromptError
from rtpproxy.makeann.g729 import G729Encoder

FRAMES_PER_S = 50
"""Prompts are padded to whole frames of 20 ms, which are whole frames of each codec here."""


class Encoder(Protocol):
    """Encodes one prompt, part by part."""

    def encode(self, samples: npt.NDArray[np.int16]) -> bytes:
        """Encode samples at the codec's rate, a multiple of 20 ms. Raises NoPromptError."""


class _SndfileEncoder:
    """Lets libsndfile write a headerless file in memory.

    By a descriptor, because a Python object would be called back, and exceptions get lost there: those of signals, too.
    """

    def __init__(self, subtype: str) -> None:
        self._memory = os.memfd_create("prompt")
        self._file = soundfile.SoundFile(self._memory, "w", 8000, 1, subtype, format="RAW")

    def encode(self, samples: npt.NDArray[np.int16]) -> bytes:
        try:
            self._file.write(samples)
        except soundfile.LibsndfileError as error:  # no memory, or a limit of the size of files
            raise NoPromptError(f"cannot encode: {error.error_string}") from error
        coded = os.pread(self._memory, os.lseek(self._memory, 0, os.SEEK_CUR), 0)
        os.lseek(self._memory, 0, os.SEEK_SET)
        return coded


class _G722Encoder:
    """64 kbit/s, which is what RTP carries under payload type 9 (RFC 3551, 4.5.2)."""

    def __init__(self) -> None:
        try:
            from G722 import G722
        except ImportError as error:
            raise CodecMissingError(f"the module G722 is missing: {sys.executable} -m pip install G722") from error
        self._codec = G722(16_000, 64_000)

    def encode(self, samples: npt.NDArray[np.int16]) -> bytes:
        return bytes(self._codec.encode(samples))


@dataclass(frozen=True)
class Codec:
    """A codec of prompts: `rate` is that of the sound that it encodes, in Hz."""

    name: str
    payload_type: int
    rate: int
    make_encoder: Callable[[], Encoder]
    """Raises CodecMissingError."""

    @property
    def frame_samples(self) -> int:
        """Samples in 20 ms."""
        return self.rate // FRAMES_PER_S


CODECS = (
    Codec("PCMU", 0, 8000, lambda: _SndfileEncoder("ULAW")),
    Codec("PCMA", 8, 8000, lambda: _SndfileEncoder("ALAW")),
    Codec("G.722", 9, 16_000, _G722Encoder),
    Codec("GSM", 3, 8000, lambda: _SndfileEncoder("GSM610")),
    Codec("G.729", 18, 8000, G729Encoder),
)
