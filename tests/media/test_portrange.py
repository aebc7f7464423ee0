"""Reservation and overlap of media ranges, with the kernel's own list and sockets in a namespace of the test."""

import os
import re
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.errors import StartError
from rtpproxy.media import portrange
from rtpproxy.media.portrange import Claims, Reservation, check_local, format_ranges, merge, parse_ranges, subtract
from rtpproxy.session.local import LocalAddress
from tests.running import own_namespace

RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
INSTANCE = f"test{os.getpid():x}"


@pytest.fixture
def namespace():
    with own_namespace():
        yield


@pytest.fixture
def claimed(namespace):
    """Makes claims, each of another relay, on an address; they end with the test."""
    relays = []

    def make(host, first, last, *, is_steered):
        claims = Claims(first, last, is_steered=is_steered)
        relays.append(claims)
        claims.add(local(host))
        return claims

    yield make
    for claims in relays:
        claims.close()


def local(host):
    """Our address with that host; `*` and `::` are all of a family."""
    return LocalAddress(0, "" if host in ("*", "::") else host, is_ipv6=":" in host)


@pytest.fixture
def reserve(namespace):
    """Makes reservations by instance; their notes, of whatever namespace, are gone afterwards."""
    yield lambda name="": Reservation(INSTANCE + name)
    for note in Path("/run/rtpproxy").glob(f"{INSTANCE}*"):
        note.unlink()


def notes():
    return list(Path("/run/rtpproxy").glob(f"{INSTANCE}*"))


# Ranges


def ports_of(ranges):
    return {port for low, high in ranges for port in range(low, high + 1)}


ranges = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair))), max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\n", []),
        ("", []),
        ("1000\n", [(1000, 1000)]),
        ("1000,2000-2010\n", [(1000, 1000), (2000, 2010)]),
        ("1-65535", [(1, 65535)]),
    ],
)
def test_reads_the_kernels_form(text, expected):
    assert parse_ranges(text) == expected


@given(ranges)
def test_what_is_written_is_read(some):
    assert parse_ranges(format_ranges(some)) == some


@given(ranges)
def test_merged_ranges_are_the_same_ports_apart_from_each_other(some):
    merged = merge(some)
    assert ports_of(merged) == ports_of(some)
    assert all(high + 1 < low for (_, high), (low, _) in pairwise(merged))
    assert merge(merged) == merged


@given(ranges, ranges)
def test_subtracting_leaves_the_other_ports(some, taken):
    left = subtract(some, taken)
    assert ports_of(left) == ports_of(some) - ports_of(taken)
    assert merge(left) == left


@given(ranges, ranges)
def test_undoing_what_was_added_restores_the_list(before, ours):
    added = subtract(ours, before)
    assert subtract(merge(before + added), added) == merge(before)


# Claims


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
    claims.close()
    for host in hosts:
        other.add(local(host))


@pytest.mark.root
def test_claims_end_with_their_relay(claimed):
    for _ in range(2):
        claimed("*", 35000, 35999, is_steered=True).close()


CLAIM_AND_WAIT = """
import sys
from rtpproxy.media.portrange import Claims
from rtpproxy.session.local import LocalAddress
claims = Claims(35000, 35999, is_steered=True)
claims.add(LocalAddress(0))
print("claimed", flush=True)
sys.stdin.read()
"""


@pytest.mark.root
def test_claims_of_a_killed_process_end_with_it(claimed):
    command = [sys.executable, "-c", CLAIM_AND_WAIT]
    root = Path(portrange.__file__).parents[2]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as other:
        try:
            assert other.stdout.readline() == "claimed\n"
            with pytest.raises(StartError, match=f"process {other.pid}: "):
                claimed("127.0.0.1", 35000, 35999, is_steered=True)
        finally:
            other.kill()
    claimed("127.0.0.1", 35000, 35999, is_steered=True)


@pytest.mark.root
def test_claim_is_not_seen_in_another_namespace(claimed):
    claimed("*", 35000, 35999, is_steered=True)
    with own_namespace():
        claimed("*", 35000, 35999, is_steered=True)


@pytest.mark.root
@pytest.mark.parametrize(
    "name",
    [
        b"unrelated",
        b"rtpproxy/control",
        b"/tmp/.X11-unix/X0",
        b"caf\xe9",
        b"rtpproxy/media/",
        b"rtpproxy/media/no claim",
        b"rtpproxy/media/*/a-b/steered/1/1",
        b"rtpproxy/media/*/35000-35999/steered/1",
        b"rtpproxy/media/*/35000-35999/steered/1/1/more",
        b"rtpproxy/media/*/350000-359999/steered/1/1",
        b"rtpproxy/media/*/35000-35999/steered/1/1\0",
        b"rtpproxy/media/:/1-2/steered/1/1",
    ],
)
def test_sockets_of_others_do_not_disturb(claimed, name):
    """Anybody can bind any name, so a name that makes no sense must not keep the relay from starting."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(b"\0" + name)
        claims = claimed("*", 35000, 35999, is_steered=True)
        claims.add(local("::"))


# The kernel's list


@pytest.mark.root
def test_reserved_ports_are_not_given_to_programs_that_ask_for_any(reserve):
    EPHEMERAL.write_text("20000 22999")
    reservation = reserve()
    reservation.make(20000, 21499)
    assert RESERVED.read_text() == "20000-21499\n"
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        assert min(one.getsockname()[1] for one in sockets) >= 21500
    finally:
        for one in sockets:
            one.close()
    reservation.undo()
    assert parse_ranges(RESERVED.read_text()) == []
    assert notes() == []


@pytest.mark.root
@pytest.mark.parametrize("before", ["", "35100", "34000-35500,35800", "35000-36000", "1,40000-40001"])
def test_what_others_reserved_stays(reserve, before):
    RESERVED.write_text(before + "\n")
    listed = RESERVED.read_text()
    reservation = reserve()
    reservation.make(35000, 35999)
    assert ports_of(parse_ranges(RESERVED.read_text())) == ports_of(parse_ranges(before)) | set(range(35000, 36000))
    reservation.undo()
    assert RESERVED.read_text() == listed


@pytest.mark.root
def test_undo_without_reservation_does_nothing(reserve):
    RESERVED.write_text("35000-35999\n")
    reservation = reserve()
    reservation.undo()
    reservation.make(36000, 36999)
    reservation.undo()
    reservation.undo()
    assert RESERVED.read_text() == "35000-35999\n"


@pytest.mark.root
def test_successor_undoes_what_a_killed_relay_left(reserve):
    RESERVED.write_text("35500\n")
    reserve().make(35000, 35999)  # and no undo
    successor = reserve()
    successor.make(40000, 40999)
    assert RESERVED.read_text() == "35500,40000-40999\n"
    successor.undo()
    assert RESERVED.read_text() == "35500\n"
    assert notes() == []


@pytest.mark.root
def test_instances_keep_to_their_own(reserve):
    one, other = reserve("a"), reserve("b")
    one.make(35000, 35999)
    other.make(36000, 36999)
    one.undo()
    assert RESERVED.read_text() == "36000-36999\n"
    other.undo()
    assert parse_ranges(RESERVED.read_text()) == []


@pytest.mark.root
def test_note_of_another_namespace_is_not_followed(reserve):
    reserve().make(35000, 35999)
    with own_namespace():
        RESERVED.write_text("35000-35999\n")
        reserve().undo()
        assert RESERVED.read_text() == "35000-35999\n"


@pytest.mark.root
def test_programs_keep_some_ports(reserve, caplog):
    EPHEMERAL.write_text("35000 37000")
    reservation = reserve()
    reservation.make(35000, 35999)
    assert parse_ranges(RESERVED.read_text()) == []
    assert notes() == []
    (warning,) = caplog.records
    assert re.search(r"35000-35999 are not kept out.*only 1001 of the ports 35000-37000", warning.getMessage())
    reservation.undo()
    EPHEMERAL.write_text("35000 38000")
    reservation.make(35000, 35999)
    assert RESERVED.read_text() == "35000-35999\n"
    reservation.undo()


MAKE_AND_UNDO = """
import logging, sys
from rtpproxy.media.portrange import Reservation
logging.basicConfig(format="%(levelname)s %(message)s")
reservation = Reservation(sys.argv[1])
reservation.make(35000, 35999)
reservation.undo()
"""


@pytest.mark.root
def test_list_that_cannot_be_written_is_a_warning_and_nothing_at_the_end(reserve):
    """As in a container, where /proc/sys is read-only."""
    mounts = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
    script = f'{mounts} && exec "$0" -c "$1" "$2"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, MAKE_AND_UNDO, INSTANCE],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(portrange.__file__).parents[2],
    )
    assert "WARNING media ports 35000-35999 are not kept out of ephemeral allocation: Read-only" in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
    assert notes() == []


# The listen address


@pytest.mark.root
def test_listen_address_must_be_ours(namespace):
    for host in ("*", "127.0.0.1", "127.0.0.2", "::", "::1"):
        check_local(local(host))
    for host in ("192.0.2.250", "2001:db8::1"):
        with pytest.raises(StartError, match=f"^listen address {re.escape(host)} cannot be used: Cannot assign"):
            check_local(local(host))


@pytest.mark.root
def test_link_local_listen_address_is_refused(namespace):
    """It would need a zone, which the options cannot express."""
    with pytest.raises(StartError, match=r"^listen address fe80::1 cannot be used: Invalid argument"):
        check_local(local("fe80::1"))


@pytest.mark.root
def test_listen_address_without_ipv6(namespace):
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
    with pytest.raises(StartError, match=r"^listen address ::1 cannot be used: "):
        check_local(local("::1"))


@pytest.mark.root
def test_listen_address_is_checked_without_an_ephemeral_port(namespace):
    RESERVED.write_text("1-65535\n")
    check_local(local("127.0.0.1"))
