"""JSON objects, one in a line, over a socket: how QEMU's monitor (QMP) and its guest agent are spoken to."""

import json
import select
import socket
import time
from typing import Any


class AnswerError(Exception):
    """The other end refused a command, went away, or does not answer."""


class JsonLines:
    """One conversation. What comes unasked (events) is handed out by `events`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._arrived = b""
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def send(self, message: dict[str, Any], *, mark: bytes = b"") -> None:
        """Send one message; `mark` comes before it. AnswerError if the other end is gone."""
        self._connection.setblocking(True)
        try:
            self._connection.sendall(mark + json.dumps(message).encode() + b"\n")
        except BrokenPipeError as error:
            raise AnswerError("the machine has ended") from error
        self._connection.setblocking(False)

    def ask(self, message: dict[str, Any], deadline_s: float) -> Any:
        """Send a command and wait for its answer: the value of `return`. AnswerError if there is none."""
        self.send(message)
        end = time.monotonic() + deadline_s
        what = message.get("execute")
        while True:
            answer = self.receive(end - time.monotonic())
            if answer is None:
                raise AnswerError(f"no answer to {what} within {deadline_s:.0f} s")
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise AnswerError(f"{what}: {answer['error'].get('desc', answer['error'])}")
            self.events.append(answer)

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message, or None if none comes in time. AnswerError if the other end is gone."""
        end = time.monotonic() + timeout_s
        while b"\n" not in self._arrived:
            ready, _, _ = select.select([self._connection], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            try:
                content = self._connection.recv(65536)
            except ConnectionResetError:
                content = b""
            if not content:
                raise AnswerError("the machine has ended")
            # A guest agent that was asked to begin anew sends 0xFF first: what came before it belongs to nobody.
            self._arrived = (self._arrived + content).rpartition(b"\xff")[2]
        line, _, self._arrived = self._arrived.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message
