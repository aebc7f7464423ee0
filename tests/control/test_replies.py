"""Replies in their wire form (protocol.md 2.2, 2.6, 3.2, 11.1 to 11.3)."""

import dataclasses

import pytest

from rtpproxy.control.messages import SUPPORTED_EXTENSIONS, CommandError, ErrorCode
from rtpproxy.control.replies import (
    CommandCounts,
    encode_counters,
    encode_error,
    encode_port_line,
    encode_results,
    encode_stats,
    encode_totals,
)
from rtpproxy.service.answers import PortLine, SessionCounters
from rtpproxy.session.local import LocalAddress
from rtpproxy.session.totals import Totals

COUNTERS = SessionCounters(59, 1, 2, 3, 4, 0.25, 5.5, 6.5, 7.5, 8, 9, 10, 11, 12)


@pytest.mark.parametrize(
    ("local", "text"),
    [
        (LocalAddress(0), b"35000"),
        (LocalAddress(0, is_ipv6=True), b"35000"),
        (LocalAddress(0, "192.0.2.1"), b"35000 192.0.2.1"),
        (LocalAddress(3, "192.0.2.1", label="x"), b"35000 192.0.2.1"),
        (LocalAddress(0, "2001:db8::5", is_ipv6=True), b"35000 2001:db8::5 6"),
        (LocalAddress(0, "192.0.2.1", advertised="relay.example.com"), b"35000 relay.example.com"),
        (LocalAddress(0, "2001:db8::5", is_ipv6=True, advertised="203.0.113.1"), b"35000 203.0.113.1 6"),
        (LocalAddress(0, advertised="203.0.113.1"), b"35000 203.0.113.1"),
    ],
)
def test_port_line(local: LocalAddress, text: bytes) -> None:
    assert encode_port_line(PortLine(35000, local)) == text


@pytest.mark.parametrize(
    ("results", "text"),
    [
        ([], b"main"),
        ([b""], b"main"),
        ([b"", b"", b""], b"main"),
        ([b"a"], b"main && a"),
        ([b"", b"a"], b"main && 0 && a"),
        ([b"a", b""], b"main && a"),
        ([b"", b"a", b"", b"-1"], b"main && 0 && a && 0 && -1"),
        ([b"-1"], b"main && -1"),
    ],
)
def test_results_of_subcommands(results: list[bytes], text: bytes) -> None:
    assert encode_results(b"main", results) == text


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


@pytest.mark.parametrize("name", [b"bogus", b"TTL", b"seconds_left", b"nsess_created"])
def test_counter_unknown(name: bytes) -> None:
    with pytest.raises(CommandError, match="E62"):
        encode_counters(COUNTERS, [b"ttl", name], is_verbose=False)


def numbered_totals() -> Totals:
    """Make totals with values 1, 2, 3 and so on in the order of the fields."""
    names = [field.name for field in dataclasses.fields(Totals)]
    return Totals(**{name: number for number, name in enumerate(names, 1)})  # type: ignore[arg-type]


STATS = [
    (b"nsess_created", b"1"),
    (b"nsess_destroyed", b"2"),
    (b"nsess_timeout", b"3"),
    (b"nsess_complete", b"4"),
    (b"nsess_nortp", b"5"),
    (b"nsess_owrtp", b"6"),
    (b"nsess_nortcp", b"7"),
    (b"nsess_owrtcp", b"8"),
    (b"nplrs_created", b"9"),
    (b"nplrs_destroyed", b"10"),
    (b"npkts_rcvd", b"11"),
    (b"npkts_relayed", b"12"),
    (b"npkts_played", b"13"),
    (b"npkts_resizer_in", b"14"),
    (b"npkts_resizer_out", b"15"),
    (b"npkts_resizer_discard", b"16"),
    (b"npkts_discard", b"17"),
    (b"total_duration", b"18.000000"),
    (b"rtpa_nsent", b"19"),
    (b"rtpa_nrcvd", b"20"),
    (b"rtpa_ndups", b"21"),
    (b"rtpa_nlost", b"22"),
    (b"rtpa_perrs", b"23"),
    (b"pps_in", b"24.000000"),
    (b"ncmds_rcvd", b"31"),
    (b"ncmds_rcvd_ndups", b"32"),
    (b"ncmds_succd", b"33"),
    (b"ncmds_errs", b"34"),
    (b"ncmds_repld", b"35"),
]


def stats(*names: bytes, is_verbose: bool = False) -> bytes:
    return encode_stats(numbered_totals(), CommandCounts(31, 32, 33, 34, 35), names, is_verbose)


@pytest.mark.parametrize(("name", "value"), STATS)
def test_stats_by_name(name: bytes, value: bytes) -> None:
    assert stats(name) == value
    assert stats(name, is_verbose=True) == b"%s=%s" % (name, value)


def test_every_total_has_a_name() -> None:
    """Of those that `G` tells; the load is in the reply to `I`."""
    told = {field.name for field in dataclasses.fields(Totals)} - {"load"}
    assert len(STATS) == len(told) + len(dataclasses.fields(CommandCounts))


def test_stats_keep_their_order_and_may_repeat() -> None:
    assert stats(b"pps_in", b"nsess_created", b"pps_in") == b"24.000000 1 24.000000"
    assert stats(b"ncmds_errs", b"nsess_created", is_verbose=True) == b"ncmds_errs=34 nsess_created=1"


def test_no_stats_are_an_empty_line() -> None:
    assert stats() == stats(is_verbose=True) == b""


@pytest.mark.parametrize("name", [b"bogus", b"NSESS_CREATED", b"sessions_created", b"ttl", b""])
def test_stats_unknown(name: bytes) -> None:
    with pytest.raises(CommandError, match="E68"):
        stats(b"nsess_created", name)


def test_totals() -> None:
    totals = Totals(
        sessions_created=7, sessions_destroyed=5, packets_received=100, packets_relayed=80, packets_played=10, load=0.25
    )
    lines = encode_totals(totals, with_load=False)
    assert lines == (
        b"sessions created: 7\nactive sessions: 2\nactive streams: 4\npackets received: 100\npackets transmitted: 90"
    )
    assert encode_totals(totals, with_load=True) == lines + b"\naverage load: 0.250000"


def test_error() -> None:
    assert encode_error(ErrorCode.UNKNOWN_COMMAND) == b"E0"
    assert encode_error(ErrorCode.STOPPING) == b"E99"


def test_extensions_say_what_works() -> None:
    """All extensions of protocol.md 2.2."""
    every = (
        b"20040107 20050322 20060704 20071116 20071218 20080403 20081102 20081224 20090810 20140323 20140617 20141004"
        b" 20150330 20150420 20150617 20191015 20200226 20230205 20230314 20230424 20250523 20251015 20260306 20260308"
        b" 20260309"
    ).split()
    assert list(SUPPORTED_EXTENSIONS) == every
