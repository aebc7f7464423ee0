"""A process that empties a tee's ring and writes a pcap file; it tells how much whenever it reads a line.

Without sorting packets into the files of calls, and merging what userspace relayed: the least that a recorder does.
"""

import select
import struct
import sys
import time

from rtpproxy.recording.ring import Ring

_LOOK_S = 0.02
_AT_ONCE = 4096
_MOST_BYTES = 1 << 28
"""Then the file is written from its beginning again, so that memory does not run out."""
_NS = 1_000_000_000
_ETHERNET = bytes(12) + b"\x08\x00"


def main() -> None:
    path, fd, size_bytes, numbers, record_bytes = sys.argv[1:]
    ring = Ring(int(fd), int(size_bytes), numbers, int(record_bytes))
    header = struct.Struct("=4I").pack
    records = 0
    with open(path, "wb", buffering=0) as file:
        while True:
            parts, count = [], 0
            for arrived_ns, _, packet in ring.records(_AT_ONCE):
                seconds, ns = divmod(arrived_ns, _NS)
                size = len(packet) + len(_ETHERNET)
                parts += header(seconds, ns // 1000, size, size), _ETHERNET, packet
                count += 1
            file.write(b"".join(parts))
            if file.tell() > _MOST_BYTES:
                file.seek(0)
            records += count
            pause_s = 0.0 if count == _AT_ONCE else _LOOK_S
            if select.select([sys.stdin], [], [], pause_s)[0]:
                if not sys.stdin.readline():
                    return
                print(records, time.process_time(), flush=True)


if __name__ == "__main__":
    main()
