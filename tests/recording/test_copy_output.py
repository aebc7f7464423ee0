"""One copy in the process that sends: where it goes, and what is counted. Sockets are real."""

import os
import socket

import pytest

from rtpproxy.recording.copy_output import CopyOutput
from rtpproxy.recording.messages import Aim, OpenCopy, Sent, To
from tests.recording.packets import packet


def receiver(family=socket.AF_INET, host="127.0.0.1"):
    opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    opened.bind((host, 0))
    return opened


def sender(family=socket.AF_INET):
    return socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK).detach()


def aim(to, *, has_socket=False, host="127.0.0.1"):
    """A message that names the place of a socket, or nowhere."""
    return Aim(1, None if to is None else To(host, to.getsockname()[1], 0), has_socket)


def received(opened):
    found = []
    while True:
        try:
            found.append(opened.recv(2000))
        except BlockingIOError:
            return found


@pytest.fixture
def copy():
    made = CopyOutput(OpenCopy(1))
    made.begin()
    yield made
    made.close()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_payloads_are_sent_as_they_are(copy, family, host):
    with receiver(family, host) as there:
        copy.aim(aim(there, has_socket=True, host=host), sender(family))
        for number in range(3):
            copy.take(packet(number, payload=bytes((number,)) * 1472), 0)
        assert received(there) == [bytes((number,)) * 1472 for number in range(3)]
    assert (copy.packets, copy.withheld, copy.lost, copy.why) == (3, 0, 0, "")


def test_to_another_place_by_the_same_socket_and_by_another(copy):
    with receiver() as first, receiver() as second:
        copy.aim(aim(first, has_socket=True), sender())
        copy.take(packet(1), 0)
        copy.aim(aim(second), None)
        copy.take(packet(2), 0)
        descriptor = sender()
        copy.aim(aim(first, has_socket=True), descriptor)
        copy.take(packet(3), 0)
        assert received(first) == [packet(1).payload, packet(3).payload]
        assert received(second) == [packet(2).payload]
        # The socket before it was closed.
        assert len({os.fstat(descriptor).st_ino, os.fstat(copy._socket.fileno()).st_ino}) == 1


def test_what_has_nowhere_to_go_is_withheld_and_not_lost(copy):
    copy.take(packet(1), 0)
    with receiver() as there:
        copy.aim(aim(there, has_socket=True), sender())
        copy.take(packet(2), 0)
        copy.aim(aim(None), None)
        copy.take(packet(3), 0)
        copy.aim(aim(there), None)
        copy.take(packet(4), 0)
        assert received(there) == [packet(2).payload, packet(4).payload]
    assert (copy.packets, copy.withheld, copy.lost) == (4, 2, 0)


def test_what_the_kernel_does_not_take_is_lost_and_the_copy_goes_on(copy):
    with receiver() as there:
        copy.aim(aim(there, has_socket=True), sender())
        copy.take(packet(1, payload=bytes(65_536)), 0)
        copy.take(packet(2), 0)
        assert received(there) == [packet(2).payload]
    assert (copy.packets, copy.lost, copy.why) == (1, 1, "Message too long")
    assert not copy.is_over


def test_progress_is_told_once(copy):
    assert copy.progress() is None
    copy.take(packet(1), 0)
    assert copy.progress() == Sent(1, 1, 1)
    assert copy.progress() is None


def test_after_another_process():
    """Eight packets were given, and seven teed, of which two are still to be read; five were sent or withheld."""
    copy = CopyOutput(OpenCopy(1, given=8, packets=5, withheld=1, teed=7, tees=(4,)))
    copy.begin(unread=2)
    assert (copy.packets, copy.withheld, copy.teed, copy.lost) == (5, 1, 5, 8)
    assert copy.progress() is None
    for _ in range(2):
        copy.take(packet(1), 0)
    assert copy.progress() == Sent(1, 7, 3)
