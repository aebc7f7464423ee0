"""An RTPproxy of a hundred lines that does one thing wrong: `python broken_relay.py SOCKET FAULT`.

It knows U, L, D and V, and hands each packet to the address that was signalled, whoever sent it. It makes a file beside
its socket, with the suffix `.ready`, when it listens, and runs until it is ended.
"""

import selectors
import socket
import sys
from collections.abc import Callable
from pathlib import Path

SO_NO_CHECK = 11
TOS, NTH, FIRST_PORT = 0xB8, 10, 20000
CALLER_SIDE, CALLEE_SIDE = "10.0.1.1", "10.0.2.1"
Address = tuple[str, int]


class Port:
    """A port of the relay, where to send from it, and the port of the other side."""

    def __init__(self, host: str, number: int, fault: str) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((host, number))
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0 if fault == "tos" else TOS)
        self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 63 if fault == "ttl" else 64)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, fault == "no checksum")
        self.to: Address | None = None
        self.count = 0
        self.held: list[bytes] = []

    def deliver(self, data: bytes, fault: str, spare: socket.socket) -> None:
        """Send a packet to the phone; each tenth in another way."""
        if self.to is None:
            return
        self.count += 1
        packets = [data]
        if self.count % NTH == 0:
            packets = self.spoiled(data, fault)
            if fault == "port":
                spare.sendto(data, self.to)
        for packet in packets + self.held * (self.count % NTH == 1):
            self.socket.sendto(packet, self.to)
        if self.count % NTH == 1:
            self.held = []

    def spoiled(self, data: bytes, fault: str) -> list[bytes]:
        if fault in ("drop", "port"):
            return []
        if fault == "double":
            return [data, data]
        if fault == "swap":
            self.held = [data]
            return []
        if fault == "payload":
            return [data[:50] + bytes([data[50] ^ 1]) + data[51:]]
        if fault == "short":
            return [data[:-1]]
        return [data]


class Relay:
    """All calls, by call-id: the ports of RTP and RTCP on both sides."""

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.next_port = FIRST_PORT
        self.calls: dict[str, tuple[list[Port], list[Port]]] = {}
        self.selector = selectors.DefaultSelector()
        self.spare = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.spare.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TOS)

    def answer(self, command: str) -> str:
        letter, *words = command.split()
        if letter == "V":
            return "20040107"
        if letter not in ("U", "L", "D"):
            return "E0"
        if letter == "D":
            return "E50" if self.fault == "undead" or not self.calls.pop(words[0], None) else "0"
        if words[0] not in self.calls:
            self.calls[words[0]] = self.pair(CALLER_SIDE), self.pair(CALLEE_SIDE)
            for one, other in (self.calls[words[0]], self.calls[words[0]][::-1]):
                for near, far in zip(one, other, strict=True):
                    self.selector.register(near.socket, selectors.EVENT_READ, self.relaying(near, far))
        sides = self.calls[words[0]]
        to_phone, shown = sides if letter == "U" else sides[::-1]
        for offset, port in enumerate(to_phone):
            port.to = words[1], int(words[2]) + offset
        host, number = shown[0].socket.getsockname()
        return f"{number} {host}"

    def pair(self, host: str) -> list[Port]:
        """Two ports, the first even, the second one higher."""
        number, self.next_port = self.next_port, self.next_port + 2
        return [Port(host, number + offset, self.fault) for offset in (0, 1)]

    def relaying(self, near: Port, far: Port) -> Callable[[], None]:
        def relay() -> None:
            far.deliver(near.socket.recv(65535), self.fault, self.spare)

        return relay


def main(path: str, fault: str) -> None:
    relay = Relay(fault)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(100)

    def serve() -> None:
        with listener.accept()[0] as connection:
            connection.sendall(relay.answer(connection.recv(8191).decode()).encode() + b"\n")

    relay.selector.register(listener, selectors.EVENT_READ, serve)
    Path(path).with_suffix(".ready").touch()
    while True:
        for key, _ in relay.selector.select():
            key.data()


if __name__ == "__main__":
    main(*sys.argv[1:])
