"""Reports of all sessions to their collector, and what the relay is told of them."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.recording.collectors import NEWS_NS, Agent, Collectors, decode_settings, encode_settings
from rtpproxy.recording.messages import Collected, Reports
from rtpproxy.recording.packet import Packet
from tests.recording.hep_packets import read_hep
from tests.recording.packets import BEGIN_NS, OUR_PLACE, PHONE
from tests.rtp.rtcp_packets import block, bye, encrypted, receiver_report, sender_report

NOW_NS = 5_000_000_000


@given(st.text(max_size=40), st.integers(0, 65535), st.booleans(), st.integers(0, 0xFFFFFFFF), st.binary(max_size=99))
def test_settings(host, port, is_tcp, capture_id, call_id):
    agent = Agent(host, port, is_tcp, capture_id)
    assert decode_settings(encode_settings(agent, call_id)) == (agent, call_id)


def test_names_in_the_log():
    assert str(Agent("192.0.2.1", 9060, False, 1)) == "udp:192.0.2.1:9060"
    assert str(Agent("2001:db8::1", 9060, True, 1)) == "tcp:[2001:db8::1]:9060"


@pytest.fixture
def collectors():
    made = Collectors()
    yield made
    made.close(NOW_NS)


@pytest.fixture
def server():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(30)
        yield opened


def agent_of(server):
    return Agent("127.0.0.1", server.getsockname()[1], False, 7)


def test_reports_of_two_sessions(collectors, server):
    first, second = (collectors.handler(encode_settings(agent_of(server), one)) for one in (b"first", b"second"))
    collectors.work(NOW_NS)
    for handler, data in ((first, sender_report(block())), (second, receiver_report() + receiver_report(block()))):
        assert handler.packet(Packet(1, PHONE, OUR_PLACE, data), BEGIN_NS) == ()
    read = [read_hep(server.recv(2000)) for _ in range(3)]
    assert [(one.correlation, one.body["type"], one.body["report_count"]) for one in read] == [
        (b"first", 200, 1),
        (b"second", 201, 0),
        (b"second", 201, 1),
    ]
    assert {(one.source, one.to, one.time_us, one.capture_id) for one in read} == {
        (("10.0.1.2", 4000), ("10.0.0.1", 20000), BEGIN_NS // 1000, 7)
    }
    assert collectors.news(NOW_NS) == Collected(Reports(sent=3), "")
    assert collectors.close(NOW_NS) is None


def test_what_is_not_reported_is_counted(collectors, server):
    handler = collectors.handler(encode_settings(agent_of(server), b"call"))
    collectors.work(NOW_NS)
    for data in (
        encrypted(sender_report(block()) + bye(1)),
        bye(1),
        b"",
        receiver_report(block(), count=2),
        sender_report() + b"junk",
    ):
        handler.packet(Packet(1, PHONE, OUR_PLACE, data), BEGIN_NS)
    assert [read_hep(server.recv(2000)).body["report_count"] for _ in range(2)] == [1, 0]
    for step in (handler.rest(NOW_NS), handler.finish()):
        assert step == ()
    handler.close()
    counts = Reports(sent=2, malformed=3, encrypted=1, without_report=2)
    assert collectors.close(NOW_NS) == Collected(counts, "")


def test_news_come_once_a_second(collectors, server):
    handler = collectors.handler(encode_settings(agent_of(server), b"call"))
    collectors.work(NOW_NS)
    assert collectors.due_ns(NOW_NS) is None
    assert collectors.news(NOW_NS) is None
    report = Packet(1, PHONE, OUR_PLACE, receiver_report())
    handler.packet(report, BEGIN_NS)
    assert collectors.due_ns(NOW_NS) == NEWS_NS
    assert collectors.news(NOW_NS + NEWS_NS - 1) is None
    assert collectors.news(NOW_NS + NEWS_NS) == Collected(Reports(sent=1), "")
    assert collectors.due_ns(NOW_NS + NEWS_NS) is None
    handler.packet(report, BEGIN_NS)
    assert collectors.news(NOW_NS + 3 * NEWS_NS) == Collected(Reports(sent=1), "")


def test_nobody_is_there(collectors):
    assert collectors.due_ns(NOW_NS) is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        agent = agent_of(closed)
    handler = collectors.handler(encode_settings(agent, b"call"))
    collectors.work(NOW_NS)
    for _ in range(3):
        handler.packet(Packet(1, PHONE, OUR_PLACE, receiver_report()), BEGIN_NS)
    assert collectors.news(NOW_NS) == Collected(Reports(sent=1, lost=2), f"{agent}: Connection refused")
