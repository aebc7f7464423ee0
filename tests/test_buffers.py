import socket
from pathlib import Path

import pytest

from rtpproxy.buffers import force_receive_buffer, force_send_buffer
from tests.running import own_namespace

BUFFERS = pytest.mark.parametrize(
    ("force", "option", "limit"),
    [
        (force_receive_buffer, socket.SO_RCVBUF, "/proc/sys/net/core/rmem_max"),
        (force_send_buffer, socket.SO_SNDBUF, "/proc/sys/net/core/wmem_max"),
    ],
    ids=["received", "sent"],
)
OVERHEAD = 2
"""The kernel doubles what is asked for, to have room for its own data."""


@BUFFERS
def test_size_up_to_the_limit_of_the_system(force, option, limit):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        force(opened, 100_000)
        assert opened.getsockopt(socket.SOL_SOCKET, option) == OVERHEAD * 100_000


@BUFFERS
def test_size_over_the_limit_is_what_can_be_had(force, option, limit):
    allowed = int(Path(limit).read_text())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        force(opened, 2 * allowed)
        assert opened.getsockopt(socket.SOL_SOCKET, option) in (OVERHEAD * allowed, 2 * OVERHEAD * allowed)


@pytest.mark.root
@BUFFERS
def test_size_over_the_limit_of_the_system(force, option, limit):
    with own_namespace(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        force(opened, 64 << 20)
        assert opened.getsockopt(socket.SOL_SOCKET, option) == OVERHEAD * 64 << 20
