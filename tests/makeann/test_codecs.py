"""Encoders write what G.711 says, sample for sample, and what other decoders understand."""

import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest

from rtpproxy.errors import CodecMissingError, NoPromptError
from rtpproxy.makeann.codecs import CODECS
from tests.makeann.hearing import decoded, share_of_tone, tone

BY_NAME = {codec.name: codec for codec in CODECS}
ALL_SAMPLES = np.arange(-(1 << 15), 1 << 15).astype(np.int16)
FRAME_BYTES = {"PCMU": 160, "PCMA": 160, "G.722": 160, "GSM": 33, "G.729": 20}


def encoder(codec):
    try:
        return codec.make_encoder()
    except CodecMissingError as error:
        pytest.skip(str(error))


def in_16_bits(sound):
    return np.rint(sound * 32767).astype(np.int16)


def mu_law(sample):
    """G.711, table 2: 8 segments of 16 steps over 14 bits; the character is inverted."""
    biased = min(abs(sample) // 4 + 33, 8191)
    segment = biased.bit_length() - 6
    character = segment << 4 | (biased >> (segment + 1)) & 0x0F
    return ~(character | (0x80 if sample < 0 else 0)) & 0xFF


def a_law(sample):
    """G.711, table 1: 8 segments of 16 steps over 13 bits; even bits are inverted."""
    magnitude = min(abs(sample) // 8, 4095)
    segment = max(magnitude.bit_length() - 5, 0)
    character = segment << 4 | (magnitude >> max(segment, 1)) & 0x0F
    return (character | (0 if sample < 0 else 0x80)) ^ 0x55


@pytest.mark.parametrize(("name", "law"), [("PCMU", mu_law), ("PCMA", a_law)])
def test_g711_of_each_sample(name, law):
    expected = bytes(law(int(sample)) for sample in ALL_SAMPLES)
    assert encoder(BY_NAME[name]).encode(ALL_SAMPLES) == expected


@pytest.mark.parametrize("codec", CODECS, ids=BY_NAME)
def test_a_frame_is_20_ms(codec):
    silence = np.zeros(codec.frame_samples * 50, np.int16)
    assert codec.frame_samples == codec.rate // 50
    assert len(encoder(codec).encode(silence)) == 50 * FRAME_BYTES[codec.name]


@pytest.mark.parametrize("codec", CODECS, ids=BY_NAME)
def test_parts_are_encoded_like_the_whole(codec):
    noise = np.random.default_rng(1).integers(-8000, 8000, codec.frame_samples * 30).astype(np.int16)
    by_parts = encoder(codec)
    coded = b"".join(by_parts.encode(part) for part in np.split(noise, [codec.frame_samples, codec.frame_samples * 7]))
    assert coded == encoder(codec).encode(noise)


@pytest.mark.parametrize(("name", "least_db"), [("PCMU", 33), ("PCMA", 33), ("G.722", 40), ("GSM", 25), ("G.729", 20)])
def test_another_decoder_hears_the_tone(name, least_db):
    codec = BY_NAME[name]
    heard = decoded(codec, encoder(codec).encode(in_16_bits(tone(1000, 2, codec.rate))))
    amplitude, above_rest_db = share_of_tone(heard, 1000, codec.rate)
    assert amplitude == pytest.approx(0.5 * 32767, rel=0.1)
    assert above_rest_db > least_db


def test_g722_has_the_upper_band():
    codec = BY_NAME["G.722"]
    heard = decoded(codec, encoder(codec).encode(in_16_bits(tone(5500, 2, 16_000))))
    amplitude, above_rest_db = share_of_tone(heard, 5500, 16_000)
    assert amplitude == pytest.approx(0.5 * 32767, rel=0.1)
    assert above_rest_db > 15


@pytest.mark.skipif(shutil.which("sox") is None, reason="needs sox")
def test_gsm_is_exact():
    """GSM 06.10 leaves an encoder no choice, so sox and its libgsm write the same bytes."""
    sound = np.concatenate((in_16_bits(tone(440, 1, 8000)), ALL_SAMPLES[:32_000:4]))
    command = ["sox", "-t", "s16", "-r", "8000", "-c", "1", "-", "-t", "gsm", "-"]
    sox = subprocess.run(command, input=sound.tobytes(), capture_output=True, check=True)
    assert encoder(BY_NAME["GSM"]).encode(sound) == sox.stdout


def test_no_room_to_encode_is_told():
    """Under a limit of the size of files that leaves none."""
    pcmu = encoder(BY_NAME["PCMU"])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(NoPromptError, match="cannot encode: System error"):
            pcmu.encode(ALL_SAMPLES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_payload_types():
    """Of RFC 3551, section 6."""
    assert {codec.name: codec.payload_type for codec in CODECS} == {
        "PCMU": 0,
        "PCMA": 8,
        "G.722": 9,
        "GSM": 3,
        "G.729": 18,
    }


def test_a_missing_module_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "G722", None)
    with pytest.raises(CodecMissingError, match=r"the module G722 is missing: .*python.* -m pip install G722"):
        BY_NAME["G.722"].make_encoder()
