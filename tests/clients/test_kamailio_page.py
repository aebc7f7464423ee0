"""docs/kamailio.md, and what docs/migrate.md adds to it: what readers copy from them, with real calls."""

import re
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path

import pytest

from tests.clients.calls import CALLER_PORT, SignalledCall, wait_for_sessions
from tests.clients.conftest import Setting
from tests.clients.kamailio import ControlTap, Kamailio
from tests.clients.pages import QUICK, blocks, options, placed
from tests.clients.sipp import SIP_PORT, Media, UserAgent, media_of
from tests.netns import Topology
from tests.netns_call.call import KERNEL
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

PAGE = "kamailio.md"
ADDRESS, CALLEE, OTHER_RELAY = "192.0.2.10", "198.51.100.20", "192.0.2.12:22222=2"
UDP, UNIX = "udp:127.0.0.1:22222", "unix:/var/run/rtpproxy.sock"
UDP_PORT = 22222


@pytest.fixture(scope="module")
def topology():
    with Topology(ipv6=True) as topology:
        yield topology


@pytest.fixture
def directory():
    """One that other users can enter; Kamailio's own is `kamailio` in it."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    (path / "kamailio").mkdir()
    shutil.chown(path / "kamailio", "kamailio", "kamailio")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def configuration(topology, directory):
    """The complete configuration, at the addresses of the test."""
    (text, _) = blocks(PAGE, "A complete configuration")
    places = {
        ADDRESS: topology.caller.gateway.ip,
        CALLEE: topology.callee.ip,
        "/var/run/kamailio": str(directory / "kamailio"),
    }
    return placed(text, places)


class PageKamailio(Kamailio):
    """Kamailio with a configuration of a page, as Debian's user."""

    def __init__(self, host, directory, text):
        self.directory = directory / "kamailio"
        path = self.directory / "kamailio.cfg"
        path.write_text(text)
        self._host = host
        self._start(host, self.directory, ["-f", path, "-u", "kamailio", "-g", "kamailio"])

    def command(self, *words):
        """What kamcmd(1) prints."""
        control = f"unix:{self.directory}/kamailio_ctl"
        return self._host.run(["kamcmd", "-s", control, *words]).stdout


@pytest.fixture
def run(topology, directory, tmp_path):
    """Starts a relay by options of the page and Kamailio by a configuration; the setting of a call through both."""
    running = []

    def run(words, text, *, hosts=None):
        host = topology.relay
        relay = RunningRelay(directory, *words, host=host)
        running.append(relay.__enter__())
        tap = ControlTap(host, UDP_PORT)
        running.append(tap)
        kamailio = PageKamailio(host, directory, text)
        running.append(kamailio)
        return Setting(topology, [relay], kamailio, hosts or (topology.caller.gateway.ip,) * 2, tap)

    yield run
    for part in reversed(running):
        part.__exit__()


def page_options(heading, places):
    (block,) = [block for block in blocks(PAGE, heading) if block.startswith("rtpproxy -")]
    (words,) = options(placed(block, places))
    return words


def make_call(setting, start, tmp_path, name):
    """A call from offer to BYE, with media both ways."""
    with SignalledCall(setting, tmp_path, name, start) as call:
        to_callee, to_caller = call.offer(Media(setting.topology.caller.ip, CALLER_PORT))
        assert (to_callee.host, to_caller.host) == setting.hosts
        call.establish(KERNEL)
        call.cross(rtp(2))
        call.hang_up()


def test_kamailio_accepts_the_configurations(tmp_path):
    """As they stand on the page, addresses included."""
    (text, shown) = blocks(PAGE, "A complete configuration")
    (sets,) = blocks(PAGE, "Several relays")
    for number, variant in enumerate((text, with_sets(text, sets), with_ipv6(text))):
        path = tmp_path / f"{number}.cfg"
        path.write_text(variant)
        checked = subprocess.run(["kamailio", "-c", "-f", path], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "config file ok" in checked.stderr
    assert "config file ok, exiting..." in shown


def with_sets(text, sets):
    (head,) = re.findall(r'^modparam\("rtpproxy", "rtpproxy_sock".*\n', text, re.MULTILINE)
    for route in ("route[MEDIA] {\n", "route[DELETE] {\n"):
        text = placed(text, {route: f'{route}\tset_rtp_proxy_set("1");\n'})
    return placed(text, {head: sets})


def with_ipv6(text):
    (_, snippet) = blocks(PAGE, "IPv4 and IPv6")
    lines = text.splitlines()
    changed = [line for line in lines if line.startswith(("#!define", "listen="))]
    assert len(changed) == 3
    lines[lines.index(changed[0])] = snippet
    return "\n".join(line for line in lines if line not in changed[1:])


def test_call_over_udp(topology, configuration, run, start, tmp_path):
    setting = run(page_options("UDP", {ADDRESS: topology.caller.gateway.ip}), configuration)
    make_call(setting, start, tmp_path, "udp@caller")
    assert setting.kamailio.complaints == []
    assert [text[0] for text in setting.tap.commands("udp@caller")] == ["U", "L", "D"]


def test_call_without_an_offer_in_its_invite(topology, configuration, run, start, tmp_path):
    """The callee offers, and the caller answers in its ACK: RFC 3261 13.2.1."""
    setting = run([*page_options("UDP", {ADDRESS: topology.caller.gateway.ip}), *QUICK], configuration)
    answering = start(setting, UserAgent(topology.callee, tmp_path, "callee"))
    calling = start(setting, UserAgent(topology.caller, tmp_path, "late_offer", "-d", "0", proxy=setting.proxy))
    calling.wait()
    answering.wait()
    (ack,) = [message for message in answering.received if message.startswith("ACK ")]
    assert [media_of(ack).host, calling.answers[-1].host] == list(setting.hosts)
    commands = [seen.command for seen in setting.tap.exchanges() if seen.command[0] in "ULD"]
    assert [command[0] for command in commands] == ["U", "L", "D"]
    wait_for_sessions(setting.relay, 0)
    assert setting.kamailio.complaints == []


def test_a_cancelled_call_is_deleted(topology, configuration, run, start, tmp_path):
    setting = run([*page_options("UDP", {ADDRESS: topology.caller.gateway.ip}), *QUICK], configuration)
    ringing = start(setting, UserAgent(topology.callee, tmp_path, "ringing"))
    calling = start(setting, UserAgent(topology.caller, tmp_path, "cancelled_call", proxy=setting.proxy))
    calling.wait()
    ringing.wait()
    assert calling.statuses[-1] == 487
    assert setting.relay.totals()["sessions created"] == 1
    wait_for_sessions(setting.relay, 0)


def test_call_over_a_unix_socket(topology, directory, configuration, run, start, tmp_path):
    socket = f"unix:{directory}/control"
    places = {ADDRESS: topology.caller.gateway.ip, UNIX: socket}
    words = page_options("Unix socket", places)
    assert words[-4:] == ["-u", "nobody:kamailio", "-w", "0770"]
    text = placed(configuration, {UDP: socket})
    setting = run(words, text)
    make_call(setting, start, tmp_path, "unix@caller")
    assert setting.kamailio.complaints == []
    assert "disabled: 0" in setting.kamailio.command("rtpproxy.list")


def test_without_the_group_kamailio_cannot_open_the_unix_socket(topology, directory, configuration, run):
    socket = f"unix:{directory}/rtpproxy.sock"
    kamailio = run(["-l", topology.caller.gateway.ip, *QUICK], placed(configuration, {UDP: socket})).kamailio
    (errors, *_) = blocks(PAGE, "Unix socket")
    expected = errors.replace(UNIX, socket).splitlines()
    wait_for(lambda: all(line in kamailio.log for line in expected), DEADLINE_S, f"{expected} in the log")
    # Kamailio answers when all its processes run. One that is told to end before that may not hear it.
    assert "disabled: 1" in kamailio.command("rtpproxy.list")


def test_udp_as_root_is_refused_as_the_page_says(topology, directory):
    (_, refusal) = blocks(PAGE, "UDP")
    with pytest.raises(AssertionError, match="running as root") as refused:
        RunningRelay(directory, "-s", UDP, host=topology.relay).start()
    assert refusal.strip() in str(refused.value)


def test_calls_between_the_families(topology, directory, configuration, run, start, tmp_path):
    inside, outside = topology.caller.gateway.ip, topology.callee.gateway.ip6
    places = {ADDRESS: inside, "2001:db8::10": outside}
    words = page_options("IPv4 and IPv6", places)
    text = placed(with_ipv6(configuration), places | {topology.callee.ip: f"[{topology.callee.ip6}]"})
    setting = run(words, text, hosts=(outside, inside))
    with SignalledCall(setting, tmp_path, "4to6@caller", start, callee_ip=topology.callee.ip6) as call:
        to_callee, to_caller = call.offer(Media(topology.caller.ip, CALLER_PORT))
        assert (to_callee.host, to_caller.host) == setting.hosts
        for number in range(1, 10):
            call.cross(rtp(number))
        call.hang_up()
    assert setting.kamailio.complaints == []


def test_restart(topology, configuration, run, start, tmp_path):
    """A call without a relay is answered 503; `kamcmd rtpproxy.enable` brings a relay back at once."""
    setting = run(page_options("UDP", {ADDRESS: topology.caller.gateway.ip}), configuration)
    make_call(setting, start, tmp_path, "before@caller")
    setting.relay.kill()
    calling = start(setting, UserAgent(topology.caller, tmp_path, "failed_call", proxy=setting.proxy))
    calling.wait()
    assert calling.statuses[-1] == 503
    assert "disabled: 1" in setting.kamailio.command("rtpproxy.list")

    setting.relay.start()
    (_, enable) = blocks(PAGE, "When the relay restarts")
    (line,) = [line for line in enable.splitlines() if line.startswith("kamcmd")]
    setting.kamailio.command(*line.split()[1:])
    assert "disabled: 0" in setting.kamailio.command("rtpproxy.list")
    make_call(setting, start, tmp_path, "after@caller")


def test_set_of_relays(topology, configuration, run, start, tmp_path):
    """The page's set 1, of which only one relay runs: the call goes there, set up, answered and deleted."""
    (sets,) = blocks(PAGE, "Several relays")
    places = {"192.0.2.11:22222": "127.0.0.1:22222", OTHER_RELAY: "127.0.0.1:22223=2", "198.51.100.11": "127.0.0.2"}
    text = with_sets(configuration, placed(sets, places))
    setting = run(page_options("UDP", {ADDRESS: topology.caller.gateway.ip}), text)
    make_call(setting, start, tmp_path, "set@caller")
    wait_for_sessions(setting.relay, 0)


def with_migration(text, customer):
    """The complete configuration with the lines of migrate.md, put where that page says."""
    (_, sets, routes) = [textwrap.dedent(block) for block in blocks("migrate.md", "Switch over, call by call")]
    (head,) = re.findall(r'^modparam\("rtpproxy", "rtpproxy_sock".*\n', text, re.MULTILINE)
    first_offer = "\troute(OFFER);\n\troute(RELAY);\n"
    places = {
        head: sets,
        "request_route {\n": placed(routes, {"203.0.113.30": customer}) + "\nrequest_route {\n",
        '\tif (is_method("INVITE")) {\n\t\tif (!t_newtran())': "\troute(CHOOSE);\n"
        '\tif (is_method("INVITE")) {\n\t\tif (!t_newtran())',
        first_offer: f"\troute(CHOOSE);\n{first_offer}",
        "route[MEDIA] {\n": "route[MEDIA] {\n\troute(SET);\n",
        "route[DELETE] {\n": "route[DELETE] {\n\troute(SET);\n",
    }
    return placed(text, places)


@pytest.fixture(params=["new", "old"])
def migrating(request, topology, directory, configuration, run):
    """Two relays, which are both this program here; the setting, the relay that the call is for, and the other one."""
    (line, *_) = blocks("migrate.md", "Switch over, call by call")
    here = {ADDRESS: topology.caller.gateway.ip, "/var/run/rtpproxy-new.pid": str(directory / "new.pid")}
    (words,) = options(placed(line, here))
    is_new = request.param == "new"
    text = with_migration(configuration, topology.caller.ip if is_new else "203.0.113.30")
    old_words = page_options("UDP", {ADDRESS: topology.caller.gateway.ip})
    with RunningRelay(directory, *words, *QUICK, host=topology.relay, name="new") as new:
        setting = run([*old_words, *QUICK], text)
        yield (setting, new, setting.relay) if is_new else (setting, setting.relay, new)


def test_all_commands_of_a_call_go_to_the_relay_of_its_set(migrating, start, tmp_path):
    setting, chosen, other = migrating
    media = Media(setting.topology.caller.ip, CALLER_PORT)
    with SignalledCall(setting, tmp_path, "migrated@caller", start, relay=chosen) as call:
        told = call.offer(media)
        call.cross(rtp(1))
        assert call.offer(media) == told
        call.hang_up()
    assert [relay.totals()["sessions created"] for relay in (chosen, other)] == [1, 0]
    assert setting.kamailio.complaints == []


def test_a_refused_call_is_deleted_at_the_relay_of_its_set(migrating, start, tmp_path):
    setting, chosen, _ = migrating
    refusing = start(setting, UserAgent(setting.topology.callee, tmp_path, "refusing", status="486 Busy Here"))
    calling = start(setting, UserAgent(setting.topology.caller, tmp_path, "failed_call", proxy=setting.proxy))
    calling.wait()
    refusing.wait()
    assert chosen.totals()["sessions created"] == 1
    wait_for_sessions(chosen, 0)


def test_timeout_socket_has_no_tag(topology, configuration, run, start, tmp_path):
    """Why the page says to leave it empty: a re-INVITE names the socket as if it were a tag, and fails."""
    text = configuration.replace(
        'modparam("rtpproxy", "rtpproxy_tout"',
        'modparam("rtpproxy", "timeout_socket", "unix:/run/to.sock")\nmodparam("rtpproxy", "rtpproxy_tout"',
    )
    setting = run([*page_options("UDP", {ADDRESS: topology.caller.gateway.ip}), *QUICK], text)
    media = Media(topology.caller.ip, CALLER_PORT)
    with SignalledCall(setting, tmp_path, "to@caller", start) as call:
        call.offer(media)
        with pytest.raises((AssertionError, ValueError)):  # no answer that could be read
            call.offer(media)
    exchange = setting.tap.exchanges()[-1]
    assert exchange.command.endswith(" unix:/run/to.sock")
    assert exchange.replies == ["E75\n"]


def test_port_of_sip():
    """The page's addresses and the harness agree."""
    (text, _) = blocks(PAGE, "A complete configuration")
    assert f"listen=udp:{ADDRESS}:{SIP_PORT}" in text
