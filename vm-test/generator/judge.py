"""Gives each frame that arrives to the account of its stream, and looks closely at those that are not as expected."""

import ipaddress
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from generator.accounts import Account
from generator.differences import differences, split_tags
from generator.frames import MAGIC, MARK_BYTES, STRAY_MAGIC
from generator.words import Flags, Numbers, Rows

_EXAMPLES = 5
_RTP_HEADER_BYTES = 12


class Chunk(NamedTuple):
    """Frames that arrived at an interface, in the order of arrival.

    `frames` has one row for each, as long as the longest; `times_ns` are in the judge's time; `tag_types` and `tags`
    are those of the outer tag that the kernel took off, 0 where it took none.
    """

    frames: Rows
    lengths: Numbers
    times_ns: Numbers
    tag_types: Numbers
    tags: Numbers
    is_unfinished: Flags

    def frame(self, number: int) -> bytes:
        """One frame, as it was on the wire."""
        data = self.frames[number, : self.lengths[number]].tobytes()
        if not self.tag_types[number]:
            return data
        tag = int(self.tag_types[number]).to_bytes(2) + int(self.tags[number]).to_bytes(2)
        return data[:12] + tag + data[12:]


class _Udp(NamedTuple):
    """What a UDP packet over IP says of itself."""

    destination: str
    port: int
    payload: bytes


@dataclass
class Judge:
    """All accounts, by the interface where their frames arrive."""

    accounts: dict[str, list[Account]]
    phones: dict[tuple[str, int], tuple[Account, int]] = field(default_factory=dict)
    """By address and port of a phone: the stream that it receives."""
    strays: int = 0
    """Strays that reached a phone."""
    refused: int = 0
    """Answers of ICMP that a destination is unreachable."""
    examples: list[str] = field(default_factory=list)
    """The first wrong frames."""
    strays_by_phone: Counter[str] = field(default_factory=Counter)

    def expect_at_phones(self, account: Account) -> None:
        """Tell where the streams of an account arrive, at first and after a phone has moved."""
        layout = account.frames.layout
        for call, row in enumerate(account.frames.rows):
            address = str(ipaddress.ip_address(row[layout.destination : layout.udp].tobytes()))
            self.phones[address, int.from_bytes(row[layout.udp + 2 : layout.udp + 4].tobytes())] = account, call

    def take(self, interface: str, chunk: Chunk) -> list[bytes]:
        """Judge what arrived at an interface; the frames that are no media, for others to look at."""
        is_left = np.ones(len(chunk.lengths), dtype=bool)
        for account in self.accounts[interface]:
            self._take(account, chunk, is_left)
        others = []
        for number in np.flatnonzero(is_left):
            frame = chunk.frame(int(number))
            if not self._examine(frame, int(chunk.times_ns[number]), bool(chunk.is_unfinished[number]), interface):
                others.append(frame)
        return others

    def _take(self, account: Account, chunk: Chunk, is_left: Flags) -> None:
        layout = account.frames.layout
        outer = layout.tags[0] if layout.tags else (0, 0)
        removed = 4 if layout.tags else 0
        fits = is_left & (chunk.lengths == layout.length - removed)
        fits &= (chunk.tag_types == outer[0]) & (chunk.tags == outer[1])
        chosen = np.flatnonzero(fits)
        if not len(chosen):
            return
        rows = chunk.frames[chosen, : layout.length - removed]
        if removed:
            tag = np.frombuffer(outer[0].to_bytes(2) + outer[1].to_bytes(2), dtype=np.uint8)
            rows = np.hstack([rows[:, :12], np.broadcast_to(tag, (len(rows), 4)), rows[:, 12:]])
        is_right = account.take(rows, chunk.times_ns[chosen], chunk.is_unfinished[chosen])
        is_left[chosen[is_right]] = False

    def _examine(self, frame: bytes, time_ns: int, is_unfinished: bool, interface: str) -> bool:
        """Look at a single frame; False if it has nothing to do with the calls."""
        _, bare = split_tags(frame)
        udp = _read_udp(bare)
        if udp is None:
            self.refused += _is_unreachable(bare)
            return False
        magic, stream, number = _mark(udp.payload)
        if magic == STRAY_MAGIC:
            self.strays += 1
            self.strays_by_phone[f"{udp.destination}:{udp.port}"] += 1
            return True
        addressee = self.phones.get((udp.destination, udp.port))
        account, call, number = self._find(magic, stream, number) or (*(addressee or (None, 0)), None)
        if account is None:
            return False
        self._judge_one(account, call, number, _Arrival(frame, time_ns, is_unfinished, interface))
        return True

    def _find(self, magic: int, stream: int, number: int) -> tuple[Account, int, int] | None:
        """Find the packet that a mark names; None if no such packet was sent."""
        for account in {id(one): one for accounts in self.accounts.values() for one in accounts}.values():
            call = stream - account.first_stream
            if magic == MAGIC and account.expected(call, number) is not None:
                return account, call, number
        return None

    def _judge_one(self, account: Account, call: int, number: int | None, arrival: "_Arrival") -> None:
        layout, expectations = account.frames.layout, account.expectations
        expected = account.expected(call, number or 0)
        if expected is None:  # nothing was sent yet
            self._note_wrong(account, call, None, ["a packet of nobody"], arrival)
            return
        found = differences(expected, arrival.frame, layout, expectations, is_unfinished=arrival.is_unfinished)
        if arrival.interface not in [name for name, accounts in self.accounts.items() if account in accounts]:
            found.append("interface")
        if not found and number is not None:
            account.count_right(call, number, arrival.time_ns)
            return
        before = account.expected(call, number, is_previous=True) if number is not None else None
        if before is not None and number is not None:
            is_old = not differences(before, arrival.frame, layout, expectations, is_unfinished=arrival.is_unfinished)
            if is_old and account.count_at_old_place(call, number, arrival.time_ns):
                return
        if number is None and not {"payload", "RTCP"} & set(found):
            found.append("payload")
        self._note_wrong(account, call, number, found, arrival)

    def _note_wrong(
        self, account: Account, call: int, number: int | None, fields: list[str], arrival: "_Arrival"
    ) -> None:
        account.count_wrong(call, number, fields)
        if len(self.examples) < _EXAMPLES:
            which = "?" if number is None else number
            direction, kind = account.name
            self.examples.append(
                f"call {call} {direction} {kind} packet {which}: {', '.join(fields)}: {arrival.frame.hex()}"
            )


class _Arrival(NamedTuple):
    frame: bytes
    time_ns: int
    is_unfinished: bool
    interface: str


def _read_udp(frame: bytes) -> _Udp | None:
    """Read a frame without tags; None if it is no UDP over IP."""
    ethernet_type = frame[12:14]
    if ethernet_type == b"\x08\x00" and len(frame) >= 42 and frame[23] == 17:
        start = 14 + (frame[14] & 15) * 4
        destination = frame[30:34]
    elif ethernet_type == b"\x86\xdd" and len(frame) >= 62 and frame[20] == 17:
        start = 54
        destination = frame[38:54]
    else:
        return None
    port = int.from_bytes(frame[start + 2 : start + 4])
    return _Udp(str(ipaddress.ip_address(destination)), port, frame[start + 8 :])


def _is_unreachable(frame: bytes) -> bool:
    """Tell whether a frame without tags is an error of ICMP that a destination is unreachable."""
    if frame[12:14] == b"\x08\x00" and len(frame) >= 35 and frame[23] == 1:
        return frame[14 + (frame[14] & 15) * 4] == 3
    return frame[12:14] == b"\x86\xdd" and len(frame) >= 55 and frame[20] == 58 and frame[54] == 1


def _mark(payload: bytes) -> tuple[int, int, int]:
    """Read magic, stream and number where RTP has them, or RTCP; magic 0 if neither has."""
    for start in (_RTP_HEADER_BYTES, len(payload) - MARK_BYTES):
        magic = int.from_bytes(payload[start : start + 2]) if 0 <= start <= len(payload) - MARK_BYTES else 0
        if magic in (MAGIC, STRAY_MAGIC):
            return magic, int.from_bytes(payload[start + 2 : start + 4]), int.from_bytes(payload[start + 4 : start + 8])
    return 0, 0, 0
