"""The commands of docs/operations.md that make prompts, as they stand there."""

import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile

from rtpproxy.errors import CodecMissingError
from rtpproxy.makeann.codecs import CODECS
from rtpproxy.makeann.command import makeann
from rtpproxy.makeann.g729 import G729Encoder
from rtpproxy.makeann.sounds import HEADERLESS_SUFFIXES
from tests.docs.pages import DOCS, section_blocks, text

BIN = Path(sys.executable).parent
PAGE = DOCS / "operations.md"


def test_they_print_what_is_shown(tmp_path):
    try:
        G729Encoder()
    except CodecMissingError as error:
        pytest.skip(str(error))
    soundfile.write(tmp_path / "hold.wav", np.zeros((441_000, 2)), 44_100)
    (block,) = section_blocks(PAGE, "Making prompts")
    for shown in block.split("$ ")[1:]:
        command, _, output = shown.partition("\n")
        done = subprocess.run(
            ["sh", "-c", command.replace(".venv/bin", str(BIN))],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        assert (done.stdout, done.stderr) == (output, "")


def test_names_of_headerless_files():
    *more, last = HEADERLESS_SUFFIXES
    told = f"ends in {', '.join(more)} or {last}"
    pages = [text(DOCS / page).replace("`", "") for page in ("operations.md", "migrate.md")]
    for where in (*pages, makeann.get_help(click.Context(makeann))):
        assert told in " ".join(where.split())


def test_every_codec_is_in_the_table():
    section = text(PAGE).split("## Making prompts")[1].split("\n## ")[0]
    assert all(f"`.{codec.payload_type}`" in section and codec.name in section for codec in CODECS)
