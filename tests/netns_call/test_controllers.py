"""Whose commands the relay executes over UDP and TCP (`--control-allow`), with hosts of their own."""

import contextlib
import socket

import pytest

from tests.netns import Topology
from tests.netns_call.call import BOUND
from tests.running import RunningRelay
from tests.waiting import DEADLINE_S, wait_for

PORT = 22222
KINDS = ("udp", "udp6", "tcp", "tcp6")


@pytest.fixture(scope="module")
def relay(tmp_path_factory):
    """A relay that takes commands from the caller's host only, in either family."""
    with Topology(ipv6=True) as topology:
        sockets = [option for kind in KINDS for option in ("-s", f"{kind}:*:{PORT}")]
        allowed = ("--control-allow", "10.0.1.0/24", "--control-allow", topology.caller.ip6)
        directory = tmp_path_factory.mktemp("relay")
        with RunningRelay(directory, *BOUND.options, "-F", *sockets, *allowed, host=topology.relay) as relay:
            yield relay, topology


def is_datagram(kind):
    return kind.startswith("udp")


def ask(controller, command):
    """Send a command that has a cookie; the reply. Only a datagram needs the cookie."""
    cookie, _, text = command.partition(" ")
    controller.sendall(f"{command if controller.type == socket.SOCK_DGRAM else text}\n".encode())
    return controller.recv(100).decode().removeprefix(f"{cookie} ").strip().split()[0]


def connect(phone, kind):
    """A socket of a host that is connected to the relay's."""
    client = phone.socket(
        socket.AF_INET6 if kind.endswith("6") else socket.AF_INET,
        socket.SOCK_DGRAM if is_datagram(kind) else socket.SOCK_STREAM,
    )
    client.settimeout(DEADLINE_S)
    client.connect((phone.gateway.ip6 if kind.endswith("6") else phone.gateway.ip, PORT))
    return client


@pytest.mark.parametrize("kind", KINDS)
def test_only_named_controllers_are_obeyed(relay, kind):
    relay, topology = relay
    with connect(topology.caller, kind) as controller, connect(topology.callee, kind) as stranger:
        assert ask(controller, f"1 U {kind} 10.0.1.2 4000 f").isdecimal()
        for attack in ("1 X", f"1 D {kind} f", "X", "", f"1 U {kind} 10.0.1.2 4000 f"):
            with contextlib.suppress(ConnectionError):  # closed already
                stranger.sendall(f"{attack}\n".encode())
        if not is_datagram(kind):
            with contextlib.suppress(ConnectionError):
                assert stranger.recv(100) == b""
        assert ask(controller, f"2 D {kind} f") == "0"
        if is_datagram(kind):
            stranger.setblocking(False)
            with pytest.raises(BlockingIOError):
                stranger.recv(100)


def test_what_was_ignored_is_logged(relay):
    relay, topology = relay
    with connect(topology.callee, "udp") as stranger:
        stranger.send(b"1 X")
    wait_for(lambda: "control: commands ignored: 1; the last one from " in relay.log, DEADLINE_S, "the log")
