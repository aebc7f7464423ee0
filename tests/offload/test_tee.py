"""The ring is made when it is first asked for, and whoever gets its descriptor can read it."""

import contextlib
import pickle
import subprocess
import sys

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.offload.maps import CalledMap
from rtpproxy.offload.tee import Tee
from rtpproxy.recording.ring import Ring
from tests.bpf.frames import received, rtp
from tests.offload.unprivileged import with_capabilities

pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def rings(loaded):
    """Where the programs look for the ring; empty again at the end."""
    rings = CalledMap(loaded.map_fds["tee_rings"], loaded.layouts["tee_rings"])
    yield rings
    with contextlib.suppress(FileNotFoundError):
        rings.delete(0)


@pytest.fixture
def tee(loaded, rings):
    with contextlib.closing(Tee(loaded, 1 << 16)) as tee:
        yield tee


def is_there(rings):
    try:
        rings.read(0)
    except FileNotFoundError:
        return False
    return True


@pytest.mark.vm
def test_ring_is_made_at_first_use(plane, tee, rings):
    assert not is_there(rings)
    opened = tee.open()
    assert is_there(rings)
    assert tee.open() == opened
    with contextlib.closing(Ring(*opened)) as ring:
        plane.run(received(plane.install(tee=3).port, rtp()))
        assert [tee for _, tee, _ in ring.records(10)] == [3]


def test_ring_outlives_the_controller(plane, tee):
    """A reader gets what was written last."""
    with contextlib.closing(Ring(*tee.open())) as ring:
        plane.run(received(plane.install(tee=3).port, rtp()))
        tee.close()
        tee.close()
        assert len(list(ring.records(10))) == 1


def test_size_that_the_kernel_refuses(loaded, rings):
    expected = (
        r"^cannot make a ring of 12345 bytes for packets of recorded streams: Invalid argument; see --tee-memory$"
    )
    with contextlib.closing(Tee(loaded, 12345)) as tee, pytest.raises(OffloadError, match=expected):
        tee.open()
    assert not is_there(rings)


def test_ring_can_be_made_with_the_capabilities_that_are_kept(loaded):
    """Long after the start, of what `-u` leaves (process.privileges); a reader needs none."""
    code = (
        "import sys, pickle\n"
        "from rtpproxy.offload.tee import Tee\n"
        "class Loaded: pass\n"
        "loaded = Loaded()\n"
        "loaded.map_fds, loaded.layouts = pickle.load(sys.stdin.buffer)\n"
        "tee = Tee(loaded, 1 << 20)\n"
        "print(tee.open().size_bytes)\n"
    )
    fds = {"tee_rings": loaded.map_fds["tee_rings"]}
    command = [*with_capabilities("bpf", "net_admin", "net_raw"), sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, input=pickle.dumps((fds, loaded.layouts)), capture_output=True, pass_fds=fds.values(), check=False
    )
    assert (done.stdout, done.stderr) == (b"1048576\n", b"")
    CalledMap(loaded.map_fds["tee_rings"], loaded.layouts["tee_rings"]).delete(0)
