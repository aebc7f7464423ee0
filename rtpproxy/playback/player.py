"""Makes the RTP packets of a prompt, one after the other (protocol.md 9.3). Pure: it knows neither files nor time."""

from typing import NamedTuple, Protocol

from rtpproxy.playback.frames import Cut
from rtpproxy.rtp.framing import UNITS_PER_MS
from rtpproxy.rtp.header import MARKER, pack_rtp

BLOCK_BYTES = 32_000
"""A prompt is read in blocks of this size, the last of which may be shorter: of G.711 4 s."""


class Block:
    """A part of a prompt in memory, for all that play it. It is there as long as somebody holds it."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data


class Blocks(Protocol):
    """Holds a prompt: `prompt.Prompt`."""

    def block(self, number: int) -> Block | None:
        """Return a block that is in memory; otherwise begin to read it, and return None."""


class Start(NamedTuple):
    """The numbers that the first packet has: at random, so that nobody can guess them (RFC 3550 5.1)."""

    ssrc: int
    sequence: int
    timestamp: int


_NOTHING = Block(b"")


class Player:
    """Plays one prompt to one party. It holds the block that it is in, and the one that follows."""

    __slots__ = (
        *("_at", "_block", "_blocks", "_data", "_kind", "_last", "_left", "_next", "_number", "_packets", "_passes"),
        *("_sequence", "_size", "_ssrc", "_timestamp", "_units"),
    )

    def __init__(
        self, blocks: Blocks, size: int, payload_type: int, cut: Cut, passes: int | None, start: Start
    ) -> None:
        """`size` is that of the prompt in bytes; what does not fill a packet at its end is left out.

        `passes` says how many times it is played; None for ever.
        """
        self._blocks = blocks
        self._size = cut.size
        self._units = cut.duration_ms * UNITS_PER_MS
        self._packets = size // cut.size
        self._passes = passes if self._packets else 0
        self._last = (self._packets * cut.size - 1) // BLOCK_BYTES
        """Number of the last block."""
        self._kind = MARKER | payload_type
        self._ssrc, self._sequence, self._timestamp = start
        self._left = self._packets
        """Packets until this pass ends."""
        self._number, self._at = -1, 0
        """The block, and the position in it: -1 before the first."""
        self._block, self._data = _NOTHING, b""
        self._next: Block | None = None
        if not self.is_over:
            self._next = blocks.block(0)

    @property
    def is_over(self) -> bool:
        """True once there is no packet left."""
        return self._passes == 0

    def packet(self) -> bytes | None:
        """Make the next packet. None if there is none left, or if its payload is not in memory yet: to be asked again.

        It takes about a microsecond.
        """
        at = self._at
        end = at + self._size
        data = self._data
        if end <= len(data):
            payload = data[at:end]
            self._at = end
        else:
            crossing = self._cross(at)
            if crossing is None:
                return None
            payload = crossing
        packet = pack_rtp(self._kind, self._sequence, self._timestamp, self._ssrc) + payload
        self._kind &= ~MARKER
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._timestamp = (self._timestamp + self._units) & 0xFFFFFFFF
        self._left -= 1
        if not self._left:
            self._end_pass()
        return packet

    def offer(self, number: int, block: Block) -> bool:
        """Take a block that has been read, if it is the one that follows; False if it is not."""
        if number != self._following():
            return False
        self._next = block
        return True

    def _cross(self, at: int) -> bytes | None:
        """Take a payload that ends in the next block, and go on in that."""
        if self.is_over:
            return None
        following = self._next or self._blocks.block(self._number + 1)
        if following is None:
            return None
        head = self._data[at:]
        rest = self._size - len(head)
        self._number += 1
        self._block, self._data, self._at = following, following.data, rest
        after = self._following()
        self._next = following if after == self._number else None if after is None else self._blocks.block(after)
        return head + self._data[:rest]

    def _following(self) -> int | None:
        """Return the number of the block after this one; None after the last one of the last pass."""
        if self._number < self._last:
            return self._number + 1
        return None if self._passes == 1 else 0

    def _end_pass(self) -> None:
        if self._passes is not None:
            self._passes -= 1
        self._left = self._packets
        self._number, self._at = -1, 0
        self._block, self._data = _NOTHING, b""
        if self.is_over:
            self._next = None
