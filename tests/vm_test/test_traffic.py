"""The whole generator, as people start it, beside the real relay and beside one that is broken."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.netns import Topology
from tests.netns_call.call import BOUND, KERNEL, STEERED, TC, ip
from tests.running import RunningRelay
from tests.vm_test.stage import IPV4, IPV6, PROGRAM, Stage
from tests.waiting import DEADLINE_S, wait_for

pytestmark = [pytest.mark.root, pytest.mark.kernel]
SHORT = ("--calls", "3", "--duration", "1.5", "--rate", "100", "--opening", "20")
"""So long an opening that a busy machine may be slow, but for what is wrong in itself."""


@pytest.fixture
def stage():
    with Topology(ipv6=True) as topology:
        yield Stage.of(topology)


@pytest.fixture
def start(stage, tmp_path):
    """Starts a relay with given options; it ends with the test."""
    relays = []

    def start(*options):
        relay = RunningRelay(tmp_path, *options, host=stage.relay)
        relays.append(relay)
        relay.start()
        return relay

    yield start
    for relay in relays:
        relay.__exit__()


def control(relay):
    return f"unix:{relay.socket_path}"


def everything_arrived(result, *, kinds=("rtp",)):
    """Tell whether all streams were sent and heard, without losses but in the opening."""
    assert result["is_right"], result["faults"]
    assert {total["kind"] for total in result["totals"]} == set(kinds)
    assert len(result["totals"]) == 2 * len(kinds)
    for total in result["totals"]:
        assert total["sent"] > 0
        assert total["received"] + total["opening"] == total["sent"]
        assert total["received"] > total["sent"] / 2
    return True


@pytest.mark.parametrize(
    ("way", "phones"),
    [(KERNEL, IPV4), (TC, IPV6), (KERNEL, (IPV4[0], IPV6[1])), (TC, (IPV6[0], IPV4[1]))],
    ids=["XDP IPv4", "TC IPv6", "XDP IPv4 to IPv6", "TC IPv6 to IPv4"],
)
def test_a_relay_whose_kernel_forwards(stage, start, way, phones):
    relay = start(*way.options, *(("-6", "::") if phones == IPV6 else ()))
    command = stage.command(control(relay), *SHORT, "--rtcp", "--expect-kernel", phones=phones)
    result = stage.judge(command)
    assert everything_arrived(result, kinds=("rtp", "rtcp"))
    assert result["takeover_s"] is not None
    assert result["kernel_streams"] == result["expected_streams"] == 12
    assert relay.totals()["active sessions"] == 0


def test_bridge_mode_between_families(stage, start):
    """Its replies name the relay's addresses, so nobody has to say them."""
    relay = start("-l", "10.0.1.1", "-6", "/fd00:0:2::1")
    options = ["--offer-modifiers", "ie", "--answer-modifiers", "ei", "--rtcp", "--expect-kernel"]
    command = stage.command(control(relay), *SHORT, *options, phones=(IPV4[0], IPV6[1]), relays=())
    assert everything_arrived(stage.judge(command), kinds=("rtp", "rtcp"))


def test_a_relay_behind_a_router(stage, start):
    """Here the router is the relay's own host: the caller's phones know no other address there than 10.0.1.1."""
    command = stage.command(control(start("-l", "10.0.2.1")), *SHORT, "--caller-gateway", "10.0.1.1", relays=())
    assert everything_arrived(stage.judge(command))


def test_both_sides_at_one_interface(stage, start):
    relays = ("10.0.1.1", "10.0.1.1")
    command = stage.command(control(start()), *SHORT, "--rtcp", phones=(IPV4[0], "10.0.1.20"), relays=relays)
    assert everything_arrived(stage.judge([*command, "--callee", "caller"]), kinds=("rtp", "rtcp"))


@pytest.mark.parametrize("way", [STEERED, BOUND], ids=lambda way: way.name)
def test_a_relay_in_userspace(stage, start, way):
    result = stage.judge(stage.command(control(start(*way.options)), *SHORT, "--rtcp"))
    assert everything_arrived(result, kinds=("rtp", "rtcp"))
    assert (result["takeover_s"], result["kernel_streams"]) == (None, 0)


def test_userspace_where_the_kernel_is_expected(stage, start):
    relay = start("--offload", "off")
    result = stage.judge(stage.command(control(relay), *SHORT, "--expect-kernel"), status=1)
    assert result["faults"] == ["at the end, the kernel forwarded 0 of 6 streams"]


@pytest.mark.parametrize(
    "options",
    [
        ("--nat", "--rtcp", "--caller-address", f"{IPV4[0]}-10.0.1.12"),
        ("--loss", "10", "--reorder", "10", "--jitter", "30", "--codec", "G729"),
        ("--interface-mac", "--codec", "opus", "--size", "1400"),
    ],
    ids=lambda options: options[0],
)
def test_other_calls(stage, start, options):
    """With three addresses: the relay hears of the first by being asked; it must ask for the others."""
    result = stage.judge(stage.command(control(start()), *SHORT, *options))
    assert everything_arrived(result, kinds=("rtp", "rtcp") if "--rtcp" in options else ("rtp",))
    if "--loss" in options:
        assert any("withheld" in note for note in result["notes"])


@pytest.mark.parametrize("what", ["caller:port:1", "callee:port:1", "caller:address:1", "callee:address:1"])
def test_nat_rebinding(stage, start, what):
    """Each phone is heard at its new place; packets to the old place are counted apart."""
    result = stage.judge(stage.command(control(start()), *SHORT, "--duration", "2.5", "--rebind", what))
    assert everything_arrived(result)


def test_hold_and_resume(stage, start):
    result = stage.judge(stage.command(control(start()), *SHORT, "--duration", "2", "--hold", "0.5:1"))
    assert everything_arrived(result)
    caller, callee = (total["sent"] for total in result["totals"])
    assert caller == 600
    assert callee == 300


def test_strays_and_a_flood(stage, start):
    """They reach nobody, while the calls go on."""
    options = ["--duration", "3", "--opening", "1", "--rtcp", "--strays", "200", "--flood", "5000:2:1"]
    result = stage.judge(stage.command(control(start()), *SHORT, *options))
    assert everything_arrived(result, kinds=("rtp", "rtcp"))
    assert result["strays"]["sent"] > 4000
    assert result["strays"]["arrived"] == 0


@pytest.mark.parametrize("kind", ["udp", "tcp", "cunix"])
def test_control_sockets(stage, start, tmp_path, kind):
    """The relay is asked from its own host's network, as the namespace of the generator has a way there."""
    where = f"cunix:{tmp_path}/lines.sock" if kind == "cunix" else f"{kind}:10.0.1.1:22222"
    relay = start("-F", "-s", where)
    result = stage.judge(stage.command(where, *SHORT, "--expect-kernel"))
    assert everything_arrived(result)
    assert relay.totals()["active sessions"] == 0


def test_a_set_of_two_relays(stage, start, tmp_path):
    """Each has half of the calls, and both tell how many streams their kernel forwards."""
    first = start("-m", "20000", "-M", "20998")
    with RunningRelay(tmp_path, "-m", "30000", "-M", "30998", host=stage.relay, name="second") as second:
        command = stage.command(control(first), "--control", control(second), *SHORT, "--calls", "4", "--expect-kernel")
        assert everything_arrived(stage.judge(command))
        assert [relay.totals()["sessions created"] for relay in (first, second)] == [2, 2]


def test_phones_with_addresses_of_the_host(stage, start):
    """The kernel answers for them, and does not answer that their ports are closed."""
    ip(stage.outside, "addr add 10.0.2.2/24 dev callee")
    result = stage.judge(stage.command(control(start()), *SHORT, phones=("10.0.1.2", "10.0.2.2")))
    assert everything_arrived(result)
    assert unreachable(stage.relay) == 0


def unreachable(host):
    """Count the ICMP errors that came to a host, by which others said that a destination is unreachable."""
    lines = host.run(["cat", "/proc/net/snmp"]).stdout.splitlines()
    names, values = (line.split() for line in lines if line.startswith("Icmp:"))
    return int(values[names.index("InDestUnreachs")])


# A relay that is broken


@pytest.fixture
def broken(stage, tmp_path):
    """Starts a relay with a fault; its control socket."""

    def broken(fault):
        path = tmp_path / "broken.sock"
        program = Path(__file__).with_name("broken_relay.py")
        stage.relay.popen([sys.executable, str(program), str(path), fault])
        wait_for(path.with_suffix(".ready").exists, DEADLINE_S, "the broken relay to listen")
        return f"unix:{path}"

    return broken


BROKEN = ("--calls", "2", "--duration", "2.05", "--rate", "100", "--opening", "0.2")


def test_without_a_fault_it_is_right(stage, broken):
    result = stage.judge(stage.command(broken("none"), *BROKEN, "--rtcp", "--opening", "20"))
    assert everything_arrived(result, kinds=("rtp", "rtcp"))
    assert result["kernel_streams"] is None


@pytest.mark.parametrize(
    ("fault", "column"), [("drop", "lost"), ("double", "doubled"), ("swap", "reordered"), ("payload", "wrong")]
)
def test_faults_are_counted(stage, broken, fault, column):
    """Each tenth packet, of which the first two come in the opening; another column stays at zero."""
    result = stage.judge(stage.command(broken(fault), *BROKEN), status=1)
    for total in result["totals"]:
        assert 30 <= total[column] <= 40
        others = {"lost", "doubled", "reordered", "wrong"} - {column}
        assert {name: total[name] for name in others} == dict.fromkeys(others, 0)
    assert len(result["faults"]) == 2


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        ("tos", "TOS"),
        ("ttl", "TTL"),
        ("no checksum", "UDP checksum absent"),
        ("short", "UDP length"),
        ("port", "source port"),
    ],
)
def test_fields_are_named(stage, broken, fault, field):
    result = stage.judge(stage.command(broken(fault), *BROKEN, "--opening", "20"), status=1)
    assert {field} <= {name for stream in result["streams"] for name in stream["fields"]}
    assert len(result["examples"]) == 5


def test_strays_that_arrive(stage, broken):
    result = stage.judge(stage.command(broken("none"), *BROKEN, "--strays", "100"), status=1)
    assert result["strays"]["arrived"] > 0
    assert "strays reached phones" in " ".join(result["faults"])


def test_a_call_that_is_not_ended(stage, broken):
    result = stage.judge(stage.command(broken("undead"), *BROKEN, "--opening", "20"), status=1)
    assert len(result["faults"]) == 2
    assert all("was answered 'E50' and not 0" in fault for fault in result["faults"])


def test_nobody_at_the_relays_address(stage, broken):
    command = stage.command(broken("none"), *BROKEN, "--deadline", "2", relays=("10.0.1.77", "10.0.2.1"))
    (fault,) = stage.judge(command, status=1)["faults"]
    assert fault.startswith("nobody at caller answers for 10.0.1.77 (ARP)")


# Its end


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_calls(stage, start, number, status):
    relay = start()
    running = stage.start([*stage.command(control(relay), "--calls", "5", "--duration", "600"), "--json", "-"])
    wait_for(lambda: relay.totals()["packets received"] > 500, DEADLINE_S, "packets")
    assert relay.totals()["active sessions"] == 5
    running.send_signal(number)
    output, errors = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == status, errors
    result = json.loads(output)
    assert result["stopped_by"] == number
    assert result["totals"][0]["received"] > 0
    assert relay.totals()["active sessions"] == 0


def test_without_the_privilege(stage, start):
    command = stage.command(control(start()), *SHORT)
    done = stage.outside.run(["setpriv", "--bounding-set", "-net_raw", *command], check=False)
    assert done.returncode == 2
    assert "CAP_NET_RAW" in done.stderr


def test_an_interface_that_is_not_there(stage, start):
    done = stage.outside.run([*stage.command(control(start()), *SHORT), "--caller", "eth77"], check=False)
    assert done.returncode == 2
    assert "eth77" in done.stderr


def test_a_relay_that_is_not_there(stage, tmp_path):
    done = stage.outside.run(stage.command(f"unix:{tmp_path}/none.sock", *SHORT), check=False)
    assert done.returncode == 1
    assert f"unix:{tmp_path}/none.sock: 'V' could not be sent: No such file or directory" in done.stdout


def test_it_starts_anywhere(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "Place calls through an RTPproxy" in done.stdout
