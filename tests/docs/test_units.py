"""The units of docs/operations.md, carried out as systemd does: sockets are opened, and the relay gets them."""

import configparser
import shlex
import socket
import subprocess

import pytest

from tests.activation import activating, descriptors
from tests.control.serving import read_to_end
from tests.docs.pages import DOCS, section_blocks
from tests.running import PROGRAM, START_DEADLINE_S, own_namespace

pytestmark = [pytest.mark.root]


def units():
    """The socket unit and the service unit, as the page has them."""
    found = []
    for text in section_blocks(DOCS / "operations.md", "A unit for systemd"):
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str
        unit.read_string(text)
        found.append(unit)
    unit_of_sockets, service = found
    return unit_of_sockets["Socket"], service["Service"]


def test_the_relay_answers_on_both_sockets(tmp_path):
    unit, service = units()
    host, port = unit["ListenDatagram"].split(":")
    options = shlex.split(service["ExecStart"])[1:]
    address = options[options.index("-l") + 1]
    options += "-p", f"{tmp_path}/pid"
    options[options.index("-u") + 1] = "nobody"  # the page tells how to make a user of the relay's own
    assert unit["ListenStream"].startswith("/run/")
    with (
        own_namespace(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as over_udp,
        socket.socket(socket.AF_UNIX) as over_unix,
    ):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
        datagrams.bind((host, int(port)))
        stream.bind(str(tmp_path / "control"))
        stream.listen(int(unit["Backlog"]))
        passed = [datagrams, stream]
        with subprocess.Popen([*activating(passed), PROGRAM, *options], pass_fds=descriptors(passed)) as relay:
            try:
                for client in (over_udp, over_unix):
                    client.settimeout(START_DEADLINE_S)
                over_udp.connect(datagrams.getsockname())
                over_udp.send(b"c1 V")
                assert over_udp.recv(100) == b"c1 20040107\n"
                over_unix.connect(str(tmp_path / "control"))
                over_unix.send(b"V")
                assert read_to_end(over_unix) == b"20040107\n"
            finally:
                relay.terminate()
        assert relay.returncode == 0
