"""One file of a recording while it is written, in the process that writes."""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rtpproxy.recording.formats import Format, Whole, find_whole
from rtpproxy.recording.messages import Open
from rtpproxy.recording.packet import Packet

BUFFER_BYTES = 64 << 10
"""What is written at once, unless the time to write comes before."""


class FileOutput:
    """An open file. What cannot be written ends it: it is cut after its last whole packet, and takes no more."""

    def __init__(self, descriptor: int, about: Open, form: Format) -> None:
        """The descriptor becomes the output's, which closes it."""
        self.about = about
        self.packets = 0
        """Packets in the file, and in the buffer."""
        self.teed = 0
        """Packets of the ring that belong into the file."""
        self.lost = 0
        """Packets that should be in the file and are not."""
        self.is_over = False
        """True once nothing more is written."""
        self.why = ""
        """Why that is so, in words; empty while all is well."""
        self._descriptor = descriptor
        self._format = form
        self._buffer: list[bytes] = []
        self._buffered_bytes = self._buffered_packets = 0
        self._size = 0
        """Bytes in the file up to the last whole packet."""
        self._lost_before = 0
        """Of `lost`, since the last packet."""

    def begin(self, unread: int = 0) -> None:
        """Write the beginning of a new file, or find the end of one that another process began.

        That one is known not to have read `unread` packets of the ring: they are still to come.
        """
        if not self.about.is_continued:
            self._add(self._format.begin)
            return
        try:
            whole = find_end(self._descriptor, self.about)
            self._size = whole.kept_bytes
            os.ftruncate(self._descriptor, self._size)
            os.lseek(self._descriptor, self._size, os.SEEK_SET)
        except OSError as error:
            self._end(error)
            return
        self.packets = whole.packets
        self.teed = max(0, self.about.teed - unread)
        self.miss(max(0, self.about.given + self.teed - whole.packets))
        if not self._size:
            self._add(self._format.begin)

    def take(self, packet: Packet, wall_ns: int) -> None:
        """Take a packet that arrived at `wall_ns` since 1970."""
        if self.is_over:
            self.lost += 1
            return
        self.packets += 1
        self._buffered_packets += 1
        data = self._format.packet(packet, wall_ns, self._lost_before)
        self._lost_before = 0
        # As _add does: this is done for every packet.
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes >= BUFFER_BYTES:
            self.flush()

    def miss(self, packets: int) -> None:
        """Take note of packets that were lost on the way."""
        self.lost += packets
        self._lost_before += packets

    def flush(self, now_ns: int = 0) -> None:
        """Write what waits."""
        if self.is_over or not self._buffer:
            return
        data = memoryview(b"".join(self._buffer))
        size = self._size + len(data)
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._end(error)
            return
        self._size = size
        self._buffer.clear()
        self._buffered_bytes = self._buffered_packets = 0

    def finish(self, wall_ns: int) -> None:
        """Write the end of the file."""
        if not self.is_over:
            self._add(self._format.end(self.packets, self.lost, wall_ns))
            self.flush()

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _add(self, data: bytes) -> None:
        if not data:
            return
        self._buffer.append(data)
        self._buffered_bytes += len(data)
        if self._buffered_bytes >= BUFFER_BYTES:
            self.flush()

    def _end(self, error: OSError) -> None:
        """Keep what is whole. How much of the buffer that is, is found in the file."""
        self.is_over = True
        self.why = error.strerror or str(error)
        before = self.packets
        try:
            whole = find_end(self._descriptor, self.about)
            os.ftruncate(self._descriptor, whole.kept_bytes)
            self.packets = whole.packets
        except OSError as another:
            self.packets -= self._buffered_packets
            self.why += f"; {another.strerror} when it was cut after the last whole packet"
        self.lost += before - self.packets
        self._buffer.clear()
        self._buffered_bytes = self._buffered_packets = 0


def find_end(descriptor: int, about: Open) -> Whole:
    """Find the part of an open file that is whole packets. Raises OSError."""
    with mapped(descriptor) as data:
        return find_whole(about.format, data)


@contextmanager
def mapped(descriptor: int) -> Iterator[memoryview]:
    """Give the content of an open file, without reading what is not looked at. Raises OSError."""
    size = os.fstat(descriptor).st_size
    if not size:
        yield memoryview(b"")
        return
    try:
        content = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    except ValueError as error:  # the file became shorter meanwhile
        raise OSError(errno.EIO, str(error)) from error
    with content, memoryview(content) as view:
        yield view
