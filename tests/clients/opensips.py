"""A relay as OpenSIPS' rtpproxy module deals with it: how it sends, what it takes for a reply, and when it gives up.

Facts: protocol.md 14.2. Everything that OpenSIPS would choke on raises an exception named for what would follow.
"""

import dataclasses
import itertools
import os
import random
import re
import select
import socket
import time

from tests.waiting import DEADLINE_S

TRY_S = 1.0
TRIES = round(DEADLINE_S / TRY_S)
"""OpenSIPS gives up after five; here a busy machine must not make a difference."""
MAX_REPLY_BYTES = 255
BASE_VERSION = b"20040107"
REQUIRED = "20050322"
CAPABILITIES = {
    "20071116": "REPACK",
    "20081102": "CODECS",
    "20090810": "AUTOBRIDGE",
    "20081224": "NOTIFY",
    "20080403": "STATS",
    "20150617": "NOTIFY_WILD",
    "20150420": "STATS_EXTRA",
    "20170313": "TTL_CHANGE",
    "20071218": "RECORD",
    "20191015": "SUBCOMMAND",
}
"""Further capabilities that it asks for, in its order."""
NODE_TROUBLE = range(7, 11)
"""Errors of an offer that take the node out of service for a minute."""
STATISTICS = (
    ("ttl", "npkts_ina", "npkts_ino", "nrelayed", "ndropped"),
    ("rtpa_nsent", "rtpa_nrcvd", "rtpa_ndups", "rtpa_nlost", "rtpa_perrs"),
)
"""Counters by the command that asks for them."""


class NoReplyError(Exception):
    """The node is out of service: it does not answer."""


class BadReplyError(Exception):
    """The reply is not what the module can read."""


class NodeDisabledError(Exception):
    """An offer got an error that is taken for trouble of the relay: the node is out of service."""


class CallFailedError(Exception):
    """An error that fails the one call; `number` is the relay's."""

    def __init__(self, number: int) -> None:
        super().__init__(f"E{number}")
        self.number = number


# Transports: a command without its line feed in, a reply with its line feed out.


class Udp:
    """Datagrams with a cookie, sent again each second."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((host, port))
        self._numbers = itertools.count()
        self.sent = 0
        """Datagrams."""

    def close(self) -> None:
        """Release the socket."""
        self._socket.close()

    def ask(self, command: str) -> bytes:
        """Raises NoReplyError after the last try."""
        self._drain()
        cookie = f"{os.getpid()}_{random.getrandbits(31)}_{next(self._numbers)} ".encode()
        for _ in range(TRIES):
            self._socket.send(cookie + command.encode())
            self.sent += 1
            reply = self._await(cookie)
            if reply:
                return checked(reply)
        raise NoReplyError(command)

    def _drain(self) -> None:
        """Late replies to earlier commands."""
        while select.select([self._socket], [], [], 0)[0]:
            self._socket.recv(65535)

    def _await(self, cookie: bytes) -> bytes:
        """The reply to this try or an earlier one; empty when the time of the try is over."""
        end = time.monotonic() + TRY_S
        while select.select([self._socket], [], [], max(0.0, end - time.monotonic()))[0]:
            datagram = self._socket.recv(65535)
            if len(datagram) > MAX_REPLY_BYTES:
                raise BadReplyError(datagram)
            if datagram.startswith(cookie):
                return datagram.removeprefix(cookie)
        return b""


class Stream:
    """`unix:`, with a connection a command, or `cunix:` and `tcp:`, whose connection stays."""

    def __init__(self, family: int, address: str | tuple[str, int], *, is_kept: bool) -> None:
        self._family = family
        self._address = address
        self._is_kept = is_kept
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """End the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, command: str) -> bytes:
        """Raises NoReplyError when the connection fails, for `unix:` when it fails twice."""
        try:
            return checked(self._exchange(command))
        except ConnectionResetError as error:
            if self._is_kept:
                raise NoReplyError(command) from error
        try:
            return checked(self._exchange(command))
        except ConnectionResetError as error:
            raise NoReplyError(command) from error

    def _exchange(self, command: str) -> bytes:
        connection = self._connect()
        connection.sendall(command.encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n") and (part := connection.recv(MAX_REPLY_BYTES + 1)):
            reply += part
            if len(reply) > MAX_REPLY_BYTES:
                raise BadReplyError(reply)
        if not self._is_kept:
            reply += connection.recv(1)  # which must be the end
            self.close()
        return reply

    def _connect(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(self._family, socket.SOCK_STREAM)
            self._socket.settimeout(DEADLINE_S)
            self._socket.connect(self._address)
        elif select.select([self._socket], [], [], 0)[0]:
            raise BadReplyError(b"after the line feed: " + self._socket.recv(MAX_REPLY_BYTES))
        return self._socket


def checked(reply: bytes) -> bytes:
    """Exactly one line. Raises BadReplyError for anything else."""
    if not 1 < len(reply) <= MAX_REPLY_BYTES or reply.find(b"\n") != len(reply) - 1:
        raise BadReplyError(reply)
    return reply


# How the module reads a reply


@dataclasses.dataclass(frozen=True)
class Media:
    """The media address for a session description; no host when the reply has none."""

    port: int
    host: str
    is_ipv6: bool


def error_number(reply: bytes) -> int | None:
    """The number between `E` and the final line feed; None when it is no error."""
    if not reply.startswith(b"E"):
        return None
    found = re.fullmatch(rb"E([0-9]+)\n", reply)
    if found is None:
        raise BadReplyError(reply)
    return int(found[1])


def media(reply: bytes) -> Media:
    """Port, address and family of a reply; what sub-commands say after that is left alone."""
    found = re.fullmatch(rb"([0-9]{1,5})(?: ([0-9a-zA-Z.:_-]+)(?: (6))?)?(?: && [^\n]*)?\n", reply)
    if found is None or not 0 < int(found[1]) < 65536:
        raise BadReplyError(reply)
    return Media(int(found[1]), (found[2] or b"").decode(), found[3] is not None)


def integers(reply: bytes, count: int) -> list[int]:
    """So many integers, each ended by a space or the line feed."""
    numbers = re.findall(rb"(-?[0-9]+)[ \n]", reply)
    if b" ".join(numbers) + b"\n" != reply or len(numbers) != count:
        raise BadReplyError(reply)
    return [int(number) for number in numbers]


def notified(line: str) -> tuple[str, str]:
    """The kind of a notification and what it is about."""
    kinds = {"T": "timeout", "D": "dtmf", "I": "ignored"}
    if line[:1] not in kinds:
        raise BadReplyError(line)
    return kinds[line[0]], line[1:]


class Node:
    """A relay in the module's list."""

    def __init__(self, transport: Udp | Stream) -> None:
        self._transport = transport
        self.capabilities: set[str] = set()
        self.is_disabled = False

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    def ask(self, command: str) -> bytes:
        """Any command; the reply as it is. Raises NoReplyError, BadReplyError."""
        return self._transport.ask(command)

    def probe(self) -> None:
        """Find out what the relay is good for; a relay that lacks what is required is out of service."""
        has_version = self.ask("V") == BASE_VERSION + b"\n"
        self.is_disabled = not (has_version and self._supports(REQUIRED))
        if not self.is_disabled:
            self.capabilities = {name for date, name in CAPABILITIES.items() if self._supports(date)}

    def _supports(self, date: str) -> bool:
        reply = self.ask(f"VF {date}")
        if reply not in (b"0\n", b"1\n"):
            raise BadReplyError(reply)
        return reply == b"1\n"

    def offer(self, command: str) -> Media:
        """A `U` of any form. Raises NodeDisabledError, CallFailedError, BadReplyError."""
        reply = self.ask(command)
        if error_number(reply) in NODE_TROUBLE:
            self.is_disabled = True
            raise NodeDisabledError(f"{command} -> {reply!r}")
        return self._media(reply)

    def answer(self, command: str) -> Media:
        """An `L` of any form. Raises CallFailedError, BadReplyError."""
        return self._media(self.ask(command))

    def _media(self, reply: bytes) -> Media:
        number = error_number(reply)
        if number is not None:
            raise CallFailedError(number)
        return media(reply)

    def execute(self, command: str) -> None:
        """A command whose only answer is success. Raises CallFailedError, BadReplyError."""
        reply = self.ask(command)
        number = error_number(reply)
        if number is not None:
            raise CallFailedError(number)
        if reply != b"0\n":
            raise BadReplyError(reply)

    def statistics(self, call: str) -> dict[str, int]:
        """Every counter of a stream, five names a command. `call` is call-id and tags, as in the command."""
        found = {}
        for names in STATISTICS:
            reply = self.ask(f"Q {call} {' '.join(names)}")
            number = error_number(reply)
            if number is not None:
                raise CallFailedError(number)
            found.update(zip(names, integers(reply, len(names)), strict=True))
        return found

    def compose(
        self,
        command: str,
        call_id: str,
        endpoint: tuple[str, int],
        tags: str,
        *,
        flags: str = "",
        repacketize_ms: int | None = None,
        codecs: str = "",
        next_hop: str = "",
        notify: tuple[str, str] | None = None,
    ) -> str:
        """A `U` or `L` as the script wants it, less what the relay says it cannot do."""
        modifiers = flags
        if repacketize_ms is not None and "REPACK" in self.capabilities:
            modifiers += f"Z{repacketize_ms}"
        if codecs and "CODECS" in self.capabilities:
            modifiers += f"c{codecs}"
        if next_hop and "AUTOBRIDGE" in self.capabilities:
            modifiers += f"R{next_hop}"
        words = [command + modifiers, call_id, endpoint[0], str(endpoint[1]), tags]
        if notify is not None and command == "U" and "NOTIFY" in self.capabilities:
            target, tag = notify
            words += [target if "NOTIFY_WILD" in self.capabilities else target.removeprefix("tcp:"), tag]
        return " ".join(words)
