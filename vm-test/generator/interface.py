"""Whole frames in and out of an interface, by AF_PACKET: sent in batches, received through a ring that is mapped.

The ring has slots of one size (TPACKET_V2), so that what has arrived is looked at as one array. The kernel stamps
each frame with its time of arrival, tells the outer VLAN tag that it took off, and counts frames for which no slot
was free.
"""

import ctypes
import errno
import mmap
import os
import socket
import struct
import time
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from generator.judge import Chunk
from generator.words import Numbers, Rows

_ETH_P_ALL = 3
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP, _PACKET_RX_RING, _PACKET_STATISTICS = 1, 5, 6
_PACKET_VERSION, _TPACKET_V2 = 10, 1
_PACKET_IGNORE_OUTGOING = 23
_PACKET_MR_PROMISC = 1
_TP_STATUS_USER, _TP_STATUS_CSUM_NOT_READY, _TP_STATUS_VLAN_VALID, _TP_STATUS_VLAN_TPID_VALID = 1, 8, 16, 64
_ETH_8021Q = 0x8100
SLOT_BYTES, SLOTS = 2048, 16384
"""32 MB: at 20,000 packets a second, a second and a half."""
_BLOCK_BYTES = 1 << 20
_SEND_BUFFER_BYTES = 8 << 20
_SEND_DEADLINE_S, _FULL_QUEUE_S = 5, 0.0005
MAX_BATCH = 512
_TAKE_MAX = 4096

_libc = ctypes.CDLL(None, use_errno=True)
_MESSAGE = np.dtype(
    {
        "names": ["iov", "iov_count"],
        "formats": ["u8", "u8"],
        "offsets": [16, 24],
        "itemsize": 64,
    }
)
"""`struct mmsghdr` of 64-bit Linux; what has no name here stays zero."""
_PART = np.dtype([("base", "u8"), ("bytes", "u8")])


class Interface:
    """An interface by name, opened for whole frames. Raises OSError."""

    def __init__(self, name: str, *, is_promiscuous: bool) -> None:
        """`is_promiscuous`: take also frames to other MAC addresses than the interface's."""
        self.name = name
        try:
            socket.if_nametoindex(name)
        except OSError as error:
            raise OSError(error.errno, f"there is no interface {name}") from error
        self._sender = _sender(name)
        try:
            self._ring = _Ring(name, is_promiscuous=is_promiscuous)
        except BaseException:
            self._sender.close()
            raise
        self._messages = np.zeros(MAX_BATCH, dtype=_MESSAGE)
        self._parts = np.zeros(MAX_BATCH, dtype=_PART)
        self._messages["iov"] = self._parts.ctypes.data + np.arange(MAX_BATCH) * _PART.itemsize
        self._messages["iov_count"] = 1

    def __enter__(self) -> "Interface":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ring.close()
        self._sender.close()

    @property
    def mac(self) -> str:
        """The interface's MAC address."""
        address: bytes = self._sender.getsockname()[4]
        return address.hex(":")

    def send(self, frame: bytes) -> None:
        """Send one frame."""
        self._sender.send(frame)

    def send_rows(self, rows: Rows) -> None:
        """Send frames of one length, in this order. Waits while the interface takes none, but not for ever."""
        rows = np.ascontiguousarray(rows)
        for start in range(0, len(rows), MAX_BATCH):
            batch = rows[start : start + MAX_BATCH]
            count, length = batch.shape
            self._parts["base"][:count] = batch.ctypes.data + np.arange(count) * length
            self._parts["bytes"][:count] = length
            sent = 0
            while sent < count:
                sent += self._send_some(sent, count - sent)

    def take(self, epoch_ns: int) -> Chunk | None:
        """Take what has arrived; does not wait. `epoch_ns` is the time of day that the judge's time starts at."""
        return self._ring.take(epoch_ns)

    def dropped(self) -> int:
        """Frames since the last call that this program was too slow to take."""
        return self._ring.dropped()

    def _send_some(self, first: int, count: int) -> int:
        """Send at least one. While the interface's queue is full, the kernel refuses frames; they are sent again."""
        at = self._messages.ctypes.data + first * _MESSAGE.itemsize
        end = time.monotonic() + _SEND_DEADLINE_S
        while (sent := _libc.sendmmsg(self._sender.fileno(), ctypes.c_void_p(at), count, 0)) < 0:
            number = ctypes.get_errno()
            if number != errno.ENOBUFS or time.monotonic() > end:
                raise OSError(number, f"sending by {self.name}: {os.strerror(number)}")
            time.sleep(_FULL_QUEUE_S)
        return int(sent)


def _sender(name: str) -> socket.socket:
    """Open a socket that only sends."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        opened.bind((name, 0))
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        seconds = struct.pack("@ll", _SEND_DEADLINE_S, 0)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
    except BaseException:
        opened.close()
        raise
    return opened


class _Ring:
    """The slots that the kernel puts frames into."""

    def __init__(self, name: str, *, is_promiscuous: bool) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        try:
            self._set_up(name, is_promiscuous)
        except BaseException:
            self._socket.close()
            raise
        self._next = 0

    def _set_up(self, name: str, is_promiscuous: bool) -> None:
        ring = self._socket
        ring.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V2)
        ring.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        total = SLOTS * SLOT_BYTES
        request = struct.pack("@4I", _BLOCK_BYTES, total // _BLOCK_BYTES, SLOT_BYTES, SLOTS)
        ring.setsockopt(_SOL_PACKET, _PACKET_RX_RING, request)
        self._memory = mmap.mmap(ring.fileno(), total, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._slots: Rows = np.frombuffer(self._memory, dtype=np.uint8).reshape(SLOTS, SLOT_BYTES)
        self._words: NDArray[np.uint32] = self._slots.view(np.uint32)
        self._halves: NDArray[np.uint16] = self._slots.view(np.uint16)
        if is_promiscuous:
            membership = struct.pack("@iHH8s", socket.if_nametoindex(name), _PACKET_MR_PROMISC, 0, b"")
            ring.setsockopt(_SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
        ring.bind((name, _ETH_P_ALL))

    def take(self, epoch_ns: int) -> Chunk | None:
        end = min(self._next + _TAKE_MAX, SLOTS)
        is_full = (self._words[self._next : end, 0] & _TP_STATUS_USER).astype(bool)
        count = len(is_full) if is_full.all() else int(np.argmin(is_full))
        if not count:
            return None
        chosen = slice(self._next, self._next + count)
        words, short = self._words[chosen, :8].astype(np.int64), self._halves[chosen, :14].astype(np.int64)
        frames, lengths = self._frames(chosen, words[:, 2], short[:, 6])
        status = words[:, 0]
        is_tagged = (status & _TP_STATUS_VLAN_VALID) != 0
        types = np.where((status & _TP_STATUS_VLAN_TPID_VALID) != 0, short[:, 13], _ETH_8021Q)
        chunk = Chunk(
            frames=frames,
            lengths=lengths,
            times_ns=words[:, 4] * 1_000_000_000 + words[:, 5] - epoch_ns,
            tag_types=np.where(is_tagged, types, 0),
            tags=np.where(is_tagged, short[:, 12], 0),
            is_unfinished=(status & _TP_STATUS_CSUM_NOT_READY) != 0,
        )
        self._words[chosen, 0] = 0  # the kernel's again
        self._next = (self._next + count) % SLOTS
        return chunk

    def _frames(self, chosen: slice, lengths: Numbers, starts: Numbers) -> tuple[Rows, Numbers]:
        """Copy the frames, which start at the same place of their slots but for rare ones."""
        width = int(lengths.max())
        start = int(starts[0])
        if (starts == start).all():
            return self._slots[chosen, start : start + width].copy(), lengths
        rows = np.zeros((len(lengths), width), dtype=np.uint8)
        for row, slot, at, length in zip(rows, self._slots[chosen], starts, lengths, strict=True):
            row[:length] = slot[at : at + length]
        return rows, lengths

    def dropped(self) -> int:
        _, drops = struct.unpack("@2I", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        return int(drops)

    def close(self) -> None:
        del self._slots, self._words, self._halves
        self._memory.close()
        self._socket.close()
