"""RTCP of calls to a collector by HEP, with the kernel tier and without: the same reports, and no call notices it."""

import contextlib
import os
import re
import select
import signal
import socket
import time

import pytest

from tests.netns_call.call import BOUND, DEADLINE_S, KERNEL, STEERED, TC, Call, PhonePort, allow_refusals, paused, rtcp
from tests.netns_call.test_copies import process_of, told
from tests.recording.hep_packets import read_all, read_hep
from tests.rtp.rtcp_packets import (
    block,
    bye,
    chunk,
    description,
    encrypted,
    extended_report,
    metrics_block,
    receiver_report,
    sender_report,
)
from tests.running import rtp
from tests.waiting import wait_for

COLLECTOR_PORT = 9060
COMPOUND = (
    sender_report(block())
    + description(chunk(0x11111111, (1, b"alice@10.0.1.2")))
    + extended_report(metrics_block())
    + bye(0x11111111)
)
COMPOUND_BODY = {
    "ssrc": 0x11111111,
    "sender_information": {
        "ntp_timestamp_sec": 3900000000,
        "ntp_timestamp_usec": 1 << 31,
        "rtp_timestamp": 160,
        "packets": 50,
        "octets": 8000,
    },
    "type": 200,
    "report_blocks": [
        {
            "source_ssrc": 0x22222222,
            "fraction_lost": 64,
            "packets_lost": -2,
            "highest_seq_no": 70000,
            "ia_jitter": 31,
            "lsr": 0xAABBCCDD,
            "dlsr": 65536,
        }
    ],
    "report_count": 1,
    "sdes_ssrc": 0x11111111,
    "sdes_report_count": 1,
    "sdes_information": [{"sdes_chunk_ssrc": 0x11111111, "type": 1, "text": "alice@10.0.1.2"}],
    "report_blocks_xr": {
        "type": 7,
        "id": 0x22222222,
        "fraction_lost": 1,
        "fraction_discard": 2,
        "burst_density": 3,
        "gap_density": 4,
        "burst_duration": 500,
        "gap_duration": 600,
        "round_trip_delay": 700,
        "end_system_delay": 800,
    },
}
all_ways = pytest.mark.parametrize("way", [KERNEL, TC, STEERED, BOUND], ids=lambda way: way.name, indirect=True)
kernel_ways = pytest.mark.parametrize("way", [KERNEL, TC], ids=lambda way: way.name, indirect=True)
two_ways = pytest.mark.parametrize("way", [KERNEL, BOUND], ids=lambda way: way.name, indirect=True)


def empty_body(number):
    """What is reported of `rtcp(number)`."""
    return {"ssrc": number, "type": 201, "report_blocks": [], "report_count": 0}


class UdpCollector:
    """Gets reports on the callee's host."""

    def __init__(self, topology):
        self._port = PhonePort(topology.callee, topology.callee.ip, COLLECTOR_PORT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._port.__exit__()

    def expect(self, count):
        """So many reports, and no more."""
        arrived = self._port.expect(count)
        assert len(arrived) == count
        return [read_hep(data) for data, _ in arrived]


class TcpCollector:
    """The same by TCP, one connection at a time."""

    def __init__(self, topology, receive_bytes=None):
        self._server = topology.callee.socket(kind=socket.SOCK_STREAM)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if receive_bytes:
            self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._server.bind((topology.callee.ip, COLLECTOR_PORT))
        self._server.listen()
        self._connection = None
        self._data = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._connection is not None:
            self._connection.close()
        self._server.close()

    def expect(self, count):
        """So many reports, and no more. Each is whole."""
        if self._connection is None:
            self._server.settimeout(DEADLINE_S)
            self._connection, _ = self._server.accept()
            self._connection.setblocking(False)
        found = []

        def has_all():
            if select.select([self._connection], [], [], 0)[0]:
                some = self._connection.recv(1 << 20)
                assert some, "the relay hung up"
                reports, self._data = read_all(self._data + some)
                found.extend(reports)
            return len(found) >= count

        wait_for(has_all, DEADLINE_S, f"{count} reports")
        assert len(found) == count
        return found


COLLECTORS = {"udp": UdpCollector, "tcp": TcpCollector}
both_transports = pytest.mark.parametrize("transport", COLLECTORS)


@pytest.fixture
def transport():
    return "udp"


@pytest.fixture
def relay(start, way, topology, transport):
    return start(*way.options, "--hep", f"{transport}:{topology.callee.ip}:{COLLECTOR_PORT}", "--hep-id", "7")


def reports_of(told_by):
    """Source, destination and body of each."""
    return [(one.source, one.to, one.body) for one in told_by]


@all_ways
@both_transports
def test_reports_of_both_parties(relay, call, topology, way, transport):
    began_us = time.time_ns() // 1000
    with COLLECTORS[transport](topology) as collector:
        call.establish(way)
        ends = [(party.rtcp.address, party.to_rtcp) for party in (call.caller, call.callee)]
        if way is BOUND:  # a socket on all addresses does not tell at which a packet arrived
            ends = [(source, ("0.0.0.0", port)) for source, (_, port) in ends]
        assert reports_of(collector.expect(2)) == [(*end, empty_body(1)) for end in ends]
        call.cross(COMPOUND, is_rtcp=True)
        reports = collector.expect(2)
        assert reports_of(reports) == [(*end, COMPOUND_BODY) for end in ends]
        assert {(one.correlation, one.capture_id) for one in reports} == {(b"c1", 7)}
        assert began_us < reports[0].time_us <= reports[1].time_us <= time.time_ns() // 1000
        call.cross(rtp(2))
        assert relay.ask(f"D {call.tags}") == "0"
    assert relay.stop() == 0
    counted = "4 packets sent, 0 lost; of what came, 0 malformed, 0 SRTCP, 0 without a report"
    assert f"RTCP to Homer: {counted}" in relay.log


@pytest.mark.vm
@kernel_ways
def test_the_kernel_goes_on_forwarding(relay, call, topology, way):
    """The relay itself stands still: kernel and the process that reports do it all."""
    with UdpCollector(topology) as collector:
        call.establish(way)
        collector.expect(2)
        before = told(relay, "frames forwarded")
        with paused(relay):
            for number in range(2, 52):
                call.cross(rtcp(number), is_rtcp=True)
            bodies = [one.body for one in collector.expect(100)]
        assert bodies == [empty_body(number) for number in range(2, 52) for _ in range(2)]
        assert told(relay, "frames forwarded") == before + 100


@two_ways
def test_what_cannot_be_reported_is_relayed_and_counted(relay, call, topology, way):
    with UdpCollector(topology) as collector:
        call.establish(way)
        collector.expect(2)
        for data in (
            encrypted(sender_report(block()) + bye(1)),
            bye(1),
            b"no RTCP at all",
            receiver_report(block(), count=31),
            COMPOUND[:-6],
        ):
            call.cross(data, is_rtcp=True)
        assert [one.body["report_count"] for one in collector.expect(4)] == [1, 1, 1, 1]
        counts = {"sent": 6, "lost": 0, "malformed": 6, "srtcp": 2, "without_report": 4}
        wait_for(lambda: hep_counts(relay) == counts, DEADLINE_S, f"the counts {counts}")


def hep_counts(relay):
    """What `It` tells of reports, by name."""
    return {name: int(count) for name, count in re.findall(r"\bhep_(\w+): (\d+)", relay.ask("It"))}


@two_ways
@both_transports
def test_a_collector_that_is_down_and_comes_back(relay, call, topology, way, transport):
    """It costs its packets. Over TCP, those wait that came while it was down."""
    allow_refusals(topology.callee)
    call.establish(way)
    for number in range(2, 12):
        call.cross(rtcp(number), is_rtcp=True)
    if transport == "udp":
        wait_for(lambda: hep_counts(relay).get("lost", 0) > 15, DEADLINE_S, "reports to be lost")
        done = "sent", "lost"
        wait_for(lambda: sum(hep_counts(relay)[one] for one in done) == 22, DEADLINE_S, "all to be done with")
        assert re.search(r"packets lost so far: udp:10.0.2.2:9060: Connection refused", relay.log)
        with UdpCollector(topology) as collector:
            call.cross(rtcp(99), is_rtcp=True)
            assert [one.body for one in collector.expect(2)] == [empty_body(99)] * 2
    else:
        with TcpCollector(topology) as collector:
            bodies = [one.body for one in collector.expect(22)]
            assert bodies == [empty_body(number) for number in range(1, 12) for _ in range(2)]
        counts = {"sent": 22, "lost": 0, "malformed": 0, "srtcp": 0, "without_report": 0}
        wait_for(lambda: hep_counts(relay) == counts, DEADLINE_S, f"the counts {counts}")
        # It is started again: what it did not acknowledge comes once more, as a whole.
        call.cross(rtcp(50), is_rtcp=True)
        with TcpCollector(topology) as collector:
            assert [one.body for one in collector.expect(2)] == [empty_body(50)] * 2
    call.cross(rtp(2))


@two_ways
def test_a_collector_that_does_not_read(start, topology, way):
    """The calls go on, and reports are lost whole, once those that wait are too many."""
    relay = start(*way.options, "--hep", f"tcp:{topology.callee.ip}:{COLLECTOR_PORT}")
    long_one = receiver_report() + description(chunk(5, *[(7, b"\xff" * 255)] * 5))
    with TcpCollector(topology, receive_bytes=4096) as collector, contextlib.ExitStack() as stack:
        calls = [
            stack.enter_context(Call(relay, topology.caller, topology.callee, f"c{number}", caller_at=at, callee_at=to))
            for number in range(4)
            for at, to in [((topology.caller.ip, 4000 + 2 * number), (topology.callee.ip, 5000 + 2 * number))]
        ]
        calls[0].establish(way)
        wait_for(lambda: hep_counts(relay).get("sent", 0) > 0, DEADLINE_S, "a connection")
        for call in calls:
            call.cross(rtcp(1), is_rtcp=True)
            for _ in range(120):  # fewer than would be taken for a loop
                call.cross(long_one, is_rtcp=True)
        wait_for(lambda: told(relay, "recording taps_packets") == 4 * 2 * 121 + 2, DEADLINE_S, "all to be taken")
        wait_for(lambda: hep_counts(relay).get("lost", 0) > 0, DEADLINE_S, "reports to be lost")
        assert "it does not take what waits for it" in relay.log
        reports = collector.expect(4 * 2 * 121 + 2 - hep_counts(relay)["lost"])
        assert {len(one.body.get("sdes_information", ())) for one in reports} == {0, 5}
        calls[0].cross(rtp(2))


@two_ways
def test_the_process_dies(relay, call, topology, way):
    """A new one goes on with the reports of calls that are up."""
    with UdpCollector(topology) as collector:
        call.establish(way)
        collector.expect(2)
        killed = process_of(relay)
        call.cross(rtcp(2), is_rtcp=True)
        collector.expect(2)
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: "died (killed by signal 9)" in relay.log, DEADLINE_S, "the death to be noticed")

        def is_reported():
            call.cross(rtcp(3), is_rtcp=True)
            return select.select([collector._port], [], [], 0)[0]

        wait_for(is_reported, DEADLINE_S, "reports by the new process")
        assert {one[2]["ssrc"] for one in reports_of([read_hep(data) for data, _ in collector._port.take()])} == {3}


@two_ways
def test_configuration_file(start, topology, way, tmp_path):
    path = tmp_path / "rtpproxy.conf"
    path.write_text(
        "modules { acct_rtcp_hep {\n"
        f'  load = "/usr/lib/rtpproxy/rtpp_acct_rtcp_hep.so"; capt_host = {topology.callee.ip}\n'
        "  capt_port = 9060; capt_ptype = udp; capt_id = 8\n} }\n"
    )
    relay = start(*way.options, "--config", str(path))
    with UdpCollector(topology) as collector, Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
        assert {one.capture_id for one in collector.expect(2)} == {8}


@two_ways
def test_hostile_call_ids(relay, topology, way):
    """They are one token of a command; what no call-id of SIP has is replaced, and nothing breaks out of its place."""
    with UdpCollector(topology) as collector:
        name = 'a"},{\\\x01\x7f' + "x" * 2000
        with Call(relay, topology.caller, topology.callee, name) as call:
            call.cross(rtcp(1), is_rtcp=True)
            correlations = {one.correlation for one in collector.expect(2)}
    assert correlations == {(b'a"},{\\??' + b"x" * 2000)[:1024]}
