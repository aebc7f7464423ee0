"""Shows the progress of a benchmark."""

import time

import click

_started = time.monotonic()


def say(text: str) -> None:
    """Print what is being done now, and how long the benchmark has been running."""
    minutes, seconds = divmod(int(time.monotonic() - _started), 60)
    click.echo(f"[{minutes:2d}:{seconds:02d}] {text}", err=True)
