"""Lines that tell what goes on, with the time since the start."""

import time

_start = time.monotonic()


def say(text: str) -> None:
    """Print one line at once: a run takes minutes, and whoever waits wants to see where it is."""
    minutes, seconds = divmod(int(time.monotonic() - _start), 60)
    print(f"[{minutes:2}:{seconds:02}] {text}", flush=True)
