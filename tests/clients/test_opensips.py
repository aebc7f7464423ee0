"""The installed relay as OpenSIPS deals with it: the lines of protocol.md 14.2 and the consequences of 14.5."""

import contextlib
import itertools
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.clients import opensips
from tests.clients.opensips import CallFailedError, Media, Node, Stream, Udp
from tests.ports import free_port
from tests.recording.dtmf_packets import pressed
from tests.recording.packets import read_adhoc
from tests.running import RunningRelay, own_namespace, rtp
from tests.waiting import DEADLINE_S, wait_for

HOST = "127.0.0.1"
CONTROL_PORT, NOTIFY_PORT = free_port(HOST), free_port(HOST, socket.SOCK_STREAM)
BOUND = ("--ports", "bound", "--offload", "off", "-F", "-m", "25000", "-M", "25599")
"""Starts sooner, and needs no privilege."""
TRANSPORTS = {
    "unix": "unix:{directory}/control",
    "cunix": "cunix:{directory}/control",
    "udp": f"udp:{HOST}:{CONTROL_PORT}",
    "tcp": f"tcp:{HOST}:{free_port(HOST, socket.SOCK_STREAM)}",
    "udp6": f"udp6:::1:{free_port('::1')}",
    "tcp6": f"tcp6:::1:{free_port('::1', socket.SOCK_STREAM)}",
}
CALLER = ("192.0.2.7", 49170)
CALLEE = ("198.51.100.9", 30000)
TAGS = "ftag;1 ttag;1"


@pytest.fixture(autouse=True, scope="module")
def namespace():
    """As root, a network namespace of these tests."""
    with own_namespace() if os.geteuid() == 0 else contextlib.nullcontext():
        yield


@pytest.fixture
def start(tmp_path):
    """Starts a relay and gives it with a node that has probed it; ends it with the test."""
    with contextlib.ExitStack() as stack:

        def start(transport="cunix", *options, listen=("-l", HOST)):
            spec = TRANSPORTS[transport].format(directory=tmp_path)
            relay = stack.enter_context(RunningRelay(tmp_path, *BOUND, *listen, "-s", spec, *options))
            node = stack.enter_context(Node(connect(spec)))
            node.probe()
            assert not node.is_disabled
            return relay, node

        yield start


@pytest.fixture(scope="module")
def shared_spec(tmp_path_factory, namespace):
    """The control socket of a relay without options, for all tests that need no other."""
    directory = tmp_path_factory.mktemp("shared")
    spec = f"cunix:{directory}/control"
    with RunningRelay(directory, *BOUND, "-l", HOST, "-m", "25600", "-M", "25999", "-s", spec):
        yield spec


@pytest.fixture
def node(shared_spec):
    """A relay without calls."""
    with Node(connect(shared_spec)) as node:
        node.probe()
        yield node
        node.execute("X")


@pytest.fixture
def call(node):
    """A relay with the call c1@h on it."""
    node.offer("U c1@h 192.0.2.7 49170 ftag;1")
    node.answer("L c1@h 198.51.100.9 30000 ftag;1 ttag;1")
    return node


def connect(spec):
    """The transport of a control socket."""
    kind, _, rest = spec.partition(":")
    if kind in ("unix", "cunix"):
        return Stream(socket.AF_UNIX, rest, is_kept=kind == "cunix")
    host, _, port = rest.rpartition(":")
    if kind.startswith("udp"):
        return Udp(host, int(port))
    return Stream(socket.AF_INET6 if ":" in host else socket.AF_INET, (host, int(port)), is_kept=True)


# A call


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_call(start, transport):
    """With all that a script may ask for, as far as the relay says that it can."""
    relay, node = start(transport)
    with phone() as caller, phone() as callee:
        offer = node.compose(
            *("U", "c1@h", caller.getsockname(), "ftag;1"),
            **{"repacketize_ms": 20, "codecs": "0,8,101", "next_hop": HOST, "notify": ("tcp:%%CC_SELF%%:22223", "T3")},
        )
        answer = node.compose("L", "c1@h", callee.getsockname(), TAGS, codecs="0,101", next_hop=HOST)
        for_callee = node.offer(offer)
        for_caller = node.answer(answer)
        assert for_callee.port != for_caller.port
        assert (for_callee.host, for_caller.host) == (HOST, HOST)
        assert node.offer(offer.replace(" ftag;1", f" {TAGS}", 1)) == for_callee
        assert node.answer(answer) == for_caller
        caller.sendto(rtp(1), (HOST, for_caller.port))
        assert callee.recv(2048) == rtp(1)
        callee.sendto(rtp(1), (HOST, for_callee.port))
        assert caller.recv(2048) == rtp(1)

    ttl, *counters = opensips.integers(node.ask(f"Q c1@h {TAGS}"), 5)
    assert 0 < ttl <= 60
    assert counters == [1, 1, 2, 0]
    statistics = node.statistics(f"c1@h {TAGS}")
    assert statistics["ttl"] <= ttl
    assert (statistics["npkts_ina"], statistics["rtpa_nrcvd"], statistics["rtpa_nlost"]) == (1, 1, 0)
    node.execute("D c1@h ftag ttag")
    for command in ("D c1@h ftag ttag", f"Q c1@h {TAGS}"):
        assert opensips.error_number(node.ask(command)) == 50
    with pytest.raises(opensips.BadReplyError):
        node.answer(answer)  # port 0: the module gives up the call
    assert "ERR:" not in relay.log


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_packets_get_the_length_that_the_script_asks_for(start, transport):
    """`rtpproxy_offer("z10")` and `rtpproxy_answer("z20")`: what the caller sends is divided."""
    _, node = start(transport)
    with phone() as caller, phone() as callee:
        offer = node.compose("U", "c1@h", caller.getsockname(), "ftag;1", repacketize_ms=10)
        answer = node.compose("L", "c1@h", callee.getsockname(), TAGS, repacketize_ms=20)
        assert offer.startswith("UZ10 c1@h ")
        assert answer.startswith("LZ20 c1@h ")
        for_callee, for_caller = node.offer(offer), node.answer(answer)
        caller.sendto(rtp(1), (HOST, for_caller.port))
        assert [callee.recv(2048) for _ in range(2)] == [
            rtp(1)[:92],
            rtp(1)[:2] + (2).to_bytes(2) + (160 + 80).to_bytes(4) + rtp(1)[8:12] + rtp(1)[92:],
        ]
        callee.sendto(rtp(1), (HOST, for_callee.port))
        assert caller.recv(2048) == rtp(1)


def phone():
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((HOST, 0))
    opened.settimeout(DEADLINE_S)
    return opened


def test_capabilities_follow_what_is_there(node):
    """Nothing that works may be lost to scripts, and what does not work must not be promised."""
    assert node.capabilities >= {"REPACK", "AUTOBRIDGE", "STATS", "STATS_EXTRA", "NOTIFY_WILD", "RECORD", "SUBCOMMAND"}
    assert not node.capabilities & {"TTL_CHANGE", "NOTIFY"}


def test_command_repeated_before_its_reply_is_executed_once(start):
    """A relay that stands still for longer than a try: two datagrams wait for it, and the second is a repetition."""
    relay, _ = start("udp")
    transport = Udp(HOST, CONTROL_PORT)
    with Node(transport) as node, ThreadPoolExecutor(1) as background:
        relay.process.send_signal(signal.SIGSTOP)
        try:
            asked = background.submit(node.offer, "U c1@h 192.0.2.7 49170 ftag;1")
            wait_for(lambda: transport.sent == 2, DEADLINE_S, "the second try")
        finally:
            relay.process.send_signal(signal.SIGCONT)
        found = asked.result(DEADLINE_S)
        assert node.offer("U c1@h 192.0.2.7 49170 ftag;1") == found  # the second reply is in nobody's way
    assert relay.totals()["sessions created"] == 1


# The lines


@pytest.mark.parametrize(
    "line",
    [
        "U c2@h 192.0.2.7 49170 ftag;1",
        "U c2@h 192.0.2.7 49170 ftag;1 ttag;1",
        "Uc0,8 c2@h 192.0.2.7 49170 ftag;1",
        "UZ20c0,8 c2@h 192.0.2.7 49170 ftag;1 ttag;1",
        f"Ul{HOST} c2@h 192.0.2.7 49170 ftag;1",
        f"UR{HOST} c2@h 192.0.2.7 49170 ftag;1",
    ],
)
def test_offer(node, line):
    assert node.offer(line).host == HOST


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("U c2@h 192.0.2.7 49170 ftag;1 tcp:%%CC_SELF%%:22223 T3a1.5f", 75),
        ("UEIZ20c0,8 c2@h 192.0.2.7 49170 ftag;1 ttag;1 unix:/run/osips.sock T3a1.5f && M3:1 Dd3a1.5f 101", 11),
        ("Uc0,8 c2@h 192.0.2.7 49170 ftag;1 ttag;1 && M3:1 Dd3a1.5f 101", 3),
        ("Ut30 c2@h 192.0.2.7 49170 ftag;1", 35),
        ("Ul c2@h 192.0.2.7 49170 ftag;1", 15),
        ("U c2@h 192.0.2.700 49170 ftag;1", 37),
    ],
)
def test_offer_that_is_refused(node, line, number):
    """The call fails; the node stays in service, and nothing is left on it."""
    with pytest.raises(CallFailedError) as refused:
        node.offer(line)
    assert refused.value.number == number
    assert not node.is_disabled
    assert opensips.error_number(node.ask("D c2@h ftag")) == 50


@pytest.mark.parametrize(
    "line",
    [
        "L c1@h 198.51.100.9 30000 ftag;1 ttag;1",
        f"LR{HOST} c1@h 198.51.100.9 30000 ftag;1 ttag;1",
        "Lc0,101 c1@h 198.51.100.9 30000 ftag;1 ttag;1",
    ],
)
def test_answer(call, line):
    assert call.answer(line) == call.answer("L c1@h 198.51.100.9 30000 ftag;1 ttag;1")


@pytest.mark.parametrize(
    "line",
    [
        "Q c1@h ftag;1 ttag;1",
        "Q c1@h ftag;1 ttag;1 ttl npkts_ina npkts_ino nrelayed ndropped",
        "Q c1@h ftag;1 ttag;1 rtpa_nsent rtpa_nrcvd rtpa_ndups rtpa_nlost rtpa_perrs",
    ],
)
def test_statistics(call, line):
    assert opensips.integers(call.ask(line), 5)[1:] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("R c1@h ftag ttag", {b"E50\n"}),
        ("C c1@h dest ftag;1 ttag;1", {b"E65\n"}),
        ("N c1@h ftag;1 ttag;1", {b"E50\n"}),
        ("P3 c1@h /p/moh session ftag;1 ttag;1", {b"E35\n"}),
        ("P3 c1@h /p/moh 0 ftag;1 ttag;1", {b"E60\n"}),
        ("S c1@h ftag;1 ttag;1", {b"0\n"}),
    ],
)
def test_media_server_functions_are_refused_honestly(call, line, replies):
    """Unknown, or not possible, as recording without a directory; to stop what never started may also succeed."""
    assert call.ask(line) in replies
    call.execute("D c1@h ftag ttag")


@pytest.mark.parametrize(
    ("line", "name"), [("R c1@h ftag ttag", "c1@h=ftag.o"), ("C c1@h dest ftag;1 ttag;1", "dest")], ids=["R", "C"]
)
def test_recording(start, tmp_path, line, name):
    """rtpproxy_start_recording, and what SIPREC and media_exchange use."""
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    _, node = start("udp", "-r", str(recordings))
    with phone() as caller, phone() as callee:
        node.offer(f"U c1@h {HOST} {caller.getsockname()[1]} ftag;1")
        to_caller = node.answer(f"L c1@h {HOST} {callee.getsockname()[1]} ftag;1 ttag;1")
        assert node.ask(line) == b"0\n"
        caller.sendto(rtp(1), (to_caller.host, to_caller.port))
        assert callee.recv(2048) == rtp(1)
        assert node.ask("N c1@h ftag;1 ttag;1") == b"0\n"
        node.execute("D c1@h ftag ttag")
    file = recordings / f"{name}.rtp"
    wait_for(file.exists, DEADLINE_S, "the recording")
    assert [one.payload for one in read_adhoc(file.read_bytes())] == [rtp(1)]


def test_prompts(start, tmp_path):
    """rtpproxy_stream2uac and rtpproxy_stop_stream2uac, in a codec of the offer."""
    (tmp_path / "moh.8").write_bytes(bytes(range(240)))
    _, node = start("udp")
    assert "CODECS" in node.capabilities
    with phone() as caller, phone() as callee:
        node.offer(node.compose("U", "c1@h", caller.getsockname(), "ftag;1", codecs="18,8,101"))
        to_caller = node.answer(f"L c1@h {HOST} {callee.getsockname()[1]} ftag;1 ttag;1")
        node.execute(f"P3 c1@h {tmp_path}/moh session ftag;1 ttag;1")
        heard = [caller.recvfrom(2048) for _ in range(9)]
        assert b"".join(data[12:] for data, _ in heard) == bytes(range(240)) * 3
        assert {source for _, source in heard} == {(HOST, to_caller.port)}
        node.execute("S c1@h ftag;1 ttag;1")
        callee.sendto(rtp(1), (HOST, node.offer(f"U c1@h {HOST} {caller.getsockname()[1]} ftag;1").port))
        assert caller.recv(2048) == rtp(1)


def test_offer_with_notification(start):
    _, node = start("udp", "-n", "tcp:%%CC_SELF%%:22223", "-n", "unix:/run/osips.sock")
    assert {"NOTIFY", "NOTIFY_WILD"} <= node.capabilities
    node.offer("U c1@h 192.0.2.7 49170 ftag;1 tcp:%%CC_SELF%%:22223 T3a1.5f")
    node.offer("U c1@h 192.0.2.7 49170 ftag;1 ttag;1 unix:/run/osips.sock T3a1.5f")
    composed = node.compose("U", "c1@h", CALLER, TAGS, notify=("tcp:%%CC_SELF%%:22223", "T3a1.5f"))
    assert composed == "U c1@h 192.0.2.7 49170 ftag;1 ttag;1 tcp:%%CC_SELF%%:22223 T3a1.5f"
    node.offer(composed)


def test_offer_with_notification_of_a_socket_that_is_not_there(start):
    """It fails no call, and no node."""
    _, node = start("udp", "-n", "tcp:%%CC_SELF%%:22223")
    node.offer("U c1@h 192.0.2.7 49170 ftag;1 unix:/run/other.sock T3a1.5f")
    node.offer("U c2@h 192.0.2.7 49170 ftag;1 tcp:127.0.0.1:22223 T3a1.5f")


def test_timeout_is_notified(start):
    """A line with what the dialog was named, on one connection, from the address of the relay."""
    with socket.create_server((HOST, NOTIFY_PORT)) as listening:
        listening.settimeout(DEADLINE_S)
        _, node = start("udp", "-n", f"tcp:%%CC_SELF%%:{NOTIFY_PORT}", "-T", "1", "-W", "1")
        for number in (1, 2):
            node.offer(f"U c{number}@h 192.0.2.7 49170 ftag;1 tcp:%%CC_SELF%%:{NOTIFY_PORT} T3a1.{number}f")
        connection, source = listening.accept()
        with connection, connection.makefile("r") as lines:
            connection.settimeout(DEADLINE_S)
            told = {opensips.notified(lines.readline().removesuffix("\n")) for _ in range(2)}
    assert told == {("timeout", "3a1.1f"), ("timeout", "3a1.2f")}
    assert source[0] == HOST
    assert opensips.error_number(node.ask("D c1@h ftag")) == 50


def test_dtmf_is_notified(start):
    """By the exact line of 14.2, in bridge mode as there; the call is offered with a codec list."""
    target = f"tcp:%%CC_SELF%%:{NOTIFY_PORT}"
    with socket.create_server((HOST, NOTIFY_PORT)) as listening, phone() as caller, phone() as callee:
        listening.settimeout(DEADLINE_S)
        options = "-n", target, "--dso", "/usr/local/lib/rtpproxy/rtpp_catch_dtmf.so"
        _, node = start("udp", *options, listen=("-l", f"{HOST}/127.0.0.2", "--bridge_symmetric"))
        (host, port), (callee_host, callee_port) = caller.getsockname(), callee.getsockname()
        offer = f"UEIZ20c0,8 c2@h {host} {port} {TAGS} {target} T3a1.5f && M3:1 Dd3a1.5f 101"
        assert node.offer(offer) == node.offer(offer)
        to_caller = node.answer(f"LEI c2@h {callee_host} {callee_port} {TAGS} && M3:1 Dc2@h 101")
        for packet in pressed(8000, code=7):
            caller.sendto(packet, (to_caller.host, to_caller.port))
            assert callee.recv(2048) == packet
        connection, source = listening.accept()
        with connection, connection.makefile("r") as lines:
            connection.settimeout(DEADLINE_S)
            assert opensips.notified(lines.readline().removesuffix("\n")) == ("dtmf", "d3a1.5f 7 10 800 0")
    assert source[0] == HOST


def test_bridging_letters(start):
    """As its engage function composes them, both ways round; then the line of 14.2 with a module that is not there."""
    _, node = start("udp", listen=("-l", f"{HOST}/127.0.0.2"))
    for letters, to_callee, to_caller in (("EI", HOST, "127.0.0.2"), ("IE", "127.0.0.2", HOST)):
        offer = node.compose("U", f"{letters}@h", CALLER, "ftag;1", flags=letters, codecs="0,8", repacketize_ms=20)
        assert node.offer(offer).host == to_callee
        assert node.answer(f"L{letters} {letters}@h 198.51.100.9 30000 {TAGS}").host == to_caller
    with pytest.raises(CallFailedError) as refused:
        node.offer(f"UEIc0,8 c2@h 192.0.2.7 49170 {TAGS} && M3:1 Dd3a1.5f 101")
    assert refused.value.number == 3
    assert node.offer("UEI6 c3@h 2001:db8::7 49170 ftag;1").host == HOST


def test_autobridge(node):
    """`R` and the next hop: media leaves where the route to it does."""
    offer = node.compose("U", "c1@h", CALLER, "ftag;1", next_hop="127.0.0.9")
    assert offer == "UR127.0.0.9 c1@h 192.0.2.7 49170 ftag;1"
    assert node.offer(offer).host == HOST


def test_sub_commands(node):
    """It reads the port in front of the results of a reply."""
    assert "SUBCOMMAND" in node.capabilities
    found = node.offer(f"U c1@h 192.0.2.7 49170 {TAGS} && S ttl=30 && L 198.51.100.9 30000")
    reply = node.ask(f"U c1@h 192.0.2.7 49170 {TAGS} && S ttl=30 && L 198.51.100.9 30000")
    assert reply.startswith(f"{found.port} {HOST} && 0 && ".encode())
    assert node.answer(f"L c1@h 198.51.100.9 30000 {TAGS}") == opensips.media(reply.split(b" && ")[-1])


# Consequences (14.5)


def test_no_line_feed_is_needed_on_unix_and_one_is_always_sent(start):
    relay, _ = start()
    for command in ("V", "VF 20050322", "U c1@h 192.0.2.7 49170 ftag;1", "Q c1@h ftag;1", "D c1@h ftag", "Zz"):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE_S)
            client.connect(str(relay.socket_path))
            client.sendall(command.encode())
            opensips.checked(client.recv(4096))
            assert client.recv(1) == b""


def test_replies_are_short(call):
    """The longest that a query can get, with the figures of a call of many packets still in its favour."""
    names = [name for group in opensips.STATISTICS for name in group]
    reply = call.ask(f"Qv c1@h {TAGS} {' '.join(names)}")
    assert len(reply) + 10 * len(names) < opensips.MAX_REPLY_BYTES


@pytest.mark.parametrize("modifiers", ["S", "SS", "s", "AS", "sS", "w", "WS", "C0,8"])
def test_letters_in_any_number_and_case(call, modifiers):
    found = call.offer(f"U{modifiers} c2@h 192.0.2.7 49170 ftag;1")
    assert call.offer(f"U{modifiers} c2@h 192.0.2.7 49170 ftag;1 ttag;1") == found
    call.answer(f"L{modifiers} c2@h 198.51.100.9 30000 {TAGS}")


def test_family_letters_in_any_number(start):
    """Kamailio repeats `6` for every IPv6 media line."""
    _, node = start("udp", listen=("-6", "::1"))
    for modifiers in ("6", "66", "6S6"):
        expected = Media(node.offer(f"U{modifiers} c{modifiers}@h 2001:db8::7 49170 ftag;1").port, "::1", True)
        assert node.offer(f"U{modifiers} c{modifiers}@h 2001:db8::7 49170 ftag;1") == expected


def test_no_well_formed_offer_takes_the_node_out_of_service(node):
    """Every combination of what a script may ask for, whether or not the relay can do it."""
    parts = (("", "A"), ("", "I", "E", "IE"), ("", "6", "66"), ("", "S"), ("", "Z20"), ("", "c0,8"), ("", "R127.0.0.9"))
    targets = ("", " ttag;1", " tcp:%%CC_SELF%%:22223 T3a1.5f", " ttag;1 /run/osips.sock T3%20a")
    refused = set()
    for count, modifiers in enumerate(itertools.product(*parts)):
        line = f"U{''.join(modifiers)} c{count}@h 192.0.2.7 49170 ftag;1{targets[count % len(targets)]}"
        try:
            node.offer(line)
        except CallFailedError as error:
            refused.add(error.number)
    assert not node.is_disabled
    assert refused & {11, 12}  # without bridge mode


def test_calls_that_do_not_fit_take_nobody_out_of_service(start):
    """No ports: the call fails, and the next one has its chance."""
    _, node = start("udp", "-m", "25000", "-M", "25004")
    node.offer("U c1@h 192.0.2.7 49170 ftag;1")
    node.answer(f"L c1@h 198.51.100.9 30000 {TAGS}")
    with pytest.raises(CallFailedError) as refused:
        node.offer("U c2@h 192.0.2.7 49170 ftag;1")
    assert refused.value.number == 72
    node.execute("D c1@h ftag ttag")
    node.offer("U c2@h 192.0.2.7 49170 ftag;1")
    node.offer("U c3@h 192.0.2.7 49170 ftag;1")
    with pytest.raises(CallFailedError) as refused:
        node.answer(f"L c2@h 198.51.100.9 30000 {TAGS}")
    assert refused.value.number == 71


def test_deletion_needs_no_media_numbers(start):
    relay, node = start("unix")
    for number in (1, 2, 3):
        node.offer(f"U c1@h 192.0.2.7 49170 ftag;{number}")
        node.answer(f"L c1@h 198.51.100.9 30000 ftag;{number} ttag;{number}")
    assert relay.totals()["active sessions"] == 3
    node.execute("D c1@h ftag ttag")
    assert relay.totals()["active sessions"] == 0
    node.offer("U c2@h 192.0.2.7 49170 ftag;1")
    node.execute("D c2@h ftag")  # a call that nobody answered


def test_only_the_totals_have_several_lines(start):
    relay, _ = start("udp")
    assert [len(relay.ask(command).splitlines()) for command in ("I", "Ib", "Il")] == [5, 5, 6]
