"""Overlap of the media ports of relays, each with a note in a directory of the test."""

import os
import socket

import pytest

from rtpproxy.errors import StartError
from rtpproxy.media.claims import Claims
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
from rtpproxy.session.local import LocalAddress
from tests.notes.relays import living_relay
from tests.running import own_namespace


@pytest.fixture
def claimed(keep):
    """Makes claims, each of another relay, on an address; `give_up` ends one."""
    relays = {}

    def make(host, first, last, *, is_steered):
        notes = keep()
        claims = Claims(notes, first, last, is_steered=is_steered)
        relays[id(claims)] = notes
        try:
            claims.add(local(host))
        except StartError:
            notes.close()
            raise
        return claims

    make.give_up = lambda claims: relays.pop(id(claims)).close()
    return make


def local(host):
    """Our address with that host; `*` and `::` are all of a family."""
    return LocalAddress(0, "" if host in ("*", "::") else host, is_ipv6=":" in host)


@pytest.mark.root
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("*", 35000, 35999, True), ("*", 35999, 36999, True)),
        (("*", 35000, 35999, True), ("*", 34000, 35000, True)),
        (("*", 35000, 35999, True), ("*", 35100, 35200, True)),
        (("*", 35100, 35200, True), ("*", 35000, 35999, True)),
        (("*", 35000, 35999, True), ("127.0.0.1", 35000, 35999, True)),
        (("127.0.0.1", 35000, 35999, True), ("*", 35000, 35999, True)),
        (("127.0.0.1", 35000, 35999, True), ("127.0.0.1", 35000, 35999, True)),
        (("*", 35000, 35999, True), ("*", 35000, 35999, False)),
        (("*", 35000, 35999, False), ("*", 35000, 35999, True)),
        (("::", 35000, 35999, True), ("::", 35000, 35999, True)),
        (("::", 35000, 35999, True), ("fd00::1", 35000, 35999, True)),
        (("fd00::1", 35000, 35999, True), ("::", 35000, 35999, False)),
        (("fd00::1", 35000, 35999, False), ("fd00::1", 35000, 35999, True)),
    ],
)
def test_overlap_with_steered_ports_is_refused(claimed, theirs, ours):
    claimed(*theirs[:3], is_steered=theirs[3])
    with pytest.raises(StartError) as caught:
        claimed(*ours[:3], is_steered=ours[3])
    text = str(caught.value)
    for part in (f"{ours[1]}-{ours[2]}", f"{theirs[1]}-{theirs[2]}", f"process {os.getpid()}", "-m and -M"):
        assert part in text
    assert "\n" not in text


@pytest.mark.root
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (("*", 35000, 35999, True), ("*", 36000, 36999, True)),
        (("*", 35000, 35999, True), ("*", 34000, 34999, True)),
        (("127.0.0.1", 35000, 35999, True), ("127.0.0.2", 35000, 35999, True)),
        (("fd00::1", 35000, 35999, True), ("fd00::2", 35000, 35999, True)),
        (("*", 35000, 35999, True), ("::", 35000, 35999, True)),
        (("*", 35000, 35999, True), ("fd00::1", 35000, 35999, True)),
        (("::", 35000, 35999, True), ("127.0.0.1", 35000, 35999, True)),
        (("*", 35000, 35999, False), ("*", 35000, 35998, False)),
        (("*", 35000, 35999, False), ("*", 35000, 35999, False)),
    ],
)
def test_ranges_that_do_not_disturb_each_other_are_granted(claimed, theirs, ours):
    claimed(*theirs[:3], is_steered=theirs[3])
    claimed(*ours[:3], is_steered=ours[3])


@pytest.mark.root
def test_relay_with_several_addresses(claimed):
    """It is not refused because of its own claims, and others are because of any of them."""
    hosts = ["*", "127.0.0.1", "fd00::1", "fd00::2", "fd00::2"]
    claims = claimed(hosts[0], 35000, 35999, is_steered=True)
    for host in hosts[1:]:
        claims.add(local(host))
    for host in hosts:
        with pytest.raises(StartError, match="overlap"):
            claimed(host, 35000, 35999, is_steered=True)
    other = claimed("fd00::3", 35000, 35999, is_steered=True)
    with pytest.raises(StartError, match="overlap"):
        other.add(local("fd00::1"))
    claimed.give_up(claims)
    for host in hosts:
        other.add(local(host))


@pytest.mark.root
def test_claims_end_with_their_relay(claimed):
    for _ in range(2):
        claimed.give_up(claimed("*", 35000, 35999, is_steered=True))


@pytest.mark.root
def test_claims_of_a_killed_relay_end_with_it(claimed, tmp_path):
    with living_relay(tmp_path / "notes") as other, pytest.raises(StartError, match=f"process {other.pid}: "):
        claimed("127.0.0.1", 35000, 35999, is_steered=True)
    claimed("127.0.0.1", 35000, 35999, is_steered=True)


@pytest.mark.root
def test_claim_is_not_seen_in_another_namespace(claimed):
    claimed("*", 35000, 35999, is_steered=True)
    with own_namespace():
        claimed("*", 35000, 35999, is_steered=True)


@pytest.mark.root
def test_socket_that_is_named_as_claims_once_were_does_not_disturb(claimed):
    """Anybody can bind any name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind("\0rtpproxy/media/*/35000-35999/steered/1/1")
        claimed("*", 35000, 35999, is_steered=True)


@pytest.mark.root
def test_relay_that_keeps_no_note_sees_the_claims_of_others(claimed, tmp_path):
    """As a relay of an ordinary user does, where only root's keep notes; its own ports stay unknown to others."""
    claimed("*", 35000, 35999, is_steered=True)
    notes = Notes([str(tmp_path / "notes")], here)
    notes.ours.close()
    with pytest.raises(StartError, match="overlap"):
        Claims(notes, 35000, 35999, is_steered=False).add(local("*"))
    Claims(notes, 36000, 36999, is_steered=False).add(local("*"))
    notes.close()
    claimed("*", 36000, 36999, is_steered=True)
