"""The kernel notes when packets arrive while anybody asks for it; it begins some time after the first who does."""

import contextlib
import socket
from collections.abc import Iterator

from tests.waiting import DEADLINE_S, wait_for

_SO_TIMESTAMPING = 37
_RX_SOFTWARE, _SOFTWARE = 1 << 3, 1 << 4


@contextlib.contextmanager
def wait_for_stamps() -> Iterator[None]:
    """Make sure that packets have timestamps, until the end of the context."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(DEADLINE_S)
        asking.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE)
        asking.bind(("127.0.0.1", 0))

        def has_stamp() -> bool:
            asking.sendto(b"x", asking.getsockname())
            return bool(asking.recvmsg(10, 100)[1])

        wait_for(has_stamp, DEADLINE_S, "the kernel to note when packets arrive")
        yield
