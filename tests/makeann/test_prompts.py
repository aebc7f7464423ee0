"""The prompts of a sound are the sound, in each codec, and equally long."""

import numpy as np
import pytest
import soundfile

from rtpproxy.errors import NoPromptError
from rtpproxy.makeann.codecs import CODECS
from rtpproxy.makeann.prompts import Order, make
from tests.makeann.hearing import decoded, share_of_tone, tone
from tests.makeann.test_codecs import a_law, mu_law


@pytest.fixture
def sound(tmp_path):
    return tmp_path / "hold.wav"


@pytest.fixture
def stem(tmp_path):
    return str(tmp_path / "hold")


def test_each_codec_sounds_like_the_source(sound, stem):
    """A stereo file of a studio: 44.1 kHz, 24 bits, one tone, of which 90 % are on the left."""
    left = tone(1000, 2, 44_100, 0.9)
    soundfile.write(sound, np.stack([left, left / 9], axis=1), 44_100, subtype="PCM_24")
    order = Order(sound, stem)
    made = make(order)
    assert (made.seconds, made.remarks) == (2, [])
    assert {codec.name for codec in made.codecs} >= {"PCMU", "PCMA", "G.722", "GSM"}
    assert [*made.codecs, *made.missing] == list(CODECS)
    for codec in made.codecs:
        heard = decoded(codec, order.prompt(codec).read_bytes())
        assert len(heard) == 2 * codec.rate
        amplitude, above_rest_db = share_of_tone(heard, 1000, codec.rate)
        assert amplitude == pytest.approx(0.5 * 32768, rel=0.1)
        assert above_rest_db > 20


def test_samples_of_8_khz_are_coded_one_by_one(sound, stem):
    samples = np.random.default_rng(3).integers(-(1 << 15), 1 << 15, 100_000).astype(np.int16)
    soundfile.write(sound, samples, 8000)
    make(Order(sound, stem))
    for ending, law in ((".0", mu_law), (".8", a_law)):
        with open(stem + ending, "rb") as file:
            assert file.read() == bytes(law(int(sample)) for sample in samples)


@pytest.mark.parametrize(("ending", "subtype"), [(".0", "ULAW"), (".8", "ALAW")])
def test_what_was_coded_so_before_is_the_same_again(sound, stem, ending, subtype):
    """As in announcements that a telephone exchange saved."""
    codes = bytes(code for code in range(256) if code != 0x7F) + bytes([0xFF])
    law = soundfile.SoundFile(sound, "w", 8000, 1, subtype, format="WAV")
    law.buffer_write(np.zeros(320, np.int16).tobytes(), "int16")
    law.close()
    data = sound.read_bytes()
    at = data.index(b"data") + 8
    sound.write_bytes(data[:at] + codes + codes[:64] + data[at + 320 :])
    make(Order(sound, stem))
    with open(stem + ending, "rb") as file:
        assert file.read() == codes + codes[:64]


@pytest.mark.parametrize(("samples", "frames"), [(1, 1), (160, 1), (161, 2), (12_345, 78)])
def test_all_prompts_have_equally_many_whole_frames(tmp_path, stem, samples, frames):
    (tmp_path / "a.raw").write_bytes(bytes(2 * samples))
    order = Order(tmp_path / "a.raw", stem)
    made = make(order)
    assert made.seconds == frames / 50
    bytes_of_frame = {"GSM": 33, "G.729": 20}
    for codec in made.codecs:
        assert order.prompt(codec).stat().st_size == frames * bytes_of_frame.get(codec.name, 160)


def test_a_prompt_of_a_limited_length(sound, stem):
    soundfile.write(sound, tone(1000, 1, 44_100), 44_100)
    assert make(Order(sound, stem, most_8k_samples=1600)).seconds == 0.2
    assert make(Order(sound, stem, most_8k_samples=16_000)).seconds == 1
    assert make(Order(sound, stem, most_8k_samples=16_000, is_repeated=True)).seconds == 2


def test_a_sound_that_is_too_loud_is_told(sound, stem):
    soundfile.write(sound, np.append(np.full(1000, 1.5), np.zeros(100_000)), 8000, subtype="FLOAT")
    assert make(Order(sound, stem)).remarks == [f"{sound}: it is too loud: 125 ms of it were cut down to full scale"]


def test_a_short_peak_is_not_worth_a_word(sound, stem):
    soundfile.write(sound, np.append(np.full(50, 1.5), np.zeros(100_000)), 8000, subtype="FLOAT")
    assert make(Order(sound, stem)).remarks == []


def test_a_sound_without_sound(sound, stem, tmp_path):
    soundfile.write(sound, np.zeros(0), 8000)
    with pytest.raises(NoPromptError, match=r"hold.wav: no sound is in it"):
        make(Order(sound, stem))
    assert list(tmp_path.iterdir()) == [sound]


def test_a_damaged_sound_changes_no_file(sound, stem, tmp_path):
    """The damage comes after a second."""
    soundfile.write(sound, np.append(np.zeros(100_000), np.nan), 8000, subtype="FLOAT")
    (tmp_path / "hold.0").write_bytes(b"old")
    with pytest.raises(NoPromptError, match="damaged"):
        make(Order(sound, stem))
    assert {path.name for path in tmp_path.iterdir()} == {"hold.wav", "hold.0"}
    assert (tmp_path / "hold.0").read_bytes() == b"old"


def test_a_prompt_does_not_replace_its_own_sound(tmp_path):
    sound = tmp_path / "hold.8"
    soundfile.write(sound, np.zeros(1000), 8000, format="WAV")
    (tmp_path / "link").symlink_to(tmp_path)
    before = sound.read_bytes()
    with pytest.raises(NoPromptError, match=r"hold.8: a prompt would replace this file; name another OUTSTEM"):
        make(Order(sound, str(tmp_path / "link" / "hold")))
    assert sound.read_bytes() == before
