"""Runs commands in a machine, through QEMU's guest agent (qemu-ga(8)): it needs no network, so networks may fail."""

import base64
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.lines import AnswerError
from lab.machine import Machine

_ANSWER_S = 60.0
_POLL_S = 0.05


class GuestError(Exception):
    """The guest did not do what was asked of it; the text ends with the last lines of its console."""


@dataclass(frozen=True)
class Outcome:
    """What a command in the guest gave."""

    status: int
    output: str


class Guest:
    """The system that a machine runs. `slowness` is how many times as long as usual everything may take."""

    def __init__(self, machine: Machine, slowness: float) -> None:
        self.machine = machine
        self._slowness = slowness

    def wait_until_up(self, deadline_s: float) -> None:
        """Wait until the agent of a system that boots answers."""
        end = time.monotonic() + deadline_s * self._slowness
        while not self._synchronize():
            if self.machine.status is not None:
                raise self._error(f"QEMU ended with status {self.machine.status}")
            if self.machine.has_panicked:
                raise self._error("its kernel panicked")
            if time.monotonic() > end:
                raise self._error(f"the guest did not boot within {deadline_s * self._slowness:.0f} s")

    def run(self, *args: str, deadline_s: float = 60.0, check: bool = True) -> Outcome:
        """Run a command and wait for its end. GuestError if it takes too long or, unless `check` is off, fails."""
        name = " ".join(args)
        started = self._ask("guest-exec", {"path": args[0], "arg": list(args[1:]), "capture-output": True})
        end = time.monotonic() + deadline_s * self._slowness
        while not (state := self._ask("guest-exec-status", {"pid": started["pid"]}))["exited"]:
            if time.monotonic() > end:
                raise self._error(f"{name!r} was not at its end after {deadline_s * self._slowness:.0f} s")
            time.sleep(_POLL_S)
        output = "".join(
            base64.b64decode(state.get(name, "")).decode(errors="replace") for name in ("out-data", "err-data")
        )
        outcome = Outcome(state.get("exitcode", 128 + state.get("signal", 0)), output)
        if check and outcome.status:
            raise self._error(f"{name!r} ended with status {outcome.status}: {output.strip()[-2000:]}")
        return outcome

    def shell(self, script: str, deadline_s: float = 60.0, *, check: bool = True) -> str:
        """Run a line of shell; its output."""
        return self.run("/bin/sh", "-c", script, deadline_s=deadline_s, check=check).output

    def read(self, path: str) -> bytes:
        """The content of a file."""
        handle = self._ask("guest-file-open", {"path": path, "mode": "r"})
        content = b""
        while True:
            part = self._ask("guest-file-read", {"handle": handle, "count": 1 << 20})
            content += base64.b64decode(part["buf-b64"])
            if part["eof"]:
                self._ask("guest-file-close", {"handle": handle})
                return content

    def reboot(self, deadline_s: float) -> None:
        """Reboot, and wait until the system answers again."""
        self.machine.agent.send({"execute": "guest-shutdown", "arguments": {"mode": "reboot"}})  # it has no answer
        if not self.machine.wait_for_reset(deadline_s * self._slowness):
            raise self._error(f"the guest did not go down within {deadline_s * self._slowness:.0f} s")
        self.wait_until_up(deadline_s)

    def save(self, path: str, to: Path) -> None:
        """Copy a file out of the guest."""
        to.write_bytes(self.read(path))

    def _ask(self, command: str, arguments: dict[str, Any]) -> Any:
        try:
            return self.machine.agent.ask({"execute": command, "arguments": arguments}, _ANSWER_S * self._slowness)
        except AnswerError as error:
            raise self._error(str(error)) from error

    def _synchronize(self) -> bool:
        """Begin a new conversation; false if nobody answers. Answers to earlier questions are thrown away."""
        number = random.getrandbits(31)
        agent = self.machine.agent
        try:
            # 0xFF makes the agent forget half a command, and comes before its answer (guest-sync-delimited).
            agent.send({"execute": "guest-sync-delimited", "arguments": {"id": number}}, mark=b"\xff")
            while (answer := agent.receive(2.0)) is not None:
                if answer.get("return") == number:
                    return True
        except (AnswerError, ValueError):
            time.sleep(_POLL_S)
        return False

    def _error(self, text: str) -> GuestError:
        return GuestError(f"{text}\nThe last lines of the console:\n{self.machine.tail()}")
