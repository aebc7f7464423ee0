"""Sounds for tests, and how they sound once coded: FFmpeg decodes, which shares no code with our encoders."""

import numpy as np
import pytest

FRAMES = {"PCMU": ("pcm_mulaw", 160), "PCMA": ("pcm_alaw", 160), "G.722": ("g722", 160)} | {
    "GSM": ("gsm", 33),
    "G.729": ("g729", 10),
}
"""By our name of a codec: FFmpeg's, and the bytes that it takes at once."""


def tone(hertz, seconds, rate, amplitude=0.5):
    """A sine, 1.0 is full scale."""
    return (amplitude * np.sin(2 * np.pi * hertz / rate * np.arange(round(seconds * rate)))).astype(np.float32)


def decoded(codec, data):
    """What a phone hears, as 16-bit samples."""
    av = pytest.importorskip("av")
    name, frame = FRAMES[codec.name]
    decoder = av.CodecContext.create(name, "r")
    decoder.sample_rate, decoder.layout = codec.rate, "mono"
    packets = [av.Packet(data[start : start + frame]) for start in range(0, len(data), frame)]
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def share_of_tone(samples, hertz, rate):
    """The amplitude of a tone in a sound, and how many dB it is above all else; 0.1 s at each end is left out."""
    heard = samples[rate // 10 : -rate // 10].astype(float)
    angle = 2 * np.pi * hertz / rate * np.arange(len(heard))
    waves = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    fit = np.linalg.lstsq(waves, heard, rcond=None)[0]
    rest = heard - waves @ fit
    return float(np.hypot(*fit)), float(10 * np.log10(np.mean((waves @ fit) ** 2) / max(np.mean(rest**2), 1e-9)))
