"""Reservation of media ranges, with the kernel's own list, in a namespace of the test."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rtpproxy.media import reservation as module
from rtpproxy.media.ranges import parse_ranges
from rtpproxy.media.reservation import Reservation, take_back
from rtpproxy.notes.contents import parse
from tests.running import own_namespace

RESERVED = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


@pytest.fixture
def reserve(keep):
    """Makes reservations, each of another relay."""
    with own_namespace():
        yield lambda: Reservation(keep().ours)


@pytest.fixture
def noted(tmp_path):
    """What the only note says that was reserved."""

    def read():
        (note,) = (tmp_path / "notes").iterdir()
        return parse(note.read_text()).reserved

    return read


def ports_of(ranges):
    return {port for low, high in ranges for port in range(low, high + 1)}


@pytest.mark.root
def test_reserved_ports_are_not_given_to_programs_that_ask_for_any(reserve, noted):
    EPHEMERAL.write_text("20000 22999")
    reservation = reserve()
    reservation.make(20000, 21499)
    assert (RESERVED.read_text(), noted()) == ("20000-21499\n", "20000-21499")
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(200)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        assert min(one.getsockname()[1] for one in sockets) >= 21500
    finally:
        for one in sockets:
            one.close()
    reservation.undo()
    assert (parse_ranges(RESERVED.read_text()), noted()) == ([], "")


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
def test_successor_undoes_what_a_killed_relay_left(reserve, noted):
    RESERVED.write_text("35500\n")
    reserve().make(35000, 35999)  # and no undo
    assert noted() == "35000-35499,35501-35999"
    assert take_back(noted(), [])
    assert RESERVED.read_text() == "35500\n"


@pytest.mark.root
@pytest.mark.parametrize("kept", [["35200-35299"], ["35000-35299", "36000-36999"], ["35000-35999"], [""], []])
def test_what_living_relays_have_by_now_is_not_taken_back(reserve, kept):
    """A note may be followed twice, by two successors of which one may not remove it."""
    RESERVED.write_text("35000-36999\n")
    assert take_back("35000-35999", kept)
    taken = set(range(35000, 36000)) - {port for text in kept for port in ports_of(parse_ranges(text))}
    assert ports_of(parse_ranges(RESERVED.read_text())) == set(range(35000, 37000)) - taken


@pytest.mark.root
def test_nothing_is_written_where_nothing_is_to_be_taken_out(reserve):
    RESERVED.write_text("100,35000\n")
    for left in ("", "40000-40999"):
        assert take_back(left, [])
    assert RESERVED.read_text() == "100,35000\n"


@pytest.mark.root
def test_instances_keep_to_their_own(reserve):
    one, other = reserve(), reserve()
    one.make(35000, 35999)
    other.make(36000, 36999)
    one.undo()
    assert RESERVED.read_text() == "36000-36999\n"
    other.undo()
    assert parse_ranges(RESERVED.read_text()) == []


@pytest.mark.root
def test_programs_keep_some_ports(reserve, noted, caplog):
    EPHEMERAL.write_text("35000 37000")
    reservation = reserve()
    reservation.make(35000, 35999)
    assert (parse_ranges(RESERVED.read_text()), noted()) == ([], "")
    (warning,) = caplog.records
    assert re.search(r"35000-35999 are not kept out.*only 1001 of the ports 35000-37000", warning.getMessage())
    reservation.undo()
    EPHEMERAL.write_text("35000 38000")
    reservation.make(35000, 35999)
    assert RESERVED.read_text() == "35000-35999\n"
    reservation.undo()


MAKE_AND_UNDO = """
import logging, sys
from rtpproxy.media.reservation import Reservation
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
logging.basicConfig(format="%(levelname)s %(message)s")
notes = Notes(sys.argv[1:], here)
reservation = Reservation(notes.ours)
reservation.make(35000, 35999)
reservation.undo()
notes.close()
"""


@pytest.mark.root
def test_list_that_cannot_be_written_is_a_warning_and_nothing_at_the_end(reserve, tmp_path):
    """As in a container, where /proc/sys is read-only."""
    mounts = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
    script = f'{mounts} && exec "$0" -c "$1" "$2"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, sys.executable, MAKE_AND_UNDO, str(tmp_path / "notes")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(module.__file__).parents[2],
    )
    assert "WARNING media ports 35000-35999 are not kept out of ephemeral allocation: Read-only" in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
    assert list((tmp_path / "notes").iterdir()) == []
