"""Relays, as far as their notes go, in processes of their own."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here

ROOT = Path(__file__).parents[2]
KEEP = """
import sys
from rtpproxy.notes.contents import Claim
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
notes = Notes(sys.argv[1:], here)
assert notes.ours.why_not == "", notes.ours.why_not
notes.ours.claim(Claim("*", 35000, 35999, True))
notes.ours.reserve("35000-35999")
notes.ours.attach([41, 42])
print("kept", flush=True)
sys.stdin.read()
"""
"""The program of a relay that keeps a note until it is killed."""


@contextlib.contextmanager
def keeping(path: Path) -> Iterator[Callable[..., Notes]]:
    """Make a function that makes the notes of one more relay, in `path` unless directories are given."""
    with contextlib.ExitStack() as stack:

        def make(*paths: Path) -> Notes:
            notes = Notes([str(one) for one in paths or (path,)], here)
            stack.callback(notes.close)
            return notes

        yield make


@contextlib.contextmanager
def living_relay(path: Path) -> Iterator[subprocess.Popen]:
    """A relay that has ports, reservations and programs, and keeps a note in `path`; it is killed in the end."""
    with subprocess.Popen(
        [sys.executable, "-c", KEEP, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "kept\n"
            yield process
        finally:
            process.kill()


def killed_relay(path: Path) -> None:
    """Leave the note of a relay that was killed."""
    with living_relay(path):
        return
