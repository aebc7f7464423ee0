"""Reads sound files of any rate and number of channels as mono, part by part, so that their length does not matter."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import soundfile

from rtpproxy.errors import NoPromptError

HEADERLESS_RATE = 8000
HEADERLESS_SUFFIXES = (".raw", ".pcm", ".sln", ".sw")
"""Endings of names by which headerless files are known, in any case."""
_LOWEST_RATE, _HIGHEST_RATE = 1000, 768_000
_PART = 1 << 16
"""Samples that are read at once, of all channels together."""
_LOUDEST = 8.0
"""What louder samples are cut down to, so that no filter overflows."""
_SHORTER = re.compile(r"^ *(?:data|SSND|Data Size) *: *\d+ \(should be \d+\)", re.MULTILINE)
"""What libsndfile notes where a header promises more than the file has."""


class Sound(Protocol):
    """A sound that is being read."""

    rate: int

    def read(self, most: int) -> npt.NDArray[np.float32]:
        """Return the next samples, at most `most`, mono; 1.0 is full scale. None at the end."""

    def rewind(self) -> None:
        """Go back to the beginning."""

    def remarks(self) -> list[str]:
        """Tell what was wrong with the part that was read."""


class _Headerless:
    """16-bit samples, little-endian, mono, 8 kHz: what the C's makeann reads (protocol.md 9.2)."""

    rate = HEADERLESS_RATE

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._has_half_a_sample = False

    def read(self, most: int) -> npt.NDArray[np.float32]:
        try:
            data = self._file.read(2 * min(most, _PART))
        except OSError as error:
            raise NoPromptError(f"{self._path}: cannot be read: {error.strerror}") from error
        self._has_half_a_sample |= len(data) % 2 == 1
        return np.frombuffer(data, "<i2", len(data) // 2).astype(np.float32) / np.float32(1 << 15)

    def rewind(self) -> None:
        self._file.seek(0)

    def remarks(self) -> list[str]:
        return ["its last byte, half a sample, is left out"] if self._has_half_a_sample else []


class _WithHeader:
    """Whatever libsndfile knows."""

    def __init__(self, file: soundfile.SoundFile, path: Path) -> None:
        self._file, self._path = file, path
        self._read = 0
        self._is_short = _SHORTER.search(file.extra_info) is not None
        self.rate: int = file.samplerate

    def read(self, most: int) -> npt.NDArray[np.float32]:
        part = min(most, max(1, _PART // self._file.channels))
        try:
            channels = self._file.read(part, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise self._damaged(error.error_string) from error
        if not np.isfinite(channels).all():
            raise self._damaged("not all of its samples are numbers")
        self._read += len(channels)
        if not len(channels) and self._read < self._file.frames:
            self._is_short = True
        mixed: npt.NDArray[np.float32] = channels.clip(-_LOUDEST, _LOUDEST).mean(axis=1, dtype=np.float32)
        return mixed

    def rewind(self) -> None:
        try:
            self._file.seek(0)
        except soundfile.LibsndfileError as error:
            raise self._damaged(error.error_string) from error
        self._read = 0

    def _damaged(self, reason: str) -> NoPromptError:
        return NoPromptError(f"{self._path}: damaged: {reason}")

    def remarks(self) -> list[str]:
        return ["it is shorter than its header says: cut off, or written to a pipe"] if self._is_short else []


@contextmanager
def opened(path: Path, *, is_headerless: bool) -> Iterator[Sound]:
    """Open a sound file; `is_headerless`, or one of HEADERLESS_SUFFIXES, says that it is one of raw samples.

    Raises NoPromptError, also when the sound is read.
    """
    with _open(path) as file:
        if is_headerless or path.suffix.lower() in HEADERLESS_SUFFIXES:
            yield _Headerless(file, path)
            return
        with _open_with_header(file, path) as sound:
            if not _LOWEST_RATE <= sound.samplerate <= _HIGHEST_RATE:
                allowed = f"{_LOWEST_RATE} to {_HIGHEST_RATE}"
                raise NoPromptError(f"{path}: has {sound.samplerate} samples a second; {allowed} are possible")
            yield _WithHeader(sound, path)


def _open(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # which waits for no named pipe
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
    except OSError as error:
        raise NoPromptError(f"{path}: cannot be read: {error.strerror}") from error
    os.close(descriptor)
    raise NoPromptError(f"{path}: not a regular file")


def _open_with_header(file: BinaryIO, path: Path) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(file.fileno(), closefd=False)
    except soundfile.LibsndfileError as error:
        raise NoPromptError(
            f"{path}: no sound file that can be read: {error.error_string} "
            "If it has no header (16 bits, little-endian, mono, 8 kHz), say --raw."
        ) from error


def parts(sound: Sound, most_8k_samples: int | None, *, is_repeated: bool) -> Iterator[npt.NDArray[np.float32]]:
    """Read a sound up to its end or a limit, in samples at 8 kHz, whatever its own rate is.

    One that is repeated begins again until the limit, which it must have then.
    """
    left = None if most_8k_samples is None else max(1, most_8k_samples * sound.rate // HEADERLESS_RATE)
    has_sound = False
    while left is None or left > 0:
        part = sound.read(_PART if left is None else left)
        if len(part):
            has_sound = True
            left = None if left is None else left - len(part)
            yield part
        elif is_repeated and has_sound:
            has_sound = False
            sound.rewind()
        else:
            return
