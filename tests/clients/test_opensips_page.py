"""docs/opensips.md: its command lines, and the lines that OpenSIPS' module sends (protocol.md 14.2)."""

import re
import socket

import pytest

from tests.clients import opensips
from tests.clients.opensips import Node, Udp
from tests.clients.pages import QUICK, blocks, options, placed
from tests.docs.pages import DOCS, text
from tests.recording.dtmf_packets import pressed
from tests.running import RunningRelay, own_namespace
from tests.waiting import DEADLINE_S, wait_for

PAGE = "opensips.md"
BRIDGES = "Two networks, IPv4 and IPv6"
INSIDE, OUTSIDE, OUTSIDE6 = "127.0.0.1", "127.0.0.2", "::1"
CONTROL = ("127.0.0.1", 22222)
TAGS = "ftag;1 ttag;1"

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True, scope="module")
def namespace():
    with own_namespace():
        yield


@pytest.fixture
def run(tmp_path):
    """Starts a relay as a block of the page says and gives it with a node that has probed it."""
    running = []

    def run(heading, number, places, *more):
        (words,) = options(placed(blocks(PAGE, heading)[number], places))
        running.append(RunningRelay(tmp_path, *words, *QUICK, *more).__enter__())
        node = Node(Udp(*CONTROL))
        running.append(node)
        node.probe()
        assert not node.is_disabled
        return running[0], node

    yield run
    for part in reversed(running):
        part.__exit__()


def notify_socket():
    """As the page's script names it."""
    (script, _) = blocks(PAGE, "A route")
    (name,) = re.findall(r'"rtpp_notify_socket", "(.*)"\)', script)
    return name


def test_lines_of_a_call(run):
    """As the page shows them."""
    relay, node = run("The control socket", 0, {"192.0.2.10": INSIDE})
    (_, lines) = blocks(PAGE, "A route")
    offer, answer, end = lines.splitlines()
    assert "NOTIFY" in node.capabilities
    to_callee, to_caller = node.offer(offer), node.answer(answer)
    assert (to_callee.host, to_caller.host) == (INSIDE, INSIDE)
    assert to_callee.port != to_caller.port
    node.execute(end)
    composed = node.compose("U", "c1@h", ("203.0.113.7", 49170), "ftag;1", notify=(notify_socket(), "T3a1.5f"))
    assert composed == offer
    assert "ERR:" not in relay.log


def test_silent_call_is_notified(run):
    """By a line that OpenSIPS reads, on a connection from an address that it accepts."""
    _, node = run("The control socket", 0, {"192.0.2.10": INSIDE}, "-T", "1")
    host, port = notify_socket().removeprefix("tcp:").split(":")
    with socket.create_server((host, int(port))) as listening:
        listening.settimeout(DEADLINE_S)
        offer = blocks(PAGE, "A route")[1].splitlines()[0]
        node.offer(offer)
        connection, (source, _) = listening.accept()
        with connection, connection.makefile("r") as lines:
            connection.settimeout(DEADLINE_S)
            assert opensips.notified(lines.readline().removesuffix("\n")) == ("timeout", "3a1.5f")
    assert source == CONTROL[0]


def test_digits_are_notified(run):
    """The page's offer, and a line of its form."""
    _, node = run("DTMF", 0, {"192.0.2.10": INSIDE})
    host, port = notify_socket().removeprefix("tcp:").split(":")
    offer = blocks(PAGE, "DTMF")[1].strip()
    with (
        socket.create_server((host, int(port))) as listening,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone,
    ):
        listening.settimeout(DEADLINE_S)
        node.offer(offer)
        to_caller = node.answer("L c1@h 198.51.100.9 30000 ftag;1 ttag;1")
        for packet in pressed(8000):
            phone.sendto(packet, (to_caller.host, to_caller.port))
        connection, _ = listening.accept()
        with connection, connection.makefile("r") as lines:
            connection.settimeout(DEADLINE_S)
            assert lines.readline() == "Dd3a1.5f 5 10 800 0\n"


@pytest.mark.parametrize("number", [0, 1])
def test_bridging(run, number):
    """Each row of the page's table, with either command line."""
    outside, on_page = [(OUTSIDE, "198.51.100.10"), (OUTSIDE6, "2001:db8::10")][number]
    _, node = run(BRIDGES, number, {"192.0.2.10": INSIDE, on_page: outside})
    rows = re.findall(r"\| `([ei]{2})` \| the (\w+) address \| the (\w+) address \|", text(DOCS / PAGE))
    assert {letters for letters, *_ in rows} == {"ie", "ei", "ii", "ee"}
    addresses = {"internal": INSIDE, "external": outside}
    for letters, for_callee, for_caller in rows:
        flags = letters.upper()
        offer = node.compose("U", f"{letters}@h", ("203.0.113.7", 49170), "ftag;1", flags=flags)
        assert node.offer(offer).host == addresses[for_callee]
        answer = node.compose("L", f"{letters}@h", ("203.0.113.9", 30000), TAGS, flags=flags[::-1])
        assert node.answer(answer).host == addresses[for_caller]


def test_unix_socket_belongs_to_the_group(tmp_path):
    """The group `opensips` is not on every host; `nogroup` stands for it."""
    places = {"192.0.2.10": INSIDE, "/var/run/rtpproxy.sock": f"{tmp_path}/control", "opensips": "nogroup"}
    (words,) = options(placed(blocks(PAGE, "The control socket")[1], places))
    with RunningRelay(tmp_path, *words, *QUICK):
        control = tmp_path / "control"
        wait_for(control.exists, DEADLINE_S, "the control socket")
        assert (control.stat().st_mode & 0o7777, control.owner(), control.group()) == (0o770, "nobody", "nogroup")
