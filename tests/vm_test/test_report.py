"""What is said of a run: sentences, table and JSON."""

import json
from dataclasses import replace

import pytest
from generator.addresses import read_control, read_range
from generator.codecs import CODECS
from generator.report import as_json, faults, table
from generator.run import Outcome
from generator.settings import Settings, SideSettings
from generator.watch import Takeover

from tests.vm_test.streams import MS, Wire, flipped

SIDES = [
    SideSettings(name, interface, read_range(address), 40000)
    for name, interface, address in (("caller", "out0", "10.0.1.10"), ("callee", "out1", "10.0.2.10"))
]
SETTINGS = Settings((read_control("unix:/a"),), SIDES[0], SIDES[1], CODECS["pcmu"], 50, 160, calls=3)


@pytest.fixture
def wire():
    """Three streams that were heard, each with its first packet."""
    wire = Wire()
    for call in range(3):
        wire.arrive(*wire.send(1, call, at_ns=0), at_ns=MS)
    return wire


@pytest.fixture
def outcome(wire):
    return Outcome(SETTINGS, accounts=[wire.account], judge=wire.judge, takeover=Takeover(3, 3, 5_000 * MS), began_ns=0)


def test_nothing_was_wrong(outcome):
    result = as_json(outcome, all_streams=False)
    assert (result["is_right"], result["faults"], result["streams"]) == (True, [], [])
    assert table(result).splitlines()[-2:] == [
        "the kernel had all RTP streams after 5000 ms; at the end, 3 of 3 streams",
        "everything was right",
    ]
    assert json.loads(json.dumps(result)) == result


def test_each_column_has_a_sentence(wire, outcome):
    sent = wire.send(8, at_ns=0)
    wire.arrive(sent[0], sent[2], sent[1], sent[3], sent[3], flipped(sent[4], 213), at_ns=30 * MS)
    wire.account.limit_transition(0)
    assert faults(outcome) == [
        "caller to callee rtp: 3 packets were lost",
        "caller to callee rtp: 1 packets arrived more than once",
        "caller to callee rtp: 1 packets arrived with something wrong in them",
    ]
    late = replace(SETTINGS, is_late_wrong=True)
    assert faults(replace(outcome, settings=late))[-1] == "caller to callee rtp: 4 packets took more than 20 ms"
    (stream,) = as_json(outcome, all_streams=False)["streams"]
    assert (stream["call"], stream["lost"], stream["late"], stream["reordered_opening"]) == (0, 3, 4, 1)
    assert stream["fields"] == {"payload": 1, "UDP checksum": 1}


def test_late_streams_are_shown_if_late_is_wrong(wire, outcome):
    wire.arrive(*wire.send(1, 2), at_ns=30 * MS)
    assert as_json(outcome, all_streams=False)["streams"] == []
    late = as_json(replace(outcome, settings=replace(SETTINGS, is_late_wrong=True)), all_streams=False)
    assert [(stream["call"], stream["late"]) for stream in late["streams"]] == [(2, 1)]
    assert not late["is_right"]


def test_overtaken(wire, outcome):
    wire.account.limit_transition(0)
    sent = wire.send(2)
    wire.arrive(sent[1], sent[0])
    assert faults(outcome) == ["caller to callee rtp: 1 packets were overtaken by later ones"]


def test_a_run_without_packets_is_wrong():
    assert faults(Outcome(SETTINGS)) == ["nothing was sent"]


def test_a_stream_without_packets_is_wrong():
    wire = Wire()
    wire.arrive(*wire.send(1, 1))
    wire.send(3, 2)
    outcome = Outcome(SETTINGS, accounts=[wire.account], judge=wire.judge)
    assert faults(outcome) == [
        "caller to callee rtp: 1 of 3 streams sent nothing",
        "caller to callee rtp: of 1 of 3 streams nothing arrived",
    ]
    assert [stream["call"] for stream in as_json(outcome, all_streams=False)["streams"]] == [0, 2]


def test_what_was_not_the_relays_fault(wire, outcome):
    """Packets are missing then; nobody says that the relay lost them."""
    wire.account.limit_transition(0)
    wire.send(3)
    slow = replace(outcome, dropped=7, interface_drops=5, sent_late=2)
    found = as_json(slow, all_streams=False)
    assert [fault.partition(",")[0] for fault in found["faults"]] == [
        "caller to callee rtp: 3 packets are missing",
        "7 frames arrived that this program was too slow to take; of 3 missing packets",
        "5 frames were dropped by the interface before they left this host; of 3 missing packets",
    ]
    assert found["notes"] == [
        "this program could not keep its rate: of 6 packets, 2 were sent more than 10 ms after they were due"
    ]
    assert found["generator"] == {"sent_late": 2, "receive_drops": 7, "interface_drops": 5}
    assert "missing" in table(found).splitlines()[0]
    assert "lost" in table(as_json(outcome, all_streams=False)).splitlines()[0]


@pytest.mark.parametrize(
    ("streams", "said", "is_wrong"),
    [
        (None, "the kernel's part: unknown (the relay does not answer It)", True),
        (2, "at the end, the kernel forwarded 2 of 3 streams", True),
    ],
)
def test_the_kernels_part(outcome, streams, said, is_wrong):
    seen = replace(outcome, takeover=Takeover(3, streams, None))
    assert said in table(as_json(seen, all_streams=False))
    assert as_json(seen, all_streams=False)["takeover_s"] is None
    expected = replace(seen, settings=replace(SETTINGS, expects_kernel=True))
    assert bool(faults(expected)) is is_wrong


def test_after_a_signal_missing_streams_are_no_fault():
    wire = Wire()
    outcome = Outcome(SETTINGS, accounts=[wire.account], stopped_by=2)
    result = as_json(outcome, all_streams=False)
    assert result["is_right"]
    assert table(result).endswith("note: stopped by signal 2; the calls were ended\nstopped before the end")


def test_two_runs_beside_each_other(outcome):
    first = as_json(replace(outcome, settings=replace(SETTINGS, name="one"), faults=["it was slow"]), all_streams=False)
    second = as_json(replace(outcome, settings=replace(SETTINGS, name="two")), all_streams=True)
    lines = table(second, first).splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["one: caller to callee", "two: caller to callee"]
    assert "WRONG with one: it was slow" in lines
    assert lines[-1] == "everything was right"


def test_delays(wire, outcome):
    (total,) = as_json(outcome, all_streams=False)["totals"]
    assert total["delay_us"] == {"median": 1000, "p99": 1000, "max": 1000}
