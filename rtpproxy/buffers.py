"""Sets the sizes of socket buffers, beyond the system's limit (`net.core.rmem_max`, `wmem_max`) if permitted."""

import socket

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
"""Options of SOL_SOCKET that need CAP_NET_ADMIN; the socket module does not name them."""


def force_receive_buffer(owner: socket.socket, size_bytes: int) -> None:
    """Set the size of a socket's receive buffer; without permission it stays within the system's limit."""
    _force(owner, _SO_RCVBUFFORCE, socket.SO_RCVBUF, size_bytes)


def force_send_buffer(owner: socket.socket, size_bytes: int) -> None:
    """Set the size of a socket's send buffer; without permission it stays within the system's limit."""
    _force(owner, _SO_SNDBUFFORCE, socket.SO_SNDBUF, size_bytes)


def _force(owner: socket.socket, force: int, ordinary: int, size_bytes: int) -> None:
    try:
        owner.setsockopt(socket.SOL_SOCKET, force, size_bytes)
    except PermissionError:
        owner.setsockopt(socket.SOL_SOCKET, ordinary, size_bytes)
