"""As an ordinary user (`-u`), the relay does everything that it does as root, until its end."""

import pwd
import re
import shutil
import tempfile
from pathlib import Path

import pytest

from rtpproxy.notes.contents import parse
from tests.netns_call.call import (
    BOUND,
    DEADLINE_S,
    KERNEL,
    TC,
    WAYS,
    Call,
    PhonePort,
    Tap,
    is_attached,
    paused,
    verdicts,
)
from tests.running import RunningRelay, rtp
from tests.waiting import wait_for

NOBODY = pwd.getpwnam("nobody")
AS_NOBODY = ("-u", "nobody")
MEDIA = ("-m", "35000", "-M", "35999")
NOTES = Path("/run/rtpproxy")
KEPT = {KERNEL.name: 0x8000003000, TC.name: 0x8000003000, "steered": 0x8000003000, BOUND.name: 0}
"""CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, or none."""


@pytest.fixture(autouse=True)
def note():
    """Check that the note under /run, which only root can remove, says that nothing is to be restored."""
    earlier = set(NOTES.glob("*"))  # of relays that other tests killed
    yield
    for note in set(NOTES.glob("*")) - earlier:
        left = parse(note.read_text())
        note.unlink()
        assert (left.reserved, left.programs) == ("", frozenset())


@pytest.fixture
def open_directory():
    """A directory that anybody may reach and write to, which the tests' own are not."""
    directory = Path(tempfile.mkdtemp(prefix="rtpproxy-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def of_threads(relay):
    return [(thread / "status").read_text() for thread in Path(f"/proc/{relay.process.pid}/task").iterdir()]


@pytest.fixture
def relay(start, way):
    relay = start(*way.options, *AS_NOBODY, *MEDIA)
    wait_for(lambda: "rtpproxy started" in relay.log, DEADLINE_S, "the relay to be that user")
    # A thread that loads programs has one more until that is done.
    permitted = f"CapPrm:\t{KEPT[way.name]:016x}\n"
    wait_for(lambda: all(permitted in text for text in of_threads(relay)), DEADLINE_S, "the last one to be given up")
    status = Path(f"/proc/{relay.process.pid}/status").read_text()
    found = dict(re.findall(r"^(Uid|Gid|Groups|CapEff|CapPrm|CapBnd|NoNewPrivs):[ \t]*(.*?)[ \t]*$", status, re.M))
    for text in of_threads(relay):
        assert f"Uid:\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\t{NOBODY.pw_uid}\n" in text
    assert found == {
        "Uid": "\t".join([str(NOBODY.pw_uid)] * 4),
        "Gid": "\t".join([str(NOBODY.pw_gid)] * 4),
        "Groups": "",
        "CapEff": f"{KEPT[way.name]:016x}",
        "CapPrm": f"{KEPT[way.name]:016x}",
        "CapBnd": f"{0:016x}",
        "NoNewPrivs": "1",
    }
    return relay


def reserved(topology):
    return topology.relay.run(["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]).stdout.strip()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name, indirect=True)
def test_calls_and_the_end(topology, relay, call, way):
    """A call is relayed, in the kernel where it can be, counters are read, and nothing is left at the end."""
    assert reserved(topology) == ("" if way is BOUND else "35000-35999")
    call.establish(way)
    if way.is_kernel:
        with paused(relay):
            call.cross(rtp(2))
    else:
        call.cross(rtp(2))
    counters = call.quote()
    assert (counters["npkts_ina"], counters["npkts_ino"]) == (2, 2)
    assert relay.stop() == 0
    # The directory of the control socket is root's here.
    assert [
        line for line in relay.log.splitlines() if line[:4] in ("WARN", "ERR:") and "control socket" not in line
    ] == []
    assert not is_attached(topology, "caller")
    assert not is_attached(topology, "callee")
    assert reserved(topology) == ""
    if way.is_kernel:
        assert verdicts(relay)["forwarded"] >= 2


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_copies_of_what_the_kernel_forwards(topology, relay, call, way):
    """The ring is made, and the sockets are opened, as that user."""
    call.establish(way)
    with PhonePort(topology.callee, topology.callee.ip, 7000) as recorder:
        assert relay.ask(f"C {call.name} udp:{topology.callee.ip}:7000 f t") == "0"
        call.wait_offloaded()
        with paused(relay):
            call.cross(rtp(2))
            assert [data for data, _ in recorder.expect()] == [rtp(2)]


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_neighbour_that_moves_is_followed(topology, relay, call, way):
    """Events arrive, requests are answered and rows change: another MAC address gets the frames, from the kernel."""
    call.establish(way)
    callee = topology.callee
    callee.run(["ip", "link", "set", callee.ifname, "address", "02:00:00:00:99:01"])
    neighbour = ["ip", "neigh", "replace", callee.ip, "lladdr", "02:00:00:00:99:01", "dev", callee.gateway.ifname]
    topology.relay.run([*neighbour, "nud", "reachable"])
    with Tap(callee) as tap:

        def is_followed():
            call.caller.send(rtp(9))
            frame = tap.expect(lambda frame: frame.endswith(rtp(9)))
            return frame[:6] == bytes.fromhex("020000009901")

        wait_for(is_followed, DEADLINE_S, "frames to the new address")
        call.wait_offloaded(*call.rtp_ports)
        with paused(relay):
            assert is_followed()


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_stale_neighbour_is_confirmed(topology, relay, call, way):
    """For that the relay changes the kernel's neighbour table."""
    call.establish(way)
    callee, run = topology.callee, topology.relay.run
    device = ["dev", callee.gateway.ifname]
    run(["ip", "neigh", "replace", callee.ip, "lladdr", callee.mac, *device, "nud", "stale"])
    wait_for(lambda: "STALE" not in run(["ip", "neigh", "show", callee.ip, *device]).stdout, DEADLINE_S, "a change")


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_interface_that_comes_later_is_attached_to(topology, relay, way):
    run = topology.relay.run
    run(["ip", "link", "add", "late0", "type", "veth", "peer", "name", "late1"])
    run(["ip", "link", "set", "late0", "up"])
    run(["ip", "addr", "add", "10.0.9.1/24", "dev", "late0"])
    wait_for(lambda: "late0: kernel, native XDP" in relay.log, DEADLINE_S, "the new interface to be attached to")
    assert relay.stop() == 0
    assert "xdp" not in run(["ip", "link", "show", "dev", "late0"]).stdout


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_interface_without_xdp_that_comes_later_is_attached_to(topology, relay, way):
    """The program for TC is loaded while the relay still may."""
    run = topology.relay.run
    run(["ip", "link", "add", "late0", "type", "bridge"])
    run(["ip", "link", "set", "late0", "up"])
    run(["ip", "addr", "add", "10.0.9.1/24", "dev", "late0"])
    wait_for(lambda: "late0: kernel, TC (no native XDP" in relay.log, DEADLINE_S, "the new interface to be attached to")
    assert relay.stop() == 0
    assert "bpf" not in run(["tc", "filter", "show", "dev", "late0", "ingress"]).stdout


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_next_start_after_the_user_left_files(topology, start, way):
    """The directory is root's, so socket, pid file and note stay; the next start replaces them."""
    relay = start(*AS_NOBODY, *MEDIA)
    assert relay.stop() == 0
    assert relay.socket_path.exists()
    assert relay.pid_path.exists()
    for what in (f"pid file {relay.pid_path}", f"control socket {relay.socket_path}"):
        assert f"{what} stays: the directory is another user's" in relay.log
    relay.start()
    assert reserved(topology) == "35000-35999"
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
    relay.kill()
    relay.start()
    assert "detached what a killed predecessor left" in relay.log
    assert relay.stop() == 0
    assert reserved(topology) == ""


def test_files_go_with_it_where_the_directory_permits(topology, open_directory):
    with RunningRelay(open_directory, *AS_NOBODY, *BOUND.options, host=topology.relay) as relay:
        assert relay.stop() == 0
        assert not relay.pid_path.exists()
        assert not relay.socket_path.exists()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_low_ports(start, way):
    relay = start(*way.options, *AS_NOBODY, "-b", "-m", "1000", "-M", "1010")
    wait_for(lambda: "rtpproxy started" in relay.log, DEADLINE_S, "the relay to be that user")
    assert relay.port("U call 10.0.1.2 4000 f") == 1000


@pytest.mark.parametrize("way", [KERNEL], ids=[KERNEL.name], indirect=True)
def test_local_address_that_comes_into_use_later(topology, start, way):
    """Its port space needs raw sockets, and rows in maps, of its own."""
    relay = start("-l", "10.0.1.1", *AS_NOBODY, *MEDIA)
    wait_for(lambda: "rtpproxy started" in relay.log, DEADLINE_S, "the relay to be that user")
    reply = relay.ask("Ul10.0.2.1 call 10.0.1.2 4000 f")
    assert re.fullmatch(r"\d+ 10\.0\.2\.1", reply)
