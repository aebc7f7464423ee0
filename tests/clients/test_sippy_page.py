"""docs/sippy.md: its command lines, as they stand there, with real calls through Sippy B2BUA."""

import importlib.util
import shlex
import shutil
import sys

import pytest

from tests.clients.calls import CALLER_PORT, SignalledCall, wait_for_sessions
from tests.clients.conftest import Setting
from tests.clients.pages import blocks, options, placed
from tests.clients.sipp import SIP_PORT, Media, UserAgent, is_bound
from tests.netns import Topology
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

PAGE = "sippy.md"
NETWORKS = "Several networks, IPv4 and IPv6"
ADDRESS, ADDRESS6, CALLEE, CALLEE6 = "192.0.2.10", "2001:db8::10", "198.51.100.20", "2001:db8:1::20"
SOCKET = "/var/run/rtpproxy.sock"
PROBES = 7
"""Commands of the B2BUA before it is on-line."""

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("sipp") is None, reason="needs software: sipp"),
    pytest.mark.skipif(importlib.util.find_spec("sippy") is None, reason="needs software: sippy"),
]


class B2bua:
    """Sippy B2BUA at port 5060."""

    def __init__(self, host, directory, words):
        self._path = directory / "b2bua.log"
        with self._path.open("wb") as log:
            command = [sys.executable, "-m", "sippy.b2bua", *words]
            self.process = host.popen(command, stdout=log, stderr=log, cwd=directory)
        wait_for(lambda: self._has_ended or is_bound(self.process, SIP_PORT), DEADLINE_S, "the B2BUA to listen")
        assert not self._has_ended, self.evidence()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def evidence(self):
        return self._path.read_text(errors="replace")[-6000:]

    @property
    def _has_ended(self):
        return self.process.poll() is not None


@pytest.fixture(scope="module")
def topology():
    with Topology(ipv6=True) as topology:
        yield topology


@pytest.fixture
def places(topology, tmp_path):
    return {
        ADDRESS: topology.caller.gateway.ip,
        ADDRESS6: topology.callee.gateway.ip6,
        CALLEE: topology.callee.ip,
        CALLEE6: topology.callee.ip6,
        SOCKET: str(tmp_path / "control"),
    }


@pytest.fixture
def run(topology, places, tmp_path):
    """Starts relay and B2BUA as a section of the page says, further options of the relay behind those."""
    running = []

    def run(heading, hosts, *more, is_on_line=True):
        (of_relay, of_b2bua) = blocks(PAGE, heading)[:2]
        here = {place: value for place, value in places.items() if place in of_relay + of_b2bua}
        (words,) = options(placed(of_relay, {place: here[place] for place in here if place in of_relay}))
        relay = RunningRelay(tmp_path, *words, *more, host=topology.relay)
        if is_on_line:
            running.append(relay.__enter__())
        joined = placed(of_b2bua, {place: here[place] for place in here if place in of_b2bua}).replace("\\\n", " ")
        program, *arguments = shlex.split(joined)
        assert program == "b2bua_radius"
        b2bua = B2bua(topology.relay, tmp_path, arguments)
        running.append(b2bua)
        if is_on_line:
            asked = "Gv ncmds_rcvd"
            wait_for(lambda: int(relay.ask(asked).split("=")[1]) > 2 * PROBES, DEADLINE_S, "the B2BUA to be on-line")
        return Setting(topology, [relay], b2bua, hosts)

    yield run
    for part in reversed(running):
        part.__exit__()


def test_call(topology, run, start, tmp_path):
    """Each side is told the address of its own network, by the routes of the relay's host."""
    hosts = topology.callee.gateway.ip, topology.caller.gateway.ip
    setting = run("Start", hosts)
    with SignalledCall(setting, tmp_path, "one@caller", start) as call:
        to_callee, to_caller = call.offer(Media(topology.caller.ip, CALLER_PORT))
        assert (to_callee.host, to_caller.host) == hosts
        for number in range(1, 5):
            call.cross(rtp(number))
        call.hang_up()


def test_call_ends_when_its_media_stop(topology, run, start, tmp_path):
    hosts = topology.callee.gateway.ip, topology.caller.gateway.ip
    setting = run("Start", hosts, "-T", "2")
    with SignalledCall(setting, tmp_path, "silent@caller", start) as call:
        call.offer(Media(topology.caller.ip, CALLER_PORT))
        call.cross(rtp(1))
        agents = call.answering, call.calling
        wait_for(
            lambda: all(any(message.startswith("BYE ") for message in agent.received) for agent in agents),
            DEADLINE_S,
            "a BYE to both sides",
        )
    wait_for_sessions(setting.relay, 0)


def test_call_between_the_families(topology, run, start, tmp_path):
    hosts = topology.callee.gateway.ip6, topology.caller.gateway.ip
    setting = run(NETWORKS, hosts)
    with SignalledCall(setting, tmp_path, "4to6@caller", start, callee_ip=topology.callee.ip6) as call:
        to_callee, to_caller = call.offer(Media(topology.caller.ip, CALLER_PORT))
        assert (to_callee.host, to_caller.host) == hosts
        for number in range(1, 5):
            call.cross(rtp(number))
        call.hang_up()


def test_without_a_relay_calls_are_refused(topology, run, start, tmp_path):
    setting = run("Start", ("", ""), is_on_line=False)
    calling = start(setting, UserAgent(topology.caller, tmp_path, "failed_call", proxy=setting.proxy))
    wait_for(lambda: 502 in calling.statuses, DEADLINE_S, "502")
    # It says so after it has answered.
    reason = "No online RTP proxy client has been found"
    wait_for(lambda: reason in setting.kamailio.evidence(), DEADLINE_S, "the reason in its log")
