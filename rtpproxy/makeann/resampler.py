"""Brings sound to the rate of a codec, in 16 bits, and in whole frames."""

import numpy as np
import numpy.typing as npt
import soxr

from rtpproxy.makeann.codecs import FRAMES_PER_S

_FULL_SCALE = 1 << 15


class Resampler:
    """Takes one sound, part by part: mono, at `from_rate`, floats of which 1.0 is full scale.

    Hands out 16-bit samples at `to_rate`. Where both rates are the same, samples that had 16 bits before do not change.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._from_rate, self._to_rate = from_rate, to_rate
        self._frame = to_rate // FRAMES_PER_S
        self._stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
        self._taken = self._given = 0
        self._rest = np.zeros(0, np.int16)
        self._clipped = 0

    @property
    def clipped_s(self) -> float:
        """How much sound was beyond full scale, and is full scale now."""
        return self._clipped / self._to_rate

    @property
    def seconds(self) -> float:
        """How much sound was handed out."""
        return self._given / self._to_rate

    def resample(self, sound: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
        """Take the next part, and return as many whole frames as are ready."""
        self._taken += len(sound)
        self._add(sound, is_last=False)
        return self._take(len(self._rest) // self._frame)

    def finish(self) -> npt.NDArray[np.int16]:
        """Return the last frames, the very last filled up with silence.

        All frames together last as long as the sound, rounded up to a whole frame. So prompts of all codecs have the
        same number of frames, whatever the resampler rounds.
        """
        self._add(np.zeros(0, np.float32), is_last=True)
        missing = -(-self._taken * FRAMES_PER_S // self._from_rate) - self._given // self._frame
        self._rest = np.pad(self._rest, (0, self._frame))
        return self._take(missing)

    def _add(self, sound: npt.NDArray[np.float32], *, is_last: bool) -> None:
        if self._from_rate != self._to_rate:
            sound = self._stream.resample_chunk(sound, last=is_last)
        scaled = np.rint(sound * _FULL_SCALE)
        limited = np.clip(scaled, -_FULL_SCALE, _FULL_SCALE - 1)
        self._clipped += int(np.count_nonzero(np.abs(scaled - limited) > 1))  # 1.0 itself is not too loud
        self._rest = np.concatenate((self._rest, limited.astype(np.int16)))

    def _take(self, frames: int) -> npt.NDArray[np.int16]:
        taken, self._rest = np.split(self._rest, [frames * self._frame])
        self._given += len(taken)
        return taken
