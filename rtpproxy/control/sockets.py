"""Opens control sockets. Every failure becomes a StartError of one clear line (protocol.md 1.1, 1.7)."""

import asyncio
import errno
import logging
import os
import socket
import stat
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address

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
"""The first of the sockets that a service manager passes (sd_listen_fds(3))."""

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


async def bind_internet(loop: asyncio.AbstractEventLoop, address: ControlAddress) -> socket.socket:
    """Open a bound UDP socket, or a listening TCP socket. Raises StartError."""
    family = socket.AF_INET6 if address.kind.is_ipv6 else socket.AF_INET
    kind = socket.SOCK_DGRAM if address.kind.is_datagram else socket.SOCK_STREAM
    place = await _resolve(loop, address, family)
    try:
        opened = socket.socket(family, kind)
    except OSError as error:
        raise _refusal(address, error) from error
    try:
        opened.setblocking(False)
        if address.kind.is_ipv6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if address.kind.is_datagram:
            force_receive_buffer(opened, RECEIVE_BUFFER_BYTES)
            opened.bind(place)
        else:
            _listen_tcp(opened, place)
    except OSError as error:
        opened.close()
        raise _refusal(address, error) from error
    return opened


_Place = tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
"""A socket address as getaddrinfo(3) returns it."""


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

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = _identity(os.lstat(path))

    def hand_over(self, owner: tuple[int, int] | None, mode: int | None) -> None:
        """Set owner (uid, gid) and permission bits, each if given. Raises OSError.

        Another file never gets them, even if somebody who may write to the directory puts one in its place meanwhile.
        """
        opened = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(opened)
            if _identity(status) != self._identity or not stat.S_ISSOCK(status.st_mode):
                raise OSError(errno.ESTALE, "another process has just taken the path")
            # chown(2) and chmod(2) take a path; this path leads to the file that is open.
            itself = f"/proc/self/fd/{opened}"
            if owner is not None:
                os.chown(itself, *owner)
            if mode is not None:
                os.chmod(itself, mode)
        finally:
            os.close(opened)

    def remove(self) -> None:
        """Unlink the file, if it is still ours."""
        try:
            if _identity(os.lstat(self._path)) == self._identity:
                os.unlink(self._path)
        except PermissionError:
            log.info("control socket %s stays: the directory is another user's", self._path)
        except OSError as error:
            log.warning("cannot remove the control socket %s: %s", self._path, error.strerror)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def bind_unix(
    address: ControlAddress, owner: tuple[int, int] | None, mode: int | None
) -> tuple[socket.socket, SocketFile]:
    """Open a listening Unix socket; its file gets `owner` (uid, gid) and permission bits `mode`, each if given.

    Nobody can connect before the file has both. A socket file that nobody listens on any more is replaced. Raises
    StartError.
    """
    if len(os.fsencode(address.path)) > MAX_SOCKET_PATH_BYTES:
        raise StartError(f"control socket {address}: the path is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.setblocking(False)
        _bind_path(opened, address)
        file = SocketFile(address.path)
        try:
            _hand_over(file, address, owner, mode)
            opened.listen(BACKLOG)
        except (OSError, StartError):
            file.remove()
            raise
    except OSError as error:
        opened.close()
        raise _refusal(address, error) from error
    except StartError:
        opened.close()
        raise
    return opened, file


def _hand_over(file: SocketFile, address: ControlAddress, owner: tuple[int, int] | None, mode: int | None) -> None:
    """Set owner and mode. Must be called before the socket listens: until then nobody can connect."""
    try:
        file.hand_over(owner, mode)
    except PermissionError as error:
        raise StartError(f"control socket {address}: its owner and mode cannot be set: permission denied") from error


def _bind_path(opened: socket.socket, address: ControlAddress) -> None:
    try:
        opened.bind(address.path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    else:
        return
    _remove_stale(address)
    try:
        opened.bind(address.path)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise StartError(f"control socket {address}: another process has just taken the path") from error


def _remove_stale(address: ControlAddress) -> None:
    """Remove a socket file that nobody listens on. Raises StartError for other files, and for a socket in use."""
    if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
        raise StartError(f"control socket {address}: the file exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        refused = probe.connect_ex(address.path)
    if refused in (errno.EACCES, errno.EPERM):
        raise StartError(f"control socket {address}: permission denied")
    if refused not in (errno.ECONNREFUSED, errno.ENOENT):
        raise StartError(f"control socket {address}: in use by another process")
    if refused == errno.ECONNREFUSED:
        os.unlink(address.path)


# Socket activation


def take_passed(environment: Mapping[str, str]) -> socket.socket:
    """Take over the first socket that the service manager passed to this process (sd_listen_fds(3)).

    Raises StartError unless it is a listening socket of type SOCK_STREAM.
    """
    name = f"control socket {ControlAddress(ControlKind.SYSTEMD)}"
    count = environment.get("LISTEN_FDS", "")
    if not (count.isascii() and count.isdecimal() and int(count) > 0):
        raise StartError(f"{name}: the service manager passed no socket (LISTEN_FDS)")
    if environment.get("LISTEN_PID") != str(os.getpid()):
        raise StartError(f"{name}: the socket was passed to another process (LISTEN_PID); a daemon needs -f here")
    refusal = StartError(f"{name}: descriptor {FIRST_PASSED_DESCRIPTOR} is not a listening stream socket")
    try:
        passed = socket.socket(fileno=FIRST_PASSED_DESCRIPTOR)
    except OSError as error:
        raise refusal from error
    is_listening = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    is_known = passed.family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    if not (is_known and is_listening and passed.type == socket.SOCK_STREAM):
        passed.detach()  # not closed: it belongs to somebody else
        raise refusal
    passed.setblocking(False)
    passed.set_inheritable(False)
    return passed
