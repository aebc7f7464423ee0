"""The lines of docs/operations.md that make a recording audible, as they stand there."""

import shutil
import subprocess
import wave

import pytest

from rtpproxy.config import RecordFormat
from rtpproxy.recording import formats
from rtpproxy.recording.frames import Frames
from rtpproxy.recording.packet import Packet, Place
from tests.docs.pages import DOCS, section_blocks, text
from tests.recording.packets import BEGIN_NS
from tests.running import rtp

TOOLS = ("tshark", "sox", "xxd")
PACKETS = 50
SAMPLES = {"ul": (0x80, 0xFF), "al": (0xAA, 0xD5)}
"""The loudest sample and silence of PCMU and PCMA, by sox' name."""


@pytest.mark.skipif(any(shutil.which(name) is None for name in TOOLS), reason=f"needs {TOOLS}")
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
