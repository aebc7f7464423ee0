"""Makes the prompts of one sound: a file for each codec whose library is there."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from rtpproxy.errors import CodecMissingError, NoPromptError
from rtpproxy.makeann.codecs import CODECS, Codec, Encoder
from rtpproxy.makeann.files import all_or_none
from rtpproxy.makeann.resampler import Resampler
from rtpproxy.makeann.sounds import opened, parts

_AUDIBLE = 0.001
"""How much of a sound may be beyond full scale: filters overshoot a little, and music is often as loud as can be."""


@dataclass(frozen=True)
class Order:
    """Which sound, and how much of it, becomes `STEM.0` and so on."""

    sound: Path
    stem: str
    most_8k_samples: int | None = None
    """How long the prompts may be, in samples at 8 kHz."""
    is_repeated: bool = False
    """The sound begins again until then."""
    is_headerless: bool = False

    def prompt(self, codec: Codec) -> Path:
        """Name the prompt for this codec."""
        return Path(f"{self.stem}.{codec.payload_type}")


@dataclass(frozen=True)
class Made:
    """What was made, how long it is, and what was not made."""

    codecs: list[Codec]
    seconds: float
    missing: dict[Codec, str]
    """Why there is no prompt for a codec."""
    remarks: list[str]
    """What whoever listens to the prompts should know."""


def make(order: Order) -> Made:
    """Make the prompts that this machine can make. Raises NoPromptError; then no file has changed."""
    encoders, missing = _encoders()
    paths = [order.prompt(codec) for codec in encoders]
    if os.path.realpath(order.sound) in map(os.path.realpath, paths):
        raise NoPromptError(f"{order.sound}: a prompt would replace this file; name another OUTSTEM")
    with opened(order.sound, is_headerless=order.is_headerless) as sound, all_or_none(paths) as files:
        tracks = {codec.rate: _Track(Resampler(sound.rate, codec.rate)) for codec in encoders}
        for (codec, encoder), file in zip(encoders.items(), files, strict=True):
            tracks[codec.rate].outputs.append((encoder, file))
        for part in parts(sound, order.most_8k_samples, is_repeated=order.is_repeated):
            for track in tracks.values():
                track.add(part)
        for track in tracks.values():
            track.finish()
        seconds = max(track.resampler.seconds for track in tracks.values())
        if not seconds:
            raise NoPromptError(f"{order.sound}: no sound is in it")
        remarks = sound.remarks()
    clipped_s = max(track.resampler.clipped_s for track in tracks.values())
    if clipped_s > seconds * _AUDIBLE:
        remarks.append(f"it is too loud: {1000 * clipped_s:.3g} ms of it were cut down to full scale")
    return Made(list(encoders), seconds, missing, [f"{order.sound}: {remark}" for remark in remarks])


def _encoders() -> tuple[dict[Codec, Encoder], dict[Codec, str]]:
    """Make an encoder for each codec whose library is there, and tell why there is none for the others."""
    found: dict[Codec, Encoder] = {}
    missing: dict[Codec, str] = {}
    for codec in CODECS:
        try:
            found[codec] = codec.make_encoder()
        except CodecMissingError as error:
            missing[codec] = str(error)
    return found, missing


class _Track:
    """The sound at one rate, and the files of the codecs that take this rate."""

    def __init__(self, resampler: Resampler) -> None:
        self.resampler = resampler
        self.outputs: list[tuple[Encoder, BinaryIO]] = []

    def add(self, part: npt.NDArray[np.float32]) -> None:
        self._write(self.resampler.resample(part))

    def finish(self) -> None:
        self._write(self.resampler.finish())

    def _write(self, samples: npt.NDArray[np.int16]) -> None:
        if len(samples):
            for encoder, file in self.outputs:
                file.write(encoder.encode(samples))
