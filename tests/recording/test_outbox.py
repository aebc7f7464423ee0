"""What is under way to the process that writes: in order, without waiting, up to a limit."""

import asyncio
import errno
import os
import socket

import pytest
import uvloop

from rtpproxy.recording import outbox
from rtpproxy.recording.messages import MAX_BYTES, ROOM_BYTES, Lost, Packets, Several, decode, encode, encode_packet
from rtpproxy.recording.outbox import Outbox
from tests.recording.packets import packet
from tests.waiting import DEADLINE_S, wait_for

LOST = Lost(1, 2, 3)


class Stage:
    """An outbox, and the other end."""

    def __init__(self):
        self.loop = uvloop.new_event_loop()
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.outbox = Outbox(self.loop, self.near)

    def run(self):
        self.loop.run_until_complete(asyncio.sleep(0.001))

    def add(self, *numbers, payload=None):
        for number in numbers:
            self.outbox.add_packet(encode_packet(1, packet(number, payload=payload)))

    def received(self):
        """Messages that have arrived."""
        found = []
        while True:
            try:
                found.append(decode(self.far.recv(ROOM_BYTES)))
            except BlockingIOError:
                return found


@pytest.fixture
def stage():
    made = Stage()
    yield made
    made.outbox.close()
    made.near.close()
    made.far.close()
    made.loop.close()


def packets(*numbers):
    return Packets(tuple((1, packet(number)) for number in numbers))


def test_packets_of_one_turn_share_a_message(stage):
    stage.add(1, 2, 3)
    assert stage.received() == []
    stage.run()
    stage.add(4)
    stage.run()
    assert stage.received() == [packets(1, 2, 3), packets(4)]


def test_messages_and_packets_keep_their_order(stage):
    stage.add(1, 2)
    stage.outbox.send(encode(LOST))
    stage.add(3)
    stage.run()
    assert stage.received() == [packets(1, 2), LOST, packets(3)]


def test_messages_of_one_turn_share_one(stage):
    """So do those of several turns soon after each other. Those with descriptors are sent at once."""
    others = [Lost(number, 2, 3) for number in range(4)]
    for one in others[:2]:
        stage.outbox.send(encode(one))
    assert stage.received() == []
    stage.add(1)
    for one in others[2:]:
        stage.outbox.send(encode(one))
    found = []

    def collect():
        stage.run()
        found.extend(stage.received())
        return len(found) == 3

    wait_for(collect, DEADLINE_S, "three messages")
    assert found == [Several(tuple(others[:2])), packets(1), Several(tuple(others[2:]))]
    stage.outbox.send(encode(LOST))
    stage.outbox.send(encode(others[0]), [os.open("/dev/null", os.O_RDONLY)])
    assert stage.received() == [LOST, others[0]]


def test_messages_share_no_longer_ones_than_the_limit(stage):
    one = encode(Lost(1, 2, 3))
    count = 2 * MAX_BYTES // len(one)
    for _ in range(count):
        stage.outbox.send(one)
    found = []

    def collect():
        stage.run()
        found.extend(stage.received())
        return sum(len(message.messages) for message in found) == count

    wait_for(collect, DEADLINE_S, "all messages")
    assert max(len(encode(message)) for message in found) <= MAX_BYTES + 1


def test_a_message_grows_no_longer_than_the_limit(stage):
    stage.add(*range(100), payload=bytes(1400))
    stage.run()
    sizes = []
    while True:
        try:
            sizes.append(len(stage.far.recv(ROOM_BYTES)))
        except BlockingIOError:
            break
    assert len(sizes) == 3
    assert max(sizes) <= MAX_BYTES + 1


def test_what_is_not_taken_waits_up_to_the_limit(stage, monkeypatch):
    monkeypatch.setattr(outbox, "BACKLOG_BYTES", 1 << 20)
    sent = 0
    while stage.outbox.has_room:
        stage.add(sent, payload=b"%06d" % sent + bytes(1000))
        sent += 1
        if sent % 50 == 0:
            stage.run()
    stage.outbox.send(encode(LOST))
    assert not stage.outbox.has_room
    found = []

    def collect():
        stage.run()
        found.extend(stage.received())
        return found and found[-1] == LOST

    wait_for(collect, DEADLINE_S, "the last message")
    numbers = [int(one.payload[:6]) for message in found[:-1] for _, one in message.packets]
    assert numbers == list(range(sent))
    assert stage.outbox.has_room


def test_descriptors_travel_and_are_closed_here(stage):
    reader, writer = os.pipe()
    os.close(writer)
    inode = os.fstat(reader).st_ino
    stage.outbox.send(b"x", [reader])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)
    _, (received,), _, _ = socket.recv_fds(stage.far, 100, 1)
    assert os.fstat(received).st_ino == inode
    os.close(received)


def test_descriptors_of_what_is_never_sent_are_closed(stage):
    reader, writer = os.pipe()
    os.close(writer)
    stage.far.close()
    stage.outbox.send(b"x", [reader])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reader)


def test_no_room_for_descriptors_is_waited_for(stage, monkeypatch):
    send_fds, refused = socket.send_fds, []

    def refuse_once(*arguments):
        if not refused:
            refused.append(arguments)
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        return send_fds(*arguments)

    monkeypatch.setattr(socket, "send_fds", refuse_once)
    monkeypatch.setattr(outbox, "PAUSE_S", 0.01)
    descriptor = os.open("/dev/null", os.O_RDONLY)
    stage.outbox.send(encode(LOST), [descriptor])
    stage.add(1)
    found = []

    def collect():
        stage.run()
        found.extend(stage.received())
        return len(found) == 2

    wait_for(collect, DEADLINE_S, "both messages")
    assert found == [LOST, packets(1)]
    assert refused


def test_draining_sends_everything(stage):
    stage.add(1, 2)
    stage.outbox.send(encode(LOST))
    stage.add(3)
    assert stage.outbox.drain(DEADLINE_S) == 0
    assert stage.received() == [packets(1, 2), LOST, packets(3)]


def test_draining_does_not_wait_for_ever(stage):
    for number in range(3000):
        stage.add(number, payload=bytes(1000))
    left_bytes = stage.outbox.drain(0.01)
    received = sum(len(one.packets) for one in stage.received())
    assert 0 < received < 3000
    head_bytes = len(encode_packet(1, packet(1, payload=b"")))
    assert 0 <= left_bytes - (3000 - received) * (1000 + head_bytes) < 100
