"""A root shell in a machine, on its console."""

import contextlib
import json
import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.gateway import CONTROL, EVERYWHERE, Gateway
from lab.machine import Machine
from lab.progress import say
from lab.roots import Image

LEAVE = b"\x1d"
"""Ctrl-], as telnet has it."""


def described(path: Path) -> Gateway:
    """The gateway that a file describes, not started."""
    found = json.loads(path.read_text())
    initrd = Path(found["initrd"]) if found["initrd"] else None
    image = Image(Path(found["disk"]), Path(found["kernel"]), initrd, found["options"])
    return Gateway(image, Path(found["report"]), Path(found["tree"]), found["slowness"])


@contextlib.contextmanager
def uncaptured(capture: Any) -> Iterator[None]:
    """Give standard input and output back that pytest keeps from its tests; `capture` is its manager of these."""
    capture.suspend_global_capture(in_=True)
    try:
        yield
    finally:
        capture.resume_global_capture()


def attach(machine: Machine) -> None:
    """Join the terminal and the console until Ctrl-] or the end of the machine."""
    print("A root shell in the machine. Ctrl-] ends it.", flush=True)
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal)
    machine.watch(lambda content: os.write(sys.stdout.fileno(), content))
    try:
        machine.console.send(b"\n")
        while machine.status is None:
            ready, _, _ = select.select([terminal], [], [], 1.0)
            if ready:
                typed = os.read(terminal, 4096)
                if not typed or LEAVE in typed:
                    return
                machine.console.sendall(typed)
    finally:
        machine.watch(None)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def main(path: Path) -> None:
    """Boot, start a relay on all addresses, and attach."""
    with described(path) as gateway, gateway.relay(*EVERYWHERE):
        say(f"a relay runs: control socket udp:{CONTROL[0]}:{CONTROL[1]}, phones at out0, out1 and out2")
        attach(gateway.machine)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
