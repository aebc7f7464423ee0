"""Opens control sockets. Every failure becomes a StartError of one clear line (protocol.md 1.1, 1.7)."""

import asyncio
import errno
import fcntl
import logging
import os
import socket
import stat
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import TypeVar

from rtpproxy.buffers import force_receive_buffer
from rtpproxy.config import MAX_SOCKET_PATH_BYTES, ControlAddress, ControlKind
from rtpproxy.errors import StartError

log = logging.getLogger(__name__)

BACKLOG = 1024
"""Limit of connections that wait to be accepted. The C RTPproxy has 32, which a burst of calls overflows."""
RECEIVE_BUFFER_BYTES = 8 << 20
"""For datagram sockets; holds ten thousand commands. Without CAP_NET_ADMIN at most `net.core.rmem_max` is granted."""
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 60, 10, 3
"""TCP keepalive: silence before the first probe, time between probes, and how many are lost before we hang up."""
FIRST_PASSED_DESCRIPTOR = 3
"""The first of the sockets that a service manager passes (sd_listen_fds(3)); the others follow."""

_SIOCUNIXFILE = 0x89E0

Owner = tuple[int, int]
"""User and group, by number."""
Mark = tuple[int, int, int]
"""Device, inode, and time of the last change of the inode in nanoseconds: together no two files have them."""
IsAbandoned = Callable[[Mark], bool]
"""Tells whether it is known of a socket file that whoever listened on it has ended."""

_Result = TypeVar("_Result")

_REASONS = {
    errno.ENOENT: "the directory does not exist",
    errno.ENOTDIR: "part of the path is not a directory",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EADDRNOTAVAIL: "the address is not one of this host",
    errno.EADDRINUSE: "the port is in use",
    errno.EAFNOSUPPORT: "this host has no IPv6",
    errno.ESTALE: "another process has just taken the path",
}


def _refusal(address: ControlAddress, error: OSError) -> StartError:
    reason = _REASONS.get(error.errno or 0) or error.strerror or str(error)
    return StartError(f"control socket {address}: {reason}")


# UDP and TCP


async def bind_internet(loop: asyncio.AbstractEventLoop, address: ControlAddress, bound: list[int]) -> socket.socket:
    """Open a bound UDP socket, or a listening TCP socket. Raises StartError.

    `bound` are descriptors of UDP sockets. If one is bound to the address, it is taken out of the list, and another
    descriptor of it is returned.
    """
    family = socket.AF_INET6 if address.kind.is_ipv6 else socket.AF_INET
    kind = socket.SOCK_DGRAM if address.kind.is_datagram else socket.SOCK_STREAM
    place = await _resolve(loop, address, family)
    try:
        already = _find_bound(bound, family, place) if address.kind.is_datagram else None
        opened = already or socket.socket(family, kind)
    except OSError as error:
        raise _refusal(address, error) from error
    try:
        opened.setblocking(False)
        if address.kind.is_ipv6 and already is None:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if address.kind.is_datagram:
            force_receive_buffer(opened, RECEIVE_BUFFER_BYTES)
            if already is None:
                opened.bind(place)
        else:
            _listen_tcp(opened, place)
    except OSError as error:
        opened.close()
        raise _refusal(address, error) from error
    return opened


_Place = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
"""A socket address as getaddrinfo(3) returns it."""


def _find_bound(bound: list[int], family: socket.AddressFamily, place: _Place) -> socket.socket | None:
    """Open a socket once more that is bound to a place, and take it out; None if there is none. Raises OSError."""
    for descriptor in bound:
        found = socket.socket(fileno=os.dup(descriptor))
        if (found.family, found.getsockname()) == (family, place):
            bound.remove(descriptor)
            return found
        found.close()
    return None


async def _resolve(loop: asyncio.AbstractEventLoop, address: ControlAddress, family: socket.AddressFamily) -> _Place:
    host = address.host or ("::" if address.kind.is_ipv6 else "0.0.0.0")
    try:
        # In a thread, as the loop's own getaddrinfo() does it, but that of uvloop loses the zone of an address.
        found = await loop.run_in_executor(
            None, lambda: socket.getaddrinfo(host, address.port, family=family, type=socket.SOCK_STREAM)
        )
    except (socket.gaierror, UnicodeError, ValueError) as error:
        name = "IPv6" if address.kind.is_ipv6 else "IPv4"
        raise StartError(f"control socket {address}: the host cannot be resolved to an {name} address") from error
    return found[0][4]


def is_on_loopback(opened: socket.socket) -> bool:
    """True if only this host can reach a bound socket: a Unix socket, or one on a loopback address."""
    place = opened.getsockname()
    if opened.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    address = ip_address(place[0].partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _listen_tcp(opened: socket.socket, place: _Place) -> None:
    # After a restart, connections of the former process may be in TIME_WAIT.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit these options. Replies are sent at once.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The connection of a controller that vanished is dropped after 90 s, not after Linux's default of two hours.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    opened.bind(place)
    opened.listen(BACKLOG)


# Unix


class SocketFile:
    """A socket file that we made; its inode tells it from another file that may take its place later."""

    def __init__(self, path: str, opened: socket.socket, owner: Owner | None = None) -> None:
        """Look at the file that `opened` was bound to, at `path`, and give it to `owner`. Raises OSError.

        Must be called before the socket listens: until then nobody can connect. No other file gets the owner, even if
        somebody who may write to the directory puts one in its place meanwhile.
        """
        self._path = path
        found = _open_file(opened, path, owner)
        try:
            status = os.fstat(found)
            if owner is not None and (status.st_uid, status.st_gid) != owner:
                # chown(2) takes a path; this path leads to the file that is open.
                os.chown(f"/proc/self/fd/{found}", *owner)
            self.mark = mark_of(os.fstat(found))
            """Tells whether a file that is found later is this one."""
        finally:
            os.close(found)
        if mark_of(_as_either(lambda: os.lstat(path), owner)) != self.mark:
            raise OSError(errno.ESTALE, "another process has just taken the path")

    def remove(self) -> None:
        """Unlink the file, if it is still ours."""
        try:
            status = os.lstat(self._path)
            if (status.st_dev, status.st_ino) == self.mark[:2]:
                os.unlink(self._path)
        except PermissionError:
            log.info("control socket %s stays: the directory is another user's", self._path)
        except OSError as error:
            log.warning("cannot remove the control socket %s: %s", self._path, error.strerror)


def mark_of(status: os.stat_result) -> Mark:
    """Tell a socket file from all others, also from one that gets its inode later."""
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _open_file(opened: socket.socket, path: str, owner: Owner | None) -> int:
    """Open (O_PATH) the file that a socket was bound to. Raises OSError.

    Without CAP_NET_ADMIN the kernel does not tell which file that is (SIOCUNIXFILE, unix(7)): then the file at the path
    must be a socket of ours that has no other name.
    """
    try:
        return fcntl.ioctl(opened.fileno(), _SIOCUNIXFILE)
    except OSError as error:
        log.debug("the kernel does not tell the file of a socket: %s", error.strerror)
    found = _as_either(lambda: os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC), owner)
    status = os.fstat(found)
    makers = (os.geteuid(), *(owner[:1] if owner is not None else ()))
    if not stat.S_ISSOCK(status.st_mode) or status.st_nlink != 1 or status.st_uid not in makers:
        os.close(found)
        raise OSError(errno.ESTALE, "another process has just taken the path")
    return found


def bind_unix(
    address: ControlAddress, owner: Owner | None, mode: int | None, is_abandoned: IsAbandoned
) -> tuple[socket.socket, SocketFile]:
    """Open a listening Unix socket; its file gets `owner` and permission bits `mode`, each if given.

    Nobody can connect before the file has both. An empty file is replaced, and a socket file that nobody listens on any
    more; where we may not try that, `is_abandoned` decides. Raises StartError.
    """
    if len(os.fsencode(address.path)) > MAX_SOCKET_PATH_BYTES:
        raise StartError(f"control socket {address}: the path is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        _bind_path(opened, address, owner, mode, is_abandoned)
        file = _take(address, opened, owner)
        try:
            opened.listen(BACKLOG)
        except OSError:
            file.remove()
            raise
    except OSError as error:
        opened.close()
        raise _refusal(address, error) from error
    except StartError:
        opened.close()
        raise
    return opened, file


def _take(address: ControlAddress, opened: socket.socket, owner: Owner | None) -> SocketFile:
    """Give the file of a bound socket its owner. Where that is not permitted, remove the file and raise StartError."""
    try:
        return SocketFile(address.path, opened, owner)
    except PermissionError as error:
        SocketFile(address.path, opened).remove()
        raise StartError(f"control socket {address}: its owner cannot be set: permission denied") from error


def _bind_path(
    opened: socket.socket, address: ControlAddress, owner: Owner | None, mode: int | None, is_abandoned: IsAbandoned
) -> None:
    def bind() -> None:
        _bind_with_mode(opened, address.path, mode)

    try:
        _as_either(bind, owner)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    else:
        return
    _remove_stale(address, owner, is_abandoned)
    try:
        _as_either(bind, owner)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise StartError(f"control socket {address}: another process has just taken the path") from error


def _bind_with_mode(opened: socket.socket, path: str, mode: int | None) -> None:
    """Bind a socket to a path. The file never has other permission bits than `mode`, if given."""
    if mode is None:
        opened.bind(path)
        return
    # The kernel makes the file with the mode of the socket, less the umask (unix_bind_bsd).
    os.fchmod(opened.fileno(), mode)
    before = os.umask(0)
    try:
        opened.bind(path)
    finally:
        os.umask(before)


def _remove_stale(address: ControlAddress, owner: Owner | None, is_abandoned: IsAbandoned) -> None:
    """Remove a socket file that nobody listens on, or an empty file, as mktemp(1) makes one to reserve the name.

    Raises StartError for other files, and for a socket in use.
    """
    status = _as_either(lambda: os.lstat(address.path), owner)
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        _as_either(lambda: os.unlink(address.path), owner)
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise StartError(f"control socket {address}: the path exists and is neither a socket nor an empty file")
    try:
        refused = _as_either(lambda: _try_to_connect(address.path), owner)
    except PermissionError as error:
        if not is_abandoned(mark_of(status)):
            raise StartError(f"control socket {address}: permission denied") from error
        refused = errno.ECONNREFUSED
    if refused not in (errno.ECONNREFUSED, errno.ENOENT):
        raise StartError(f"control socket {address}: in use by another process")
    if refused == errno.ECONNREFUSED:
        _as_either(lambda: os.unlink(address.path), owner)


def _try_to_connect(path: str) -> int:
    """Return the error number of connecting to a socket, 0 for none. Raises PermissionError where we may not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(path)
    if refused in (errno.EACCES, errno.EPERM):
        raise PermissionError(refused, os.strerror(refused))
    return refused


def _as_either(step: Callable[[], _Result], owner: Owner | None) -> _Result:
    """Do a step as root; where root lacks the permission (CAP_DAC_OVERRIDE), as the user that root will become.

    Raises OSError.
    """
    try:
        return step()
    except PermissionError:
        if owner is None or os.geteuid() != 0:
            raise
    before = os.getegid()
    os.setegid(owner[1])
    try:
        os.seteuid(owner[0])
        try:
            return step()
        finally:
            os.seteuid(0)
    finally:
        os.setegid(before)


# Socket activation


def take_passed(environment: Mapping[str, str]) -> list[tuple[ControlAddress, socket.socket]]:
    """Take over all sockets that the service manager passed to this process (sd_listen_fds(3)).

    The address of a UDP socket is of kind UDP or UDP6, that of a stream socket of kind SYSTEMD. Raises StartError
    unless each is either of both, and ready for clients.
    """
    name = f"control socket {ControlAddress(ControlKind.SYSTEMD)}"
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdecimal() and int(count) > 0):
        raise StartError(f"{name}: the service manager passed no socket (LISTEN_FDS)")
    if environment.get("LISTEN_PID") != str(os.getpid()):
        raise StartError(f"{name}: the socket was passed to another process (LISTEN_PID); a daemon needs -f here")
    taken: list[tuple[ControlAddress, socket.socket]] = []
    for descriptor in range(FIRST_PASSED_DESCRIPTOR, FIRST_PASSED_DESCRIPTOR + int(count)):
        found = _passed(descriptor)
        if found is None:
            for _, opened in taken:
                opened.detach()  # not closed: they belong to somebody else
            raise StartError(f"{name}: descriptor {descriptor} is neither a listening stream socket nor a UDP socket")
        taken.append(found)
    for _, opened in taken:
        opened.setblocking(False)
        opened.set_inheritable(False)
        if opened.type == socket.SOCK_DGRAM:
            force_receive_buffer(opened, RECEIVE_BUFFER_BYTES)
    return taken


def _passed(descriptor: int) -> tuple[ControlAddress, socket.socket] | None:
    """Look at a descriptor; None unless it is a socket that commands can come to."""
    try:
        opened = socket.socket(fileno=descriptor)
    except OSError:
        return None
    kind = _kind_of(opened)
    if kind is None:
        opened.detach()
        return None
    place = opened.getsockname()
    if opened.family == socket.AF_UNIX:
        return ControlAddress(kind, path=os.fsdecode(place).replace("\0", "@")), opened
    return ControlAddress(kind, host=place[0], port=place[1]), opened


def _kind_of(opened: socket.socket) -> ControlKind | None:
    is_internet = opened.family in (socket.AF_INET, socket.AF_INET6)
    if is_internet and opened.type == socket.SOCK_DGRAM and opened.proto == socket.IPPROTO_UDP:
        is_bound = opened.getsockname()[1] != 0
        kind = ControlKind.UDP if opened.family == socket.AF_INET else ControlKind.UDP6
        return kind if is_bound else None
    is_stream = (is_internet or opened.family == socket.AF_UNIX) and opened.type == socket.SOCK_STREAM
    is_listening = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    return ControlKind.SYSTEMD if is_stream and is_listening else None
