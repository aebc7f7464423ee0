"""A network and mount namespace for each process that runs tests, so that several can run side by side.

Workers share nothing that the relay or the tests give a fixed name: ports, abstract sockets, interfaces, the sysctls
of a network namespace, named namespaces in /run/netns, and the notes of relays in /run/rtpproxy. They do share compiled
BPF programs, in a directory that only this run has.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

from rtpproxy.config import CACHE_DIRECTORY

CACHE_VARIABLE = "RTPPROXY_TESTS_CACHE"
"""Names the directory, made by whoever starts the workers; without it, each has its own."""
_CLONE_NEWNS = 0x00020000
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_MS_NOSUID, _MS_NODEV = 1 << 1, 1 << 2
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def enter_own_namespaces() -> bool:
    """Move the calling thread, and what it starts, to namespaces with loopback and an empty /run; root only.

    Returns False, and changes nothing, where that is not permitted: tests that need it are skipped there.
    """
    if _libc.unshare(_CLONE_NEWNET | _CLONE_NEWNS) < 0:  # os.unshare comes with Python 3.12
        if ctypes.get_errno() == errno.EPERM:
            return False
        _raise("unshare")
    _mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    _mount(b"tmpfs", b"/run", b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0755")
    for name in ("netns", "lock"):
        Path("/run", name).mkdir()
    _mount(b"tmpfs", b"/var/cache", b"tmpfs", _MS_NOSUID | _MS_NODEV, b"mode=0755")
    shared = os.environ.get(CACHE_VARIABLE)
    if shared:
        Path(CACHE_DIRECTORY).mkdir()
        _mount(shared.encode(), CACHE_DIRECTORY.encode(), None, _MS_BIND, None)
    _set_loopback_up()
    return True


def _set_loopback_up() -> None:
    """As `ip link set lo up` does; iproute2 may be missing where tests that need it are skipped."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    if _libc.mount(source, target, kind, ctypes.c_ulong(flags), data) < 0:
        _raise(f"mount {target.decode()}")


def _raise(what: str) -> None:
    number = ctypes.get_errno()
    raise OSError(number, f"{what}: {os.strerror(number)}")
