"""`python -m tests.bench.set_ups PORT RATE SECONDS` sets calls up and ends them at a pace, and prints the rate.

U, L and D for each call. Where replies come too slowly, only `MOST` commands are under way, and the rate is lower.
"""

import select
import socket
import sys
import time

from tests.bench.control import commands, udp_socket

MOST = 64
_END_S = 2.0
"""Time for the last replies."""


def set_ups(client: socket.socket, rate: float, seconds: float) -> float:
    """Make calls at a rate; the rate that was reached."""
    prefix = b"%d_" % time.monotonic_ns()
    begun = ended = 0
    under_way: dict[bytes, tuple[int, int]] = {}

    def send(call: int, step: int) -> None:
        cookie = b"%b%d_%d" % (prefix, call, step)
        under_way[cookie] = call, step
        client.send(cookie + b" " + commands(call)[step])

    client.setblocking(False)
    start = time.monotonic()
    end = start + seconds
    while (now := time.monotonic()) < end or (under_way and now < end + _END_S):
        while now < end and begun < (now - start) * rate and len(under_way) < MOST:
            send(begun, 0)
            begun += 1
        wait_s = max(0.0, start + (begun + 1) / rate - now) if len(under_way) < MOST else 0.1
        if not select.select([client], [], [], wait_s)[0]:
            continue
        cookie, _, reply = client.recv(2048).partition(b" ")
        call, step = under_way.pop(cookie)
        if reply.startswith(b"E"):
            raise RuntimeError(f"a command was answered {reply!r}")
        if step < 2:
            send(call, step + 1)
        else:
            ended += 1
    return ended / seconds


if __name__ == "__main__":
    _port, _rate, _seconds = sys.argv[1:]
    with udp_socket(("127.0.0.1", int(_port))) as _client:
        print(set_ups(_client, float(_rate), float(_seconds)))
