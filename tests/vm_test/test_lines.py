"""Commands and answers of QEMU's monitor and its guest agent."""

import json
import socket

import pytest
from lab.lines import AnswerError, JsonLines

from tests.waiting import DEADLINE_S


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield JsonLines(ours), theirs


def test_an_answer_among_events(ends):
    lines, theirs = ends
    theirs.sendall(b'{"event": "RESET"}\n{"return": {"status": "run')
    theirs.sendall(b'ning"}}\n{"event": "STOP"}\n')
    assert lines.ask({"execute": "query-status"}, DEADLINE_S) == {"status": "running"}
    assert json.loads(theirs.recv(1000)) == {"execute": "query-status"}
    assert [event["event"] for event in lines.events] == ["RESET"]
    assert lines.receive(DEADLINE_S) == {"event": "STOP"}


def test_refusal_silence_and_the_end(ends):
    lines, theirs = ends
    theirs.sendall(b'{"error": {"class": "GenericError", "desc": "no such device"}}\n')
    with pytest.raises(AnswerError, match="device_del: no such device"):
        lines.ask({"execute": "device_del"}, DEADLINE_S)
    with pytest.raises(AnswerError, match="no answer to device_del within 0 s"):
        lines.ask({"execute": "device_del"}, 0.01)
    theirs.close()
    with pytest.raises(AnswerError, match="the machine has ended"):
        lines.receive(DEADLINE_S)


def test_what_was_said_before_a_new_beginning_is_forgotten(ends):
    lines, theirs = ends
    theirs.sendall(b'{"return": 1}\n{"ret\xff{"return": 5}\n')
    assert lines.receive(DEADLINE_S) == {"return": 5}
