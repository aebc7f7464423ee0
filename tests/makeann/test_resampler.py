"""Sound keeps its pitch and level at another rate, gets no aliases, never wraps around, and fills whole frames."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtpproxy.makeann.resampler import Resampler
from tests.makeann.hearing import share_of_tone, tone


def resampled(sound, from_rate, to_rate):
    resampler = Resampler(from_rate, to_rate)
    return np.concatenate((resampler.resample(sound), resampler.finish()))


@pytest.mark.parametrize("to_rate", [8000, 16_000])
@pytest.mark.parametrize("from_rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_a_tone_keeps_pitch_and_level(from_rate, to_rate):
    heard = resampled(tone(1000, 1, from_rate), from_rate, to_rate)
    assert len(heard) == to_rate
    amplitude, above_rest_db = share_of_tone(heard, 1000, to_rate)
    assert amplitude == pytest.approx(0.5 * 32768, rel=0.001)
    assert above_rest_db > 75


@pytest.mark.parametrize("from_rate", [16_000, 44_100, 48_000])
def test_a_tone_too_high_for_the_rate_is_not_heard_as_another(from_rate):
    """7 kHz at 8,000 samples a second would be 1 kHz."""
    sound = tone(7000, 1, from_rate)
    inner = slice(800, -800)  # a tone that begins all at once has other frequencies there
    assert np.abs(resampled(sound, from_rate, 8000)[inner]).max() <= 1
    assert share_of_tone(resampled(sound, from_rate, 16_000), 7000, 16_000)[0] == pytest.approx(0.5 * 32768, rel=0.01)


@pytest.mark.parametrize("hertz", [300, 3400])
def test_the_band_of_telephony_is_whole(hertz):
    heard = resampled(tone(hertz, 1, 48_000), 48_000, 8000)
    assert share_of_tone(heard, hertz, 8000)[0] == pytest.approx(0.5 * 32768, rel=0.01)


def test_16_bit_samples_at_the_same_rate_do_not_change():
    samples = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
    heard = resampled(samples.astype(np.float32) / 32768, 8000, 8000)
    assert np.array_equal(heard[: len(samples)], samples)
    assert not heard[len(samples) :].any()


@pytest.mark.parametrize(
    ("loud", "clipped_s"), [(1.0, 0), (-1.0, 0), (1.5, 0.02), (-1.5, 0.02), (8.0, 0.02), (-8.0, 0.02)]
)
def test_what_is_too_loud_is_cut_down_and_counted(loud, clipped_s):
    resampler = Resampler(8000, 8000)
    heard = resampler.resample(np.full(160, loud, np.float32))
    assert set(heard.tolist()) == {32767 if loud > 0 else -32768}
    assert resampler.clipped_s == clipped_s


@pytest.mark.parametrize("from_rate", [8000, 44_100])
def test_a_loud_square_wave_does_not_wrap_around(from_rate):
    """A filter swings beyond full scale at each edge, where a sample would become one of the other sign."""
    wave = np.sign(tone(200, 1, from_rate)).astype(np.float32)
    halves = resampled(wave, from_rate, 16_000).reshape(-1, 40)[5:-5, 3:-3]
    assert np.array_equal(np.sign(halves), np.tile([[-1], [1]], (len(halves) // 2, 34)))
    assert np.abs(halves.astype(int)).min() > 20_000


@given(
    st.sampled_from([1000, 7999, 8000, 8001, 11_025, 44_100, 48_000, 768_000]),
    st.lists(st.integers(0, 3000), max_size=5),
)
@example(44_100, [44_100 // 50])
@example(7999, [1])
@example(768_000, [1])
def test_frames_are_whole_and_as_many_at_each_rate(from_rate, lengths):
    """Whatever the lengths of the parts are."""
    frames = -(-sum(lengths) * 50 // from_rate)
    for to_rate in (8000, 16_000):
        resampler = Resampler(from_rate, to_rate)
        parts = [resampler.resample(np.full(length, 0.25, np.float32)) for length in lengths]
        assert all(len(part) % (to_rate // 50) == 0 for part in parts)
        assert sum(map(len, parts)) + len(resampler.finish()) == frames * to_rate // 50
        assert resampler.seconds == frames / 50


def test_parts_are_resampled_like_the_whole():
    sound = np.random.default_rng(2).uniform(-0.5, 0.5, 44_100).astype(np.float32)
    resampler = Resampler(44_100, 8000)
    parts = [resampler.resample(part) for part in np.split(sound, [1, 1000, 30_000])]
    assert np.array_equal(np.concatenate((*parts, resampler.finish())), resampled(sound, 44_100, 8000))


def test_the_last_frame_is_filled_up_with_silence():
    heard = resampled(np.full(161, 0.5, np.float32), 8000, 8000)
    assert heard.tolist() == [16_384] * 161 + [0] * 159
