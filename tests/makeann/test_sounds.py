"""Sound files of all kinds are read as mono; those that are damaged, or lie, cost an error or a remark."""

import contextlib
import itertools
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rtpproxy.errors import NoPromptError
from rtpproxy.makeann.sounds import opened, parts
from tests.makeann.hearing import tone

RATE = 48_000
RAMP = np.arange(-1000, 1000, dtype=np.int16)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "sound.wav"


def read(path, most=None, *, is_repeated=False, is_headerless=False):
    """All samples of a sound, its rate, and the remarks."""
    with opened(path, is_headerless=is_headerless) as sound:
        whole = np.concatenate([*parts(sound, most, is_repeated=is_repeated), np.zeros(0, np.float32)])
        return whole, sound.rate, sound.remarks()


def wav(samples=RAMP, *, rate=RATE, channels=1, data_bytes=None):
    """A WAV file of 16-bit samples, with these numbers in its header, right or wrong."""
    data = samples.astype("<i2").tobytes()
    size = len(data) if data_bytes is None else data_bytes
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * channels * 2 % (1 << 32), channels * 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", (size + 36) % (1 << 32), b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size)
        + data
    )


# Kinds of files


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        *itertools.product(["WAV", "AIFF", "W64"], ["PCM_16", "PCM_24", "PCM_32", "FLOAT"]),
        *(("FLAC", "PCM_24"), ("AU", "PCM_16"), ("CAF", "PCM_16"), ("WAVEX", "PCM_16")),
    ],
)
def test_exact_kinds(file, form, subtype):
    soundfile.write(file, RAMP / 32768, RATE, format=form, subtype=subtype)
    samples, rate, remarks = read(file)
    assert rate == RATE
    assert np.array_equal(samples * 32768, RAMP)
    assert remarks == []


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        *(("WAV", "PCM_U8", 0.01), ("WAV", "ULAW", 0.02), ("WAV", "ALAW", 0.02), ("WAV", "IMA_ADPCM", 0.05)),
        *(("OGG", "VORBIS", 0.1), ("OGG", "OPUS", 0.1), ("MP3", "MPEG_LAYER_III", 0.1)),
    ],
)
def test_kinds_with_loss(file, form, subtype, tolerance):
    sound = tone(1000, 1, RATE)
    soundfile.write(file, sound, RATE, format=form, subtype=subtype)
    samples, rate, _ = read(file)
    assert rate == RATE
    assert abs(samples[2000 : len(sound) - 2000] - sound[2000:-2000]).max() < tolerance


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_mixed(file, channels):
    sides = np.stack([RAMP * number // channels for number in range(channels)], axis=1).astype(np.int16)
    soundfile.write(file, sides, RATE)
    assert read(file)[0] * 32768 == pytest.approx(sides.mean(axis=1), abs=0.001)


def test_two_full_channels_do_not_add_up_beyond_full_scale(file):
    soundfile.write(file, np.full((100, 2), 32767, np.int16), RATE)
    assert (read(file)[0] * 32768).tolist() == [32767] * 100


# Headerless files


@pytest.mark.parametrize("name", ["a.raw", "a.pcm", "a.SLN", "a.sw"])
def test_headerless_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(RAMP.astype("<i2").tobytes())
    samples, rate, remarks = read(tmp_path / name)
    assert (rate, remarks) == (8000, [])
    assert np.array_equal(samples * 32768, RAMP)


def test_headerless_by_option(file):
    file.write_bytes(struct.pack("<3h", 1, -2, 32767) + b"\x01")
    samples, rate, remarks = read(file, is_headerless=True)
    assert (rate, remarks) == (8000, ["its last byte, half a sample, is left out"])
    assert (samples * 32768).tolist() == [1, -2, 32767]


# Limits


def test_a_limit_is_counted_at_8_khz(file):
    file.write_bytes(wav(np.tile(RAMP, 100)))
    assert len(read(file, 8000)[0]) == RATE
    assert len(read(file, 10**8)[0]) == 200_000


def test_a_repeated_sound_begins_again(file):
    file.write_bytes(wav())
    samples, _, _ = read(file, 1000, is_repeated=True)
    assert np.array_equal(samples * 32768, np.tile(RAMP, 3))


def test_a_repeated_headerless_sound_begins_again(file):
    file.write_bytes(RAMP[:3].astype("<i2").tobytes())
    samples, _, _ = read(file, 7, is_repeated=True, is_headerless=True)
    assert (samples * 32768).tolist() == [-1000, -999, -998] * 2 + [-1000]


@pytest.mark.parametrize("is_headerless", [True, False])
def test_nothing_is_not_repeated_for_ever(file, is_headerless):
    file.write_bytes(b"" if is_headerless else wav(RAMP[:0]))
    assert len(read(file, 1000, is_repeated=True, is_headerless=is_headerless)[0]) == 0


# Files that are damaged, or lie

SHORT = ["it is shorter than its header says: cut off, or written to a pipe"]


def test_a_wav_file_that_is_cut_off(file):
    file.write_bytes(wav()[:-1000])
    samples, _, remarks = read(file)
    assert np.array_equal(samples * 32768, RAMP[:-500])
    assert remarks == SHORT


@pytest.mark.parametrize("size", [RATE * 2 * 36_000, (1 << 31) - 1, (1 << 32) - 1])
def test_a_header_that_promises_ten_hours_or_all_that_there_can_be(file, size):
    file.write_bytes(wav(data_bytes=size))
    samples, _, remarks = read(file)
    assert len(samples) == len(RAMP)
    assert remarks == SHORT


def test_an_mp3_file_that_is_cut_off(file):
    soundfile.write(file, tone(1000, 2, RATE), RATE, format="MP3")
    os.truncate(file, file.stat().st_size // 2)
    samples, _, remarks = read(file)
    assert 0 < len(samples) < RATE * 2
    assert remarks == SHORT


def test_a_flac_file_that_is_cut_off(file):
    soundfile.write(file, tone(1000, 2, RATE), RATE, format="FLAC")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(NoPromptError, match=r"sound.wav: damaged: .*flac decoder lost sync"):
        read(file)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"hello, world\n" * 100, bytes(4000), wav()[:30]])
def test_no_sound_file(file, data):
    file.write_bytes(data)
    with pytest.raises(NoPromptError, match=r"sound.wav: no sound file that can be read: .*say --raw\.$"):
        read(file)


@pytest.mark.parametrize("rate", [1, 999, 768_001, (1 << 31) - 1])
def test_rates_that_no_sound_has(file, rate):
    file.write_bytes(wav(rate=rate))
    with pytest.raises(NoPromptError, match=f"sound.wav: has {rate} samples a second; 1000 to 768000 are possible"):
        read(file)


def test_a_thousand_channels(file):
    file.write_bytes(wav(np.full(100_000, 1000, np.int16), channels=1000))
    assert (read(file)[0] * 32768).tolist() == pytest.approx([1000] * 100)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(file, bad):
    soundfile.write(file, np.array([0.5, bad, 0.5]), RATE, subtype="FLOAT")
    with pytest.raises(NoPromptError, match=r"sound.wav: damaged: not all of its samples are numbers"):
        read(file)


def test_samples_as_loud_as_numbers_go_do_not_overflow(file):
    soundfile.write(file, np.array([[3e38, 3e38], [-3e38, -3e38]]), RATE, subtype="FLOAT")
    assert read(file)[0].tolist() == [8.0, -8.0]


def test_what_is_no_file(tmp_path):
    with pytest.raises(NoPromptError, match=r"nowhere: cannot be read: No such file or directory"):
        read(tmp_path / "nowhere")
    with pytest.raises(NoPromptError, match="not a regular file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # where opening would wait for who writes
    with pytest.raises(NoPromptError, match="pipe: not a regular file"):
        read(tmp_path / "pipe")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["WAV", "AIFF", "FLAC", "AU", "CAF", "W64"]),
    changes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), min_size=1, max_size=6),
    length=st.integers(0, 5000),
)
def test_any_header_is_read_or_refused(file, form, changes, length):
    soundfile.write(file, RAMP, RATE, format=form, subtype="PCM_16")
    data = bytearray(file.read_bytes()[:length])
    for place, byte in changes:
        data[place : place + 1] = bytes([byte])
    file.write_bytes(data)
    with contextlib.suppress(NoPromptError):
        assert np.isfinite(read(file, 3000, is_repeated=True)[0]).all()
