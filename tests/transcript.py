"""Recorded control dialogues and their replay against a running relay (format: protocol.md section 17)."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import DEADLINE_S

TRANSCRIPTS = Path(__file__).parent / "transcripts" / "transcripts.jsonl"

Ask = Callable[[bytes, int], bytes]
"""Sends a request and returns the reply, which should have so many lines."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request and what the reference answered."""

    send: str
    """With placeholders such as `$NOPROMPT`."""
    reply: str
    reply_re: str | None = None
    """Stands for `reply` where parts of it vary from run to run."""
    delay_before_s: float = 0.0
    note: str = ""
    number: int = 1
    """How many times the group has asked this by now, blanks around it left out."""

    @property
    def name(self) -> str:
        """A short name that no other row of the group has."""
        return self.send.strip() + (f" #{self.number}" if self.number > 1 else "")

    def is_answered_by(self, reply: bytes) -> bool:
        """Tell whether `reply` is the reference's, apart from parts that vary."""
        text = reply.decode("latin-1")
        return text == self.reply if self.reply_re is None else re.match(self.reply_re, text) is not None


@dataclass(frozen=True, slots=True)
class Group:
    """Rows to be replayed in order on one fresh relay."""

    name: str
    setup: tuple[str, ...]
    """Command line, with placeholders."""
    transport: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row and our answer to it."""

    row: Row
    reply: bytes

    @property
    def is_same(self) -> bool:
        """Tell whether the reference's answer was given."""
        return self.row.is_answered_by(self.reply)

    def __str__(self) -> str:
        wanted = self.row.reply if self.row.reply_re is None else self.row.reply_re
        return f"{self.row.send!r}: expected {wanted!r}, got {self.reply!r} ({self.row.note})"


def load(path: Path = TRANSCRIPTS) -> dict[str, Group]:
    """All groups of a transcript file by name, in its order."""
    rows: dict[str, list[Row]] = {}
    heads: dict[str, tuple[tuple[str, ...], str]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        name = record.pop("group")
        head = tuple(record.pop("setup")), record.pop("transport")
        assert heads.setdefault(name, head) == head, f"group {name} has two setups"
        of_group = rows.setdefault(name, [])
        number = 1 + sum(row.send.strip() == record["send"].strip() for row in of_group)
        of_group.append(Row(**record, number=number))
    return {name: Group(name, *heads[name], tuple(rows[name])) for name in rows}


def fill(text: str, places: Mapping[str, str]) -> str:
    """Replace placeholders, the longest first: `$NOTIFY` begins like no other, but that may change."""
    for name in sorted(places, key=len, reverse=True):
        text = text.replace(f"${name}", places[name])
    return text


def replay(rows: Iterable[Row], ask: Ask, places: Mapping[str, str]) -> list[Outcome]:
    """Send every row in order and collect the answers."""
    outcomes = []
    for row in rows:
        if row.delay_before_s:
            time.sleep(row.delay_before_s)  # part of the record: the reference counts some things late
        request = fill(row.send, places).encode("latin-1")
        outcomes.append(Outcome(row, ask(request, row.reply.count("\n"))))
    return outcomes


@contextmanager
def client(transport: str, path: str, port: int) -> Iterator[Ask]:
    """A client as the transport demands: `unix` connects for each row, `cunix`, `tcp` and `udp` once for all."""
    if transport == "unix":
        yield lambda request, lines: _ask_once(path, request)
        return
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_UNIX if transport == "cunix" else socket.AF_INET, kind) as opened:
        opened.settimeout(DEADLINE_S)
        opened.connect(path if transport == "cunix" else ("127.0.0.1", port))
        if transport == "udp":
            yield lambda request, lines: _ask_datagram(opened, request)
        else:
            yield lambda request, lines: _ask_stream(opened, request, lines)


def _ask_once(path: str, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as opened:
        opened.settimeout(DEADLINE_S)
        opened.connect(path)
        opened.sendall(request)
        reply = b""
        while chunk := opened.recv(65536):
            reply += chunk
    return reply


def _ask_datagram(opened: socket.socket, request: bytes) -> bytes:
    opened.send(request)
    return opened.recv(65536)


def _ask_stream(opened: socket.socket, request: bytes, lines: int) -> bytes:
    """Reads the lines expected; an error reply to a single request is one line whatever was expected."""
    opened.sendall(request)
    reply = b""
    while reply.count(b"\n") < lines:
        chunk = opened.recv(65536)
        assert chunk, f"connection closed after {reply!r} in answer to {request!r}"
        reply += chunk
        if re.fullmatch(rb"E\d+\n", reply) and request.count(b"\n") == 1:
            break
    return reply
