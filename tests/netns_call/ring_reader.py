"""A process without privileges that empties a tee's ring, whose descriptor it gets, and prints what is there."""

import json
import socket
import subprocess
import sys

from rtpproxy.offload.tee import OpenRing
from rtpproxy.recording.ring import Ring
from tests.offload.unprivileged import with_capabilities


class RingReader:
    """The process, seen from the test."""

    def __init__(self, opened: OpenRing) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            self._process = subprocess.Popen(
                [*with_capabilities(), sys.executable, "-m", "tests.netns_call.ring_reader", str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            socket.send_fds(ours, [json.dumps(opened[1:]).encode()], [opened.fd])

    def __enter__(self) -> "RingReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def read(self) -> list[tuple[int, int, bytes]]:
        """All that is in the ring: time, number and packet."""
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return [(at, tee, bytes.fromhex(packet)) for at, tee, packet in json.loads(self._process.stdout.readline())]


def main() -> None:
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        data, (fd,), _, _ = socket.recv_fds(parent, 4096, 1)
    ring = Ring(fd, *json.loads(data))
    for _ in sys.stdin:
        print(json.dumps([(at, tee, packet.hex()) for at, tee, packet in ring.records(100_000)]), flush=True)


if __name__ == "__main__":
    main()
