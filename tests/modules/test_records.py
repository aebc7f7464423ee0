"""The line of a session, column by column (protocol.md 13.1)."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress
from rtpproxy.modules.records import COLUMNS, HEADER, plain, write_record
from rtpproxy.service.events import Observer
from tests.fakes import make_session
from tests.running import rtp
from tests.scenario import (
    CALLEE,
    CALLEE_RTCP,
    CALLER,
    CALLER_RTCP,
    FACES_CALLEE,
    FACES_CALLEE_RTCP,
    FACES_CALLER,
    FACES_CALLER_RTCP,
    RTCP,
    STRANGER,
    TO_CALLEE,
    TO_CALLER,
    Scenario,
)

OFFSET_S = 1_700_000_000.0


class Recorder(Observer):
    """Writes the records of sessions that end."""

    def __init__(self):
        self.lines = []

    def ended(self, session, why, now):
        self.lines.append(write_record(session, 7, b"relay1", 3990, now, OFFSET_S))


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def play(recorder):
    return Scenario(observers=[recorder])


def columns(recorder):
    """The columns of the only session that has ended, by name."""
    (line,) = recorder.lines
    assert line.endswith(b"\n")
    return dict(zip(COLUMNS, line[:-1].decode().split(","), strict=True))


def test_the_header_has_the_columns_of_the_protocol():
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    section = page.partition("### 13.1")[2].partition("```\n")[2].partition("```")[0]
    assert HEADER.decode() == section.replace("\n", "") + "\n"
    assert len(COLUMNS) == 54


def test_a_whole_call(play, recorder):
    """Each number is another, so that no column can stand for another one."""
    play.command("U call 10.0.1.2 4000 from", "20000")
    play.command("L call 10.0.2.2 5000 from to", "20002")
    play.at(0.5)
    for number in (200, 201, 203, 203):
        play.packet(CALLER, FACES_CALLER, rtp(number, ssrc=0xAB), TO_CALLEE)
        play.at(play.now - 1000 + 0.02)
    for number in (100, 101, 102, 103, 104, 105):
        play.packet(CALLEE, FACES_CALLEE, rtp(number, ssrc=0x1234ABCD), TO_CALLER)
        play.at(play.now - 1000 + 0.02)
    play.packet(CALLEE, FACES_CALLEE, b"not RTP", TO_CALLER)
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLER_RTCP, FACES_CALLER_RTCP, RTCP, (FACES_CALLEE_RTCP, CALLEE_RTCP))
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP, (FACES_CALLER_RTCP, CALLER_RTCP))
    play.ask("U call 0.0.0.0 4000 from to")
    play.at(2.25)
    play.command("D call from to", "0")
    assert recorder.lines == [
        b"1.2,relay1,3990,7,call,from,1700001000.000000,1700001002.250000,"
        b"1700001000.580000,1700001000.700000,1700001000.500000,1700001000.560000,"
        b"4,7,11,0,2,1,3,0,"
        b"6,6,0,0,1,0x1234ABCD,1,0,4,3,1,1,0,0x000000AB,1,0,"
        b"0.000000,0.000000,0.000000,10.000000,10.000000,5.000000,"
        b"10.0.2.2,5000,10.0.1.2,4000,10.0.2.2,5001,10.0.1.2,4001,f,t,0,1\n"
    ]


def test_a_call_that_nobody_answered(play, recorder):
    play.ask("U call 10.0.1.2 4000 from;2")
    play.tick(61.0)
    assert recorder.lines == [
        b"1.2,relay1,3990,7,call,from;2,1700001000.000000,1700001061.000000,0.000000,0.000000,0.000000,0.000000,"
        b"0,0,0,0,0,0,0,0,0,0,0,0,0,,0,-1,0,0,0,0,0,,0,-1,0.000000,0.000000,0.000000,0.000000,0.000000,0.000000,"
        b",,10.0.1.2,4000,,,10.0.1.2,4001,f,f,0,0\n"
    ]


def test_packets_that_are_dropped_and_changes_of_the_source(play, recorder):
    play.ask("U call foo 4000 from")
    play.ask("L call 10.0.2.2 5000 from to")
    play.packet(CALLEE, FACES_CALLEE, rtp(1))
    play.packet(CALLEE_RTCP, FACES_CALLEE_RTCP, RTCP)
    for ssrc in (1, 2, 2, 1):
        play.packet(STRANGER, FACES_CALLER, rtp(9, ssrc=ssrc)[:1] + b"\x65" + rtp(9, ssrc=ssrc)[2:], TO_CALLEE)
    play.ask("D call from")
    got = columns(recorder)
    names = "rtp_npkts_ino", "rtp_nrelayed", "rtp_ndropped", "rtcp_npkts_ino", "rtcp_nrelayed", "rtcp_ndropped"
    assert [got[name] for name in names] == ["1", "4", "1", "1", "0", "1"]
    names = "rtpa_ssrc_last_ina", "rtpa_ssrc_cnt_ina", "rtpa_pt_last_ina", "rtpp_rtp_rmt_ip_a", "rtpp_rtp_rmt_pt_a"
    assert [got[name] for name in names] == ["0x00000001", "3", "101", *map(str, STRANGER)]


@pytest.mark.parametrize(
    ("commands", "caller", "callee"),
    [
        (["U call 0.0.0.0 4000 from", "L call 10.0.2.2 5000 from to"], ("t", "1"), ("f", "0")),
        (["U call 10.0.1.2 4000 from", "L call 0.0.0.0 5000 from to"], ("f", "0"), ("t", "1")),
        (
            ["U call 10.0.1.2 4000 from", "L call 10.0.2.2 1 from to", "U call 0.0.0.0 1 to from"],
            ("f", "0"),
            ("t", "1"),
        ),
        (["U call 0.0.0.0 4000 from", "U call 0.0.0.0 0 from", "U call 10.0.1.2 4000 from"], ("f", "2"), ("f", "0")),
        (["U call 0.0.0.0 4000 from", "U call foo 4000 from"], ("t", "1"), ("f", "0")),
        (["U call 0.0.0.0 4000 from", "U call 127.0.0.1 4000 from"], ("f", "1"), ("f", "0")),
        (["U call 10.0.1.2 4000 from t && L 0.0.0.0 5000"], ("f", "0"), ("t", "1")),
    ],
)
def test_hold(play, recorder, commands, caller, callee):
    """A null address puts the party that is described on hold, and the next real one ends it (protocol.md 5.7)."""
    for command in commands:
        assert not play.ask(command).startswith("E")
    play.ask("D call from")
    got = columns(recorder)
    assert (got["rtpp_hld_sts_a"], got["rtpp_hld_cnt_a"]) == caller
    assert (got["rtpp_hld_sts_o"], got["rtpp_hld_cnt_o"]) == callee


def test_ipv6(recorder):
    play = Scenario(listen=(ListenAddress("2001:db8::1", is_ipv6=True),), observers=[recorder])
    play.ask("U6 call 2001:db8::2 4000 f")
    play.ask("X")
    got = columns(recorder)
    assert (got["rtpp_rtp_rmt_ip_a"], got["rtpp_rtcp_rmt_pt_a"]) == ("2001:db8::2", "4001")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1-a%2Cb@[::1];x=(~)", b"1-a%2Cb@[::1];x=(~)"),
        (b"a,b", b"a%2Cb"),
        (b'"a', b"%22a"),
        (b"\0\v\f\x1b\x7f \r\n", b"%00%0B%0C%1B%7F%20%0D%0A"),
        (b"\xc3\xa9\xff", b"%C3%A9%FF"),
        (b"", b""),
    ],
)
def test_what_would_end_a_column_or_a_line_is_escaped(text, expected):
    assert plain(text) == expected


@given(st.binary(), st.binary(), st.binary())
def test_any_names_make_one_line(call_id, from_tag, node):
    line = write_record(make_session(call_id, from_tag), 0, node, 1, 1.0, OFFSET_S)
    (read,) = csv.reader([line.decode("ascii")])
    assert len(read) == 54 == len(line.split(b","))
    assert line.count(b"\n") == 1
    assert read[4] == plain(call_id).decode()


def test_a_link_local_address_names_an_interface():
    session = make_session()
    session.caller.rtp.latch.remote = Endpoint("fe80::1%a,b\udcff", 4000)
    line = write_record(session, 0, b"", 1, 1.0, OFFSET_S)
    assert b",fe80::1%a%2Cb%FF,4000," in line
    assert line.count(b",") == 53
