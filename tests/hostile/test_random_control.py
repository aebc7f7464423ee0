"""Very many control inputs that nobody would send: each has one reply, nothing fails, and nothing is left behind.

`make fuzz` gives a million. A tenth of them go to the sockets of a real relay, the others to parser and service.
"""

import collections
import re
import socket
from pathlib import Path
from random import Random

import pytest

from rtpproxy.config import ListenAddress
from tests.control.serving import read_what_comes
from tests.fuzzing import SEED, failure, share
from tests.hostile.mutations import Mutations
from tests.netns_call.call import BOUND
from tests.ports import free_port
from tests.running import RunningRelay, own_namespace
from tests.scenario import Scenario
from tests.waiting import DEADLINE_S

PARTS = 10
"""Of these, one is the real relay's."""
REPLY = re.compile(rb"[\x20-\x7e\n]*\n")
LAST = re.compile(rb"ncmds_rcvd=[0-9]+\n\Z")
ERROR = re.compile(rb"E[0-9]+\n")
WORLDS = {
    "one address": {},
    "labelled": {"listen": (ListenAddress("10.0.0.1"), ListenAddress("10.0.0.2", label="one"))},
    "bridging": {
        "listen": (ListenAddress("10.0.0.1"), ListenAddress("2001:db8::1", is_ipv6=True)),
        "is_bridging": True,
    },
}
PAIRS = 20
FORGET_EVERY = 1000
IN_FLIGHT = 32


@pytest.mark.seeded
@pytest.mark.parametrize("part", range(PARTS - 1))
def test_parser_and_service(part):
    name = sorted(WORLDS)[part % len(WORLDS)]
    play = Scenario(pairs=PAIRS, routes={"10.0.1.2": "10.0.0.1"}, **WORLDS[name])
    mutations = Mutations(Random(f"{SEED} {part}"))
    refused = 0
    for number in range(share(part, PARTS)):
        text = mutations.next()
        try:
            reply = play.answer(text)
            assert REPLY.fullmatch(reply), reply
            assert reply[:1] != b"E" or ERROR.fullmatch(reply), reply
        except Exception as error:
            raise AssertionError(failure(f"{error!r}, {name}", number, text)) from error
        refused += reply[:1] == b"E"
        if number % FORGET_EVERY == 0:
            play.now += 1
            play.tick()
            play.journal.clear()
    assert 0.2 < refused / share(part, PARTS) < 0.95, "the inputs are not what they should be"
    play.command("X", "0")
    play.assert_nothing_is_left()


# Sockets of a real relay


@pytest.mark.root
@pytest.mark.seeded
def test_sockets_of_a_relay(tmp_path):
    """Datagrams, connections of one command, and lines; then the relay serves as before, and nothing is in its log.

    Every call is recorded, whatever it is called.
    """
    recordings, spool = tmp_path / "recordings", tmp_path / "spool"
    for place in (recordings, spool):
        place.mkdir()
    with own_namespace():
        port = free_port("127.0.0.1")
        sockets = ("-s", f"udp:127.0.0.1:{port}", "-s", f"cunix:{tmp_path}/lines", "-F")
        # The replies of a wildcard name no address, so that they are as short as inside.
        recording = ("-r", str(recordings), "-S", str(spool), "-a")
        options = (*BOUND.options, "-m", "20000", "-M", "20099", *recording, *sockets)
        with RunningRelay(tmp_path, *options) as relay:
            mutations = Mutations(Random(f"{SEED} sockets"))
            texts = [mutations.next() for _ in range(share(PARTS - 1, PARTS))]
            few = max(1, len(texts) // 10)
            send_datagrams(port, texts[2 * few :])
            send_connections(relay.socket_path, texts[:few])
            send_lines(tmp_path / "lines", texts[few : 2 * few])
            assert relay.ask("X") == "0"
            assert relay.ask("V") == "20040107"
            assert relay.totals()["active sessions"] == 0
            assert relay.stop() == 0
            assert "unexpected" not in relay.log
            assert "Traceback" not in relay.log
    assert list(recordings.iterdir())
    assert all(path.is_file() and not path.name.startswith(".") for path in recordings.iterdir())
    assert list(spool.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"recordings", "spool", "lines", relay.log_path.name}


def send_datagrams(port, texts):
    """Several at a time; each is answered once, in their order."""
    due = collections.deque()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(DEADLINE_S)
        client.connect(("127.0.0.1", port))
        for number, text in enumerate([*texts, *[b"V"] * IN_FLIGHT]):
            if len(due) == IN_FLIGHT:
                check_datagram(client, *due.popleft())
            client.send(b"%d_ %b" % (number, text))
            due.append((number, text))


def check_datagram(client, number, text):
    try:
        cookie, _, reply = client.recv(65536).partition(b" ")
    except TimeoutError as error:
        raise AssertionError(failure("no reply", number, text)) from error
    is_right = cookie == b"%d_" % number and REPLY.fullmatch(reply)
    assert is_right, failure(f"{cookie!r} {reply!r}", number, text)


def send_connections(path: Path, texts):
    """One command a connection."""
    for number, text in enumerate(texts):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(str(path))
            client.sendall(text or b"V")
            reply = read_what_comes(client)
        assert REPLY.fullmatch(reply), failure(f"{reply!r}", number, text)


def send_lines(path: Path, texts):
    """All on one connection. A text may be several lines, and a reply, too; the last line has a reply of its own."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        for number, text in enumerate(texts):
            client.sendall(text + b"\nGv ncmds_rcvd\n")
            replies = b""
            while not LAST.search(replies):
                part = client.recv(65536)
                assert part, failure("closed", number, text)
                replies += part
            assert REPLY.fullmatch(replies), failure(f"{replies!r}", number, text)
            assert replies.count(b"\n") >= text.count(b"\n") + 2, failure(f"{replies!r}", number, text)
