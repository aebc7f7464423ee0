"""Becoming an ordinary user once everything is opened, and keeping no more than the running relay needs.

Linux gives parts of root's power as capabilities (capabilities(7)). What is kept is permitted and effective only:
nothing that the relay might run could inherit it, and nothing that is gone can come back.
"""

import ctypes
import grp
import os
import pwd
from collections.abc import Collection

from rtpproxy.config import FIRST_FREE_PORT, Config, PortsMode
from rtpproxy.errors import StartError

NET_BIND_SERVICE, NET_ADMIN, NET_RAW, BPF = 10, 12, 13, 39
"""Numbers of linux/capability.h: sockets on ports below 1024; interfaces, neighbours, sysctls of the network and
socket maps; raw sockets for new addresses; reading maps where unprivileged bpf(2) is off."""
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
_VERSION_3 = 0x20080522
_WORDS = ctypes.c_uint32 * 6

_libc = ctypes.CDLL(None, use_errno=True)


def identity(config: Config) -> tuple[int, int] | None:
    """Numbers of the user and group that `-u` names; None without it.

    Raises StartError when there is no such user or group.
    """
    if not config.user:
        return None
    try:
        user = pwd.getpwnam(config.user)
    except KeyError:
        raise StartError(f"-u: there is no user {config.user!r}") from None
    if not config.group:
        return user.pw_uid, user.pw_gid
    try:
        return user.pw_uid, grp.getgrnam(config.group).gr_gid
    except KeyError:
        raise StartError(f"-u: there is no group {config.group!r}") from None


def check(config: Config) -> None:
    """Raise StartError when it is clear that `drop` would fail."""
    who = identity(config)
    if who is not None and os.geteuid() != 0 and who != (os.geteuid(), os.getegid()):
        raise StartError(f"-u {config.user}: only root can become another user")


def needed(config: Config) -> frozenset[int]:
    """Numbers of the capabilities that a relay with this configuration uses while it runs."""
    kept = set() if config.ports is PortsMode.BOUND else {NET_ADMIN, NET_RAW, BPF}
    # Steered ports are tried, too, so that those of others are left alone.
    if config.port_min < FIRST_FREE_PORT:
        kept.add(NET_BIND_SERVICE)
    return frozenset(kept)


def drop(config: Config) -> None:
    """Become the user and group of `-u` for good; without it, or when it is so already, nothing changes.

    Of the capabilities, those that `needed` names stay, as far as they were there. Raises StartError.
    """
    who = identity(config)
    if who is None or os.geteuid() != 0:
        return
    try:
        _become(*who, needed(config))
    except OSError as error:
        raise StartError(f"-u {config.user}: cannot become that user: {error.strerror}") from error


def _become(uid: int, gid: int, kept: Collection[int]) -> None:
    """The C library changes the user of all threads. Capabilities stay in this thread only, and in those it starts."""
    permitted = _permitted()
    _prctl(_PR_SET_KEEPCAPS, 1)
    for number in range(_last_capability() + 1):
        _prctl(_PR_CAPBSET_DROP, number)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_KEEPCAPS, 0)
    _set_capabilities(permitted & sum(1 << number for number in kept))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    # Otherwise a crash leaves no core. Who lacks these capabilities may not trace the process all the same.
    _prctl(_PR_SET_DUMPABLE, 1)


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def _permitted() -> int:
    """The permitted capabilities of this thread, a bit each."""
    header, words = (ctypes.c_uint32 * 2)(_VERSION_3, 0), _WORDS()
    _check(_libc.capget(header, words))
    return int(words[1]) | int(words[4]) << 32


def _set_capabilities(mask: int) -> None:
    """Make these the permitted and effective capabilities of this thread; none can be inherited."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    _check(_libc.capset(header, _WORDS(low, low, 0, high, high, 0)))


def _prctl(option: int, argument: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
