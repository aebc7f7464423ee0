"""A prompt in memory, whose blocks are there at once, or when a test says so."""

from rtpproxy.playback.player import BLOCK_BYTES, Block, Start

START = Start(0x1234ABCD, 65534, 0xFFFFFF00)


class Memory:
    """Blocks of some bytes."""

    def __init__(self, data: bytes, *, is_there: bool = True) -> None:
        self.data = data
        self.is_there = is_there
        self.asked: list[int] = []

    def block(self, number: int) -> Block | None:
        self.asked.append(number)
        return self.read(number) if self.is_there else None

    def read(self, number: int) -> Block:
        assert 0 <= number * BLOCK_BYTES < len(self.data), "the prompt has no such block"
        return Block(self.data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
