"""Becomes an ordinary user once everything is opened, and keeps only the privileges that the running relay needs.

Linux divides the power of root into capabilities (capabilities(7)). Those that are kept are permitted and effective,
but not inheritable: no program that the relay started would have them, and a dropped capability cannot come back.
"""

import ctypes
import grp
import os
import pwd
from collections.abc import Callable, Collection, Iterable
from functools import partial

from rtpproxy.config import FIRST_FREE_PORT, Config, ControlAddress, PortsMode
from rtpproxy.errors import StartError

NET_BIND_SERVICE, NET_ADMIN, NET_RAW, BPF = 10, 12, 13, 39
"""Numbers of linux/capability.h, and what each is for: binding ports below 1024; interfaces, neighbours, sysctls of the
network, and socket maps; raw sockets for new addresses; reading maps where unprivileged bpf(2) is off."""
PERFMON = 38
"""What loading programs needs besides. It also lets a process read the kernel's memory, so it is given up early."""
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 4, 8, 24, 38
_UNKNOWN = 65534
"""The kernel's default for users without a number (`kernel.overflowuid`)."""
_VERSION_3 = 0x20080522
_WORDS = ctypes.c_uint32 * 6

_libc = ctypes.CDLL(None, use_errno=True)


def identity(config: Config) -> tuple[int, int] | None:
    """Look up uid and gid of the user and group that `-u` names; None without it.

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
    """Raise StartError if `drop` is certain to fail."""
    who = identity(config)
    if who is not None and os.geteuid() != 0 and who != (os.geteuid(), os.getegid()):
        raise StartError(f"-u {config.user}: only root can become another user")


def stays_root(config: Config) -> bool:
    """True if the relay will run as root, and nobody said that this is well."""
    return os.geteuid() == 0 and not config.user and not config.is_root_allowed


def check_root(config: Config, control: Iterable[ControlAddress]) -> None:
    """Raise StartError where root would take commands over UDP, which `-F` allows (protocol.md 1.8)."""
    if stays_root(config) and any(address.kind.is_datagram for address in control):
        raise StartError(
            "running as root with a UDP control socket is refused: name a user with -u, "
            "or say -F if only you can reach it"
        )


def needed(config: Config) -> frozenset[int]:
    """List the capabilities, by number, that a relay with this configuration uses while it runs."""
    kept = set() if config.ports is PortsMode.BOUND else {NET_ADMIN, NET_RAW, BPF}
    # Steered ports are bound, too, for a moment: ports that other programs have must be left alone.
    if config.port_min < FIRST_FREE_PORT:
        kept.add(NET_BIND_SERVICE)
    return frozenset(kept)


def drop(config: Config) -> Callable[[], None]:
    """Become the user and group of `-u` for good. Does nothing without `-u`, or if the process is not root's.

    Keeps the capabilities that `needed` lists, if the process has them, and what loading programs needs besides.
    Returns what gives that up, in the thread that calls it. Raises StartError.
    """
    who = identity(config)
    if who is None or os.geteuid() != 0:
        return lambda: None
    kept = needed(config)
    permitted = _permitted()
    try:
        become(*who, permitted & _mask(kept | {PERFMON} if BPF in kept else kept))
    except OSError as error:
        raise StartError(f"-u {config.user}: cannot become that user: {error.strerror}") from error
    return partial(_set_capabilities, permitted & _mask(kept))


def forbid_new() -> None:
    """Never get privileges again, whatever program this process runs. Raises OSError."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def nobody() -> tuple[int, int]:
    """Look up uid and gid of the user who owns nothing; Linux' number for those who are not known, without one."""
    try:
        user = pwd.getpwnam("nobody")
    except KeyError:
        return _UNKNOWN, _UNKNOWN
    return user.pw_uid, user.pw_gid


def become(uid: int, gid: int, capabilities: int, *, is_traceable: bool = True) -> None:
    """Change user, group and capabilities, which are one bit each. Raises OSError.

    The C library changes the user of all threads. Capabilities stay only in this thread and in those that it starts.
    Other processes of the user may read the memory of one that is traceable and has no capability.
    """
    _prctl(_PR_SET_KEEPCAPS, 1)
    for number in range(_last_capability() + 1):
        _prctl(_PR_CAPBSET_DROP, number)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_KEEPCAPS, 0)
    _set_capabilities(capabilities)
    forbid_new()
    # Without this a crash leaves no core. Where a capability was kept, others of this user still may not trace the
    # process, because they lack it; where none was, they may (ptrace(2)), and docs/security.md says so.
    _prctl(_PR_SET_DUMPABLE, int(is_traceable))


def _last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())


def _mask(capabilities: Collection[int]) -> int:
    return sum(1 << number for number in capabilities)


def _permitted() -> int:
    """Read the permitted capabilities of this thread, one bit each."""
    header, words = (ctypes.c_uint32 * 2)(_VERSION_3, 0), _WORDS()
    _check(_libc.capget(header, words))
    return int(words[1]) | int(words[4]) << 32


def _set_capabilities(mask: int) -> None:
    """Set the permitted and effective capabilities of this thread; none are inheritable."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    _check(_libc.capset(header, _WORDS(low, low, 0, high, high, 0)))


def _prctl(option: int, argument: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
