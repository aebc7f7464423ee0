"""The command `rtpproxy-makeann`, by click: makes prompts, and says which it made and which not.

Source: protocol.md 9.2. As there, the exit status of each error is 1, also of a mistake in the arguments.
"""

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from rtpproxy.errors import NoPromptError

_NAME = "rtpproxy-makeann"
_MOST_SAMPLES = 24 * 3600 * 8000
"""Of `-l`: a day, so that a mistyped number does not fill the disk."""


@click.command(_NAME, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "-l",
    "limit",
    metavar="SAMPLES",
    type=click.IntRange(1, _MOST_SAMPLES),
    help="Make the prompts no longer than this. 8000 are a second, whatever the rate of INFILE.",
)
@click.option("-L", "is_repeated", is_flag=True, help="Repeat INFILE until the prompts are as long as -l says.")
@click.option(
    "--raw",
    "is_headerless",
    is_flag=True,
    help="INFILE has no header: 16-bit samples, little-endian, mono, 8 kHz. "
    "Not needed if its name ends in .raw, .pcm, .sln or .sw.",
)
@click.argument("infile", type=click.Path(path_type=Path))
@click.argument("outstem", type=click.Path(), required=False)
def makeann(*, limit: int | None, is_repeated: bool, is_headerless: bool, infile: Path, outstem: str | None) -> None:
    """Make prompts for the relay from a sound file: WAV, FLAC, Ogg, MP3, AIFF, AU and others.

    INFILE may have any rate and any number of channels, which are mixed. Each codec gets a file, named OUTSTEM and its
    payload type: .0 (PCMU), .8 (PCMA), .9 (G.722), .3 (GSM) and, if the library bcg729 is installed, .18 (G.729).
    Without OUTSTEM, it is the name of INFILE. OUTSTEM is also what the relay is told to play.
    """
    if is_repeated and limit is None:
        raise click.UsageError("-L repeats up to the length of -l, which is missing")
    stem = str(infile) if outstem is None else outstem
    if os.path.basename(stem) in ("", ".", ".."):
        raise click.UsageError(f"'{stem}' is a directory: OUTSTEM is how the names of the files begin")
    try:  # here, so that --help needs no library
        from rtpproxy.makeann import prompts
    except ModuleNotFoundError as error:
        install = f"{sys.executable} -m pip install soundfile soxr G722"
        raise NoPromptError(f"the module {error.name} is missing: {install}") from error
    except OSError as error:  # soundfile's, where it came without libsndfile
        raise NoPromptError(f"{error}: apt-get install libsndfile1") from error
    order = prompts.Order(infile, stem, limit, is_repeated=is_repeated, is_headerless=is_headerless)
    made = prompts.make(order)
    for codec in made.codecs:
        click.echo(_printable(f"{order.prompt(codec)}: {codec.name}, {made.seconds:.2f} s"))
    for codec, reason in made.missing.items():
        path = order.prompt(codec)
        old = "; a file of this name from before is still there" if os.path.lexists(path) else ""
        _tell(f"{path} ({codec.name}) is not made: {reason}{old}")
    for remark in made.remarks:
        _tell(f"warning: {remark}")


def main() -> None:
    """Run the command with the arguments of this process."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what is half written is removed
    try:
        makeann(standalone_mode=False)
    except NoPromptError as error:
        _end(str(error), 1)
    except click.ClickException as error:
        _end(f"{error.format_message()} (see {_NAME} --help)", 1)
    except click.Abort:
        sys.exit(130)


def _end(message: str, status: int) -> NoReturn:
    _tell(message)
    sys.exit(status)


def _tell(message: str) -> None:
    click.echo(_printable(f"{_NAME}: {message}"), err=True)


def _printable(text: str) -> str:
    """Keep a line one line, whatever is in the names that it quotes."""
    return "".join(part if part.isprintable() else part.encode("unicode_escape").decode() for part in text)


if __name__ == "__main__":
    main()
