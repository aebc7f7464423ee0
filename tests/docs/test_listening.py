"""The lines of docs/operations.md that make a recording audible, as they stand there."""

import os
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.packet import Packet, Place
from tests.docs.pages import DOCS, code_spans, section_blocks, text
from tests.recording.packets import BEGIN_NS
from tests.running import rtp

TOOLS = ("tshark", "sox", "xxd")
PATH = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
"""Where `make test` puts extractaudio, and where people have theirs."""
PACKETS = 50
LOST = 20
"""The packet that is missing."""
SAMPLES = {"ul": (0x80, 0xFF), "al": (0xAA, 0xD5)}
"""The loudest sample and silence of PCMU and PCMA, by sox' name."""
ADDRESSES = {4: (b"\x0a\0\1\2", b"\x0a\0\2\2", b"\x0a\0\0\1"), 6: tuple(bytes(15) + bytes((one,)) for one in (2, 3, 1))}
"""Of the caller, the callee and the relay, by IP version."""

needs_extractaudio = pytest.mark.skipif(
    shutil.which("extractaudio", path=PATH) is None,
    reason="needs software: extractaudio of the C RTPproxy, which `make test` builds",
)


@pytest.mark.skipif(any(shutil.which(name) is None for name in TOOLS), reason=f"needs software: {', '.join(TOOLS)}")
@pytest.mark.parametrize("kind", [RecordFormat.PCAP, RecordFormat.PCAPNG])
@pytest.mark.parametrize("codec", SAMPLES)
def test_both_sides_in_one_file(tmp_path, kind, codec):
    loud, quiet = SAMPLES[codec]
    form = formats.make(kind, Frames(), "")
    data = form.begin
    for number in range(PACKETS):
        for host, port, sample in ((b"\x0a\0\1\2", 20002, loud), (b"\x0a\0\2\2", 20000, quiet)):
            packet = Packet(
                0, Place(host, 4000), Place(b"\x0a\0\0\1", port), rtp(number, payload=bytes([sample]) * 160)
            )
            data += form.packet(packet, BEGIN_NS + number * 20_000_000, 0)
    (tmp_path / "call.pcap").write_bytes(data + form.end(2 * PACKETS, 0, BEGIN_NS))
    (lines,) = section_blocks(DOCS / "operations.md", "Recording")
    assert "PCMU (`-t ul`; PCMA is `-t al`)" in text(DOCS / "operations.md")
    lines = lines.replace("-t ul ", f"-t {codec} ")
    subprocess.run(["sh", "-e", "-c", lines], cwd=tmp_path, check=True)
    with wave.open(str(tmp_path / "call.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (8000, 2, PACKETS * 160)
        samples = memoryview(sound.readframes(PACKETS * 160)).cast("h")
    assert all(sample > 30_000 for sample in samples[::2])
    assert all(abs(sample) < 10 for sample in samples[1::2])


def sample_of_pcmu(code):
    """A sample of 16 bits, by ITU-T G.711's table of the mu-law."""
    code ^= 0xFF
    size = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return -size if code & 0x80 else size


def sample_of_pcma(code):
    """The same, by that of the A-law."""
    code ^= 0x55
    segment, size = code >> 4 & 7, (code & 0x0F) << 4 | 8
    size = size + 0x100 << segment - 1 if segment else size
    return size if code & 0x80 else -size


CODECS = {"PCMU": (0, sample_of_pcmu, 2), "PCMA": (8, sample_of_pcma, 0)}
"""Payload type, what a code means, and by how much extractaudio's 16 bits may differ from that."""


def write_side(path, kind, version, payload_type, side):
    """Write the file of one side, which says every code, and says them to the end; what it said, by packet."""
    caller, callee, ours = ADDRESSES[version]
    host, port, step = ((caller, 20002, 1), (callee, 20000, 3))[side]
    form = formats.make(kind, Frames(), "")
    data, said = form.begin, []
    for number in range(PACKETS):
        said.append(bytes((step * (number * 160 + at) + side) % 256 for at in range(160)))
        packet = bytearray(rtp(number, ssrc=0x1234 + side, payload=said[-1]))
        packet[1] = payload_type
        if (number, side) != (LOST, 0):
            arrived = Packet(0, Place(host, 4000), Place(ours, port), bytes(packet))
            data += form.packet(arrived, BEGIN_NS + number * 20_000_000, 0)
    path.write_bytes(data + form.end(PACKETS, 0, BEGIN_NS))
    return said


def extract(directory, kind, version, payload_type):
    """Record both sides, and run the line of the page; what the sides said, and how the line ended."""
    names = ("1@example.com=tag.o.rtp", "1@example.com=tag.a.rtp")
    said = [write_side(directory / name, kind, version, payload_type, side) for side, name in enumerate(names)]
    (line,) = (span for span in code_spans(DOCS / "operations.md") if span.startswith("extractaudio -s"))
    line = line.replace("DIR/CALLID=TAG", f"'{directory}/1@example.com=tag'")
    environment = {**os.environ, "PATH": PATH}
    return said, subprocess.run(["sh", "-c", line], cwd=directory, env=environment, capture_output=True, check=False)


@needs_extractaudio
@pytest.mark.parametrize(
    ("kind", "version"), [(RecordFormat.ADHOC, 4), (RecordFormat.ADHOC, 6), (RecordFormat.PCAP, 4)]
)
@pytest.mark.parametrize("codec", CODECS)
def test_a_file_of_each_side(tmp_path, kind, version, codec):
    """Every sample is what was sent, the callee's on the left, and silence where a packet is missing."""
    payload_type, sample_of, most = CODECS[codec]
    said, line = extract(tmp_path, kind, version, payload_type)
    assert line.returncode == 0, line.stderr
    with wave.open(str(tmp_path / "call.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (8000, 2, 2)
        samples = memoryview(sound.readframes(sound.getnframes())).cast("h")
    caller, callee = ([[sample_of(code) for code in packet] for packet in packets] for packets in said)
    caller[LOST] = [0] * 160
    for heard, sent in ((samples[::2], callee), (samples[1::2], caller)):
        assert len(heard) == PACKETS * 160
        wrong = [at for at, one in enumerate(heard) if abs(one - sent[at // 160][at % 160]) > most]
        assert not wrong


@needs_extractaudio
def test_ipv6_in_pcap_is_skipped(tmp_path):
    """As the page warns: there is no sound, and no word of an error."""
    _, line = extract(tmp_path, RecordFormat.PCAP, 6, 0)
    assert (line.returncode, line.stderr) == (0, b"")
    assert line.stdout.count(b"pcount=0,") == 2
    assert not (tmp_path / "call.wav").exists()
