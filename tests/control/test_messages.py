"""Replies in their wire form (protocol.md 3.2, 11.1, 11.2)."""

import pytest

from rtpproxy.control.messages import (
    SUPPORTED_EXTENSIONS,
    CommandError,
    ErrorCode,
    PortLine,
    SessionCounters,
    Totals,
    encode_counters,
    encode_error,
    encode_port_line,
    encode_totals,
)

COUNTERS = SessionCounters(59, 1, 2, 3, 4, 0.25, 5.5, 6.5, 7.5, 8, 9, 10, 11, 12)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (PortLine(35000), b"35000"),
        (PortLine(35000, "192.0.2.1"), b"35000 192.0.2.1"),
        (PortLine(35000, "2001:db8::5"), b"35000 2001:db8::5 6"),
    ],
)
def test_port_line(line: PortLine, text: bytes) -> None:
    assert encode_port_line(line) == text


def test_counters_by_default() -> None:
    assert encode_counters(COUNTERS, (), is_verbose=False) == b"59 1 2 3 4"
    verbose = encode_counters(COUNTERS, (), is_verbose=True)
    assert verbose == b"ttl=59 npkts_ina=1 npkts_ino=2 nrelayed=3 ndropped=4"


def test_counters_by_name() -> None:
    names = b"longest_ipi rtpa_jlast rtpa_jmax rtpa_javg rtpa_nsent rtpa_nrcvd rtpa_ndups rtpa_nlost rtpa_perrs".split()
    text = encode_counters(COUNTERS, names, is_verbose=True)
    assert text == (
        b"longest_ipi=0.250000 rtpa_jlast=5.500000 rtpa_jmax=6.500000 rtpa_javg=7.500000"
        b" rtpa_nsent=8 rtpa_nrcvd=9 rtpa_ndups=10 rtpa_nlost=11 rtpa_perrs=12"
    )
    assert encode_counters(COUNTERS, [b"ndropped", b"ttl", b"ttl"], is_verbose=False) == b"4 59 59"


@pytest.mark.parametrize("name", [b"bogus", b"TTL", b"ttl_s"])
def test_counter_unknown(name: bytes) -> None:
    with pytest.raises(CommandError, match="E62"):
        encode_counters(COUNTERS, [b"ttl", name], is_verbose=False)


def test_totals() -> None:
    totals = Totals(sessions_created=7, active_sessions=2, packets_received=100, packets_transmitted=90)
    lines = encode_totals(totals, with_load=False)
    assert lines == (
        b"sessions created: 7\nactive sessions: 2\nactive streams: 4\npackets received: 100\npackets transmitted: 90"
    )
    assert encode_totals(totals, with_load=True) == lines + b"\naverage load: 0.000000"


def test_error() -> None:
    assert encode_error(ErrorCode.UNKNOWN_COMMAND) == b"E0"
    assert encode_error(ErrorCode.STOPPING) == b"E99"


def test_extensions_say_what_controllers_need() -> None:
    assert list(SUPPORTED_EXTENSIONS) == [b"20040107", b"20050322", b"20060704", b"20080403"]
