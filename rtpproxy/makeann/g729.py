"""G.729 Annex A by the library bcg729, which Debian has and PyPI has not.

The library is GPL-3.0, so it is never a part of this package: it is used where somebody installed it.
"""

import ctypes

import numpy as np
import numpy.typing as npt

from rtpproxy.errors import CodecMissingError

_LIBRARY = "libbcg729.so.0"
_INSTALL = "apt-get install libbcg729-0"
_FRAME_SAMPLES, _FRAME_BYTES = 80, 10


class G729Encoder:
    """Encodes without silence suppression, so that each 10 ms of sound become 10 bytes."""

    def __init__(self) -> None:
        """Load the library. Raises CodecMissingError where that is not possible."""
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise CodecMissingError(f"the library {_LIBRARY} is missing: {_INSTALL}") from error
        library.initBcg729EncoderChannel.restype = ctypes.c_void_p
        self._close = library.closeBcg729EncoderChannel
        self._encode = library.bcg729Encoder
        self._channel = ctypes.c_void_p(library.initBcg729EncoderChannel(ctypes.c_uint8(0)))
        if not self._channel:
            raise MemoryError(_LIBRARY)

    def encode(self, samples: npt.NDArray[np.int16]) -> bytes:
        """Encode 16-bit samples at 8 kHz. Their number must be a multiple of 80."""
        sound = np.ascontiguousarray(samples, np.int16)
        coded = np.zeros((len(sound) // _FRAME_SAMPLES, _FRAME_BYTES), np.uint8)
        length = ctypes.c_uint8()
        for number, frame in enumerate(sound.reshape(-1, _FRAME_SAMPLES)):
            self._encode(
                self._channel,
                ctypes.c_void_p(frame.ctypes.data),
                ctypes.c_void_p(coded[number].ctypes.data),
                ctypes.byref(length),
            )
        return coded.tobytes()

    def __del__(self) -> None:
        if getattr(self, "_channel", None):
            self._close(self._channel)
