"""The installed relay as Sippy B2BUA's own client sees it (protocol.md 14.3), and as rtp_cluster needs it (14.4).

The client runs in a process of its own, tests/clients/sippy_client.py.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.recording.packets import read_adhoc
from tests.running import RunningRelay, own_namespace, rtp
from tests.waiting import DEADLINE_S, wait_for

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
BOUND = ("--ports", "bound", "--offload", "off", "-F", "-m", "24000", "-M", "24999")
"""Starts sooner, and needs no privilege."""
PROBES = ["V", *(f"VF {date}" for date in ("20071218", "20080403", "20081224", "20090810", "20150617", "20250523"))]
TRANSPORTS = {
    "unix": "unix:{directory}/control",
    "cunix": "cunix:{directory}/control",
    "udp": f"udp:127.0.0.1:{free_port('127.0.0.1')}",
    "tcp": f"tcp:127.0.0.1:{free_port('127.0.0.1', socket.SOCK_STREAM)}",
    "udp6": f"udp6:::1:{free_port('::1')}",
    "tcp6": f"tcp6:::1:{free_port('::1', socket.SOCK_STREAM)}",
}


@pytest.fixture(autouse=True)
def namespace():
    """As root, a network namespace of the test."""
    with own_namespace() if os.geteuid() == 0 else contextlib.nullcontext():
        yield


@pytest.fixture
def start(tmp_path):
    """Starts a relay and a client of it, that is on-line when this returns; ends both with the test."""
    with contextlib.ExitStack() as stack:

        def start(transport="cunix", *options, listen=HOST, **of_client):
            spec = TRANSPORTS[transport].format(directory=tmp_path)
            addresses = ("-l", listen) if listen else ()
            relay = stack.enter_context(RunningRelay(tmp_path, *BOUND, *addresses, "-s", spec, *options))
            client = stack.enter_context(Sippy(tmp_path, client_spec(spec), **of_client))
            client.wait_online()
            return relay, client

        yield start


def client_spec(spec):
    """How Sippy writes the address of a relay: IPv6 hosts in brackets."""
    return re.sub(r"^(\w+6):(.*):(\d+)$", r"\1:[\2]:\3", spec)


@pytest.fixture
def phones():
    """The caller's socket and the callee's."""
    with Phone() as caller, Phone() as callee:
        yield caller, callee


class Phone:
    """A party's RTP socket."""

    def __init__(self, host=HOST):
        self._host = host
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.settimeout(DEADLINE_S)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    @property
    def port(self):
        return self._socket.getsockname()[1]

    @property
    def sdp(self):
        """Its offer or answer: one audio stream."""
        return describe(self._host, self.port)

    def send(self, data, media):
        self._socket.sendto(data, media)

    def receive(self):
        data, source = self._socket.recvfrom(2048)
        return data, source[:2]


def describe(host, *ports):
    """A session description with so many media, the first of which is audio."""
    family = "IP6" if ":" in host else "IP4"
    lines = ["v=0", f"o=- 7 7 IN {family} {host}", "s=-", f"c=IN {family} {host}", "t=0 0"]
    kinds = ("audio", "video", "audio")
    lines += [f"m={kind} {port} RTP/AVP 0 8" for kind, port in zip(kinds, ports, strict=False)]
    return "".join(f"{line}\r\n" for line in [*lines, "a=sendrecv"])


class Sippy:
    """The client's process."""

    def __init__(self, directory, relay, **options):
        """`options` are the program's: `listen_path`, `listen_port`, `notify_socket`."""
        self._errors = directory / "sippy.err"
        self._arguments = [sys.executable, "-m", "tests.clients.sippy_client", relay]
        for name, value in options.items():
            self._arguments += [f"--{name.replace('_', '-')}", str(value)]
        self._number = 0
        self._replies = {}

    def __enter__(self):
        self._socket, of_client = socket.socketpair()
        with of_client, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                self._arguments, stdin=of_client, stdout=of_client, stderr=errors, cwd=ROOT
            )
        self._socket.settimeout(DEADLINE_S)
        self._lines = self._socket.makefile("r")
        return self

    def __exit__(self, kind, *_):
        """End of input ends the client; that it complained of nothing is part of every test."""
        self._socket.shutdown(socket.SHUT_WR)
        try:
            status = self._process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._lines.close()
        self._socket.close()
        if kind is None:
            assert (self.errors, status) == ("", 0)

    @property
    def errors(self):
        return self._errors.read_text()

    def post(self, do, /, **arguments):
        """Ask for something; its number, to take the reply by."""
        self._number += 1
        request = {"id": self._number, "do": do, **arguments}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return self._number

    def reply(self, number):
        """The reply to what was posted."""
        while number not in self._replies:
            try:
                line = self._lines.readline()
            except TimeoutError:
                line = ""
            assert line, f"no reply from the client: {self.errors}"
            answer = json.loads(line)
            self._replies[answer["id"]] = answer["reply"]
        return self._replies.pop(number)

    def do(self, do, /, **arguments):
        return self.reply(self.post(do, **arguments))

    def wait_online(self):
        return wait_for(lambda: (state := self.do("state"))["online"] and state, DEADLINE_S, "Sippy to be on-line")

    def wait_totals(self, **expected):
        """Wait for a heartbeat with these figures."""
        names = ("created", "active", "streams", "received", "transmitted")

        def compare():
            totals = dict(zip(names, self.do("state")["totals"], strict=True))
            return {name: totals[name] for name in expected} == expected

        wait_for(compare, DEADLINE_S, f"a heartbeat with {expected}")

    def sdp(self, call, side, sdp):
        """Pass a session description through the relay; the media addresses in it after that, one per media."""
        return media_of(self.do("sdp", call=call, side=side, sdp=sdp))

    def sdp_of_many(self, side, count):
        """Likewise of one side of the calls c0, c1 and so on, all at once."""
        posted = [
            self.post("sdp", call=f"c{number}", side=side, sdp=describe(HOST, 30000 + 2 * number))
            for number in range(count)
        ]
        return {media_of(self.reply(number))[0] for number in posted}

    def error(self, call, side, sdp):
        """Likewise, when that must fail; the client's words."""
        reply = self.do("sdp", call=call, side=side, sdp=sdp)
        assert reply.keys() == {"error"}, reply
        return reply["error"]

    def call(self, name, caller, callee):
        """Offer and answer; where the caller and the callee send to."""
        self.do("open", call=name)
        [for_callee] = self.sdp(name, "caller", caller.sdp)
        [for_caller] = self.sdp(name, "callee", callee.sdp)
        return for_caller, for_callee


def media_of(reply):
    assert reply.keys() == {"sdp"}, reply
    hosts = re.findall(r"^c=IN IP[46] (\S+)\r$", reply["sdp"], re.MULTILINE)
    ports = re.findall(r"^m=\w+ (\d+) ", reply["sdp"], re.MULTILINE)
    hosts *= len(ports) if len(hosts) == 1 else 1
    return [(host, int(port)) for host, port in zip(hosts, ports, strict=True)]


def talk(caller, callee, for_caller, for_callee, count=5):
    """Packets both ways, each awaited, and from the address that the other end was told."""
    for sequence in range(count):
        caller.send(rtp(sequence, ssrc=1), for_caller)
        assert callee.receive() == (rtp(sequence, ssrc=1), for_callee)
        callee.send(rtp(sequence, ssrc=2), for_callee)
        assert caller.receive() == (rtp(sequence, ssrc=2), for_caller)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_call(start, phones, transport):
    """From the first probe to the end of a call, with media that the client's statistics count."""
    caller, callee = phones
    relay, client = start(transport)
    assert "20080403" in client.do("state")["capable"]
    assert client.do("sent") == PROBES

    for_caller, for_callee = client.call("c", caller, callee)
    assert {host for host, _ in (for_caller, for_callee)} == {HOST}
    of_caller, of_callee = (int(re.search(r"m=audio (\d+)", phone.sdp)[1]) for phone in phones)
    assert client.do("sent") == [f"U c-0 {HOST} {of_caller} cf", f"U c-0 {HOST} {of_callee} ct cf"]
    talk(caller, callee, for_caller, for_callee)

    ttl, *counters = client.do("stats", call="c")
    assert 0 < ttl <= 60
    assert counters == [5, 5, 10, 0]
    client.wait_totals(created=1, active=1, streams=2, received=10, transmitted=10)
    client.do("delete", call="c")
    client.wait_totals(created=1, active=0, streams=0, received=10, transmitted=10)
    assert client.do("sent") == ["Q c-0 cf ct", "D c-0 cf ct"]
    assert "ERR:" not in relay.log


def test_without_a_listen_address_the_relay_is_where_its_control_socket_is(start, phones):
    _, client = start("udp", "--media-allow", "127.0.0.0/8", listen=None)
    for_caller, for_callee = client.call("c", *phones)
    talk(*phones, for_caller, for_callee)


def test_every_media_of_a_call_is_a_session(start):
    _, client = start()
    client.do("open", call="c")
    for_callee = client.sdp("c", "caller", describe(HOST, 40000, 40002, 40004))
    for_caller = client.sdp("c", "callee", describe(HOST, 50000, 50002, 50004))
    assert len({*for_callee, *for_caller}) == 6
    client.wait_totals(active=3, streams=6)
    client.do("delete", call="c")
    client.wait_totals(active=0)
    assert client.do("sent")[-3:] == [f"D c-{index} cf ct" for index in (2, 1, 0)]


def test_hold_and_resume_keep_the_ports(start, phones):
    caller, callee = phones
    _, client = start()
    for_caller, for_callee = client.call("c", caller, callee)
    held = client.do("sdp", call="c", side="caller", sdp=describe("0.0.0.0", 40000))
    assert media_of(held) == [for_callee]
    assert "a=sendonly" in held["sdp"]
    assert client.sdp("c", "caller", caller.sdp) == [for_callee]
    assert client.sdp("c", "callee", callee.sdp) == [for_caller]
    talk(caller, callee, for_caller, for_callee)


def test_refusals_fail_what_was_asked_and_nothing_else(start, phones):
    _, client = start()
    client.do("open", call="bad")
    assert client.error("bad", "caller", describe("192.0.2.300", 40000)).endswith(" E37")
    for_caller, for_callee = client.call("c", *phones)
    assert client.do("stats", call="c", index=1) is None  # E50
    assert client.do("command", text="D c-7 cf ct") == "E50"
    talk(*phones, for_caller, for_callee)


def test_recording_and_copying(start, phones, tmp_path):
    """The caller's side: to a file of its own name, to one of a given name, and to another host."""
    caller, callee = phones
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    _, client = start("cunix", "-r", str(recordings))
    assert {"20071218", "20250523"} <= set(client.do("state")["capable"])
    client.do("sent")
    for name in ("c", "d"):
        for_caller, for_callee = client.call(name, caller, callee)
        client.do("sent")
        assert client.do("record", call=name, name="name" if name == "d" else None) == "0"
        talk(caller, callee, for_caller, for_callee)
        client.do("delete", call=name)
        command, _ = client.do("sent")
        file = recordings / {"R c-0": "c-0=cf.o.rtp", "C d-0": "name.a.rtp"}[command[:5]]
        wait_for(file.exists, DEADLINE_S, "the recording")
        assert [one.payload for one in read_adhoc(file.read_bytes())] == [rtp(n, ssrc=1) for n in range(5)]
    with Phone() as recorder:
        for_caller, for_callee = client.call("e", caller, callee)
        assert client.do("copy", call="e", port=recorder.port) == "0"
        talk(caller, callee, for_caller, for_callee)
        assert [recorder.receive()[0] for _ in range(5)] == [rtp(number, ssrc=1) for number in range(5)]


def test_prompts(start, phones, tmp_path):
    """To the caller, who hears nothing of the callee meanwhile."""
    (tmp_path / "prompt.0").write_bytes(bytes(range(80)))
    caller, callee = phones
    _, client = start()
    for_caller, for_callee = client.call("c", caller, callee)
    talk(caller, callee, for_caller, for_callee)
    client.do("sent")
    assert client.do("play", call="c", prompt=str(tmp_path / "prompt")) == "0"
    data, source = caller.receive()
    assert (data[12:], source) == (bytes(range(80)), for_caller)
    assert client.do("stop_play", call="c") == "0"
    assert client.do("sent") == [f"P-1 c-0 {tmp_path}/prompt 0,8 cf ct", "S c-0 cf ct"]


def test_media_server_functions_are_refused_honestly(start, phones):
    """Without a directory for recordings, and of a prompt that there is not."""
    _, client = start()
    for_caller, for_callee = client.call("c", *phones)
    assert client.do("record", call="c") == "E50"
    assert client.do("record", call="c", name="name") == "E65"
    assert client.do("play", call="c", prompt="/nowhere/prompt") == "E60"
    assert client.do("stop_play", call="c") == "0"
    talk(*phones, for_caller, for_callee)


def test_webrtc_call_is_refused_while_there_is_no_module_for_it(start):
    _, client = start()
    client.do("open", call="c", is_webrtc=True)
    assert client.error("c", "callee", describe(HOST, 40000)).endswith(" E3")
    assert " && M4:1 S" in client.do("sent")[-1]
    client.wait_totals(created=0)


@pytest.mark.parametrize("transport", ["unix", "cunix", "udp"])
def test_many_calls_at_once_get_each_their_own_ports(start, transport):
    count = 100
    _, client = start(transport)
    for number in range(count):
        client.post("open", call=f"c{number}")
    told = client.sdp_of_many("caller", count) | client.sdp_of_many("callee", count)
    assert len(told) == 2 * count
    client.wait_totals(created=count, active=count)
    for number in range(count):
        assert client.do("stats", call=f"c{number}")[1:] == [0, 0, 0, 0]
        client.do("delete", call=f"c{number}")
    client.wait_totals(active=0)


def test_replies_that_are_lost_do_not_repeat_what_was_done(start):
    """The client asks again with the same cookie: a call is made once, and a deletion does not fail the second time."""
    count = 30
    relay, client = start("udp")
    for _ in range(100):  # from the delays it measures it learns how soon to ask again, and then how often
        client.do("command", text="V")
    client.do("lose", incoming=0.2)
    for number in range(count):
        client.post("open", call=f"c{number}")
    assert len(client.sdp_of_many("caller", count)) == count
    deletions = [client.post("command", text=f"D c{number}-0 c{number}f c{number}t") for number in range(count)]
    assert [client.reply(deletion) for deletion in deletions] == ["0"] * count
    assert client.do("state")["repeated"] > 0
    totals = relay.totals()
    assert (totals["sessions created"], totals["active sessions"]) == (count, 0)


def test_relay_that_returns_is_used_again(start, phones):
    relay, client = start("unix")
    client.call("before", *phones)
    relay.kill()
    wait_for(lambda: not client.do("state")["online"], DEADLINE_S, "Sippy to be off-line")
    relay.start()
    client.wait_online()
    assert client.do("stats", call="before") is None
    for_caller, for_callee = client.call("after", *phones)
    talk(*phones, for_caller, for_callee)
    client.wait_totals(created=1, active=1)


def test_answer_to_a_call_that_the_relay_forgot_makes_it_anew(start):
    _, client = start()
    client.do("open", call="c")
    client.sdp("c", "caller", describe(HOST, 40000))
    assert client.do("command", text="X") == "0"
    [(host, _)] = client.sdp("c", "callee", describe(HOST, 50000))
    assert host == HOST
    client.wait_totals(created=2, active=1)


def test_next_hop_and_local_address_choose_where_media_goes(start):
    _, client = start("unix")
    client.do("open", call="c")
    client.do("set", call="c", side="caller", raddress=["127.0.0.9", 5060])
    client.do("set", call="c", side="callee", laddress="127.0.0.2")
    [(to_callee, _)] = client.sdp("c", "caller", describe(HOST, 40000))
    assert to_callee == HOST  # what a route to 127.0.0.9 leaves from
    [(to_caller, _)] = client.sdp("c", "callee", describe(HOST, 50000))
    offer, answer = client.do("sent")[-2:]
    assert offer == f"UR127.0.0.9 c-0 {HOST} 40000 cf"
    assert answer == f"UL127.0.0.2 c-0 {HOST} 50000 ct cf"
    assert to_caller == "127.0.0.2"


def test_new_port(start, phones):
    caller, callee = phones
    _, client = start()
    for_caller, for_callee = client.call("c", caller, callee)
    client.do("set", call="c", side="callee", needs_new_port=True)
    [moved] = client.sdp("c", "caller", caller.sdp)
    assert client.do("sent")[-1].startswith("UN c-0 ")
    assert moved != for_callee
    talk(caller, callee, for_caller, moved)
    assert client.sdp("c", "caller", caller.sdp) == [moved]


def test_media_over_ipv6(start):
    """The B2BUA passes on what the SDP says; `c=` follows the family of the reply."""
    _, client = start("cunix", "-6", "::1", listen=None)
    with Phone("::1") as caller, Phone("::1") as callee:
        for_caller, for_callee = client.call("c", caller, callee)
        assert client.do("sent")[-2].startswith("U6 c-0 ::1 ")
        assert (for_caller[0], for_callee[0]) == ("::1", "::1")
        talk(caller, callee, for_caller, for_callee)


NOTIFY_PORT = free_port("127.0.0.1", socket.SOCK_STREAM)
NOTIFY = {
    "tcp": (f"tcp:127.0.0.1:{NOTIFY_PORT}", f"tcp:127.0.0.1:{NOTIFY_PORT}", {"listen_port": NOTIFY_PORT}),
    "tcp-wildcard": (
        f"tcp:%%CC_SELF%%:{NOTIFY_PORT}",
        f"tcp:%%CC_SELF%%:{NOTIFY_PORT}",
        {"listen_port": NOTIFY_PORT},
    ),
    "unix": ("unix:{directory}/b2bua", "{directory}/b2bua", {"listen_path": "{directory}/b2bua"}),
}
"""`-n` of the relay, the name of the socket in commands, and where the client listens."""


@pytest.mark.parametrize("kind", NOTIFY)
def test_timeout_is_notified(start, tmp_path, kind):
    """Both media of a call time out; a call that ends before does not."""
    target, notify_socket, listen = NOTIFY[kind]
    listen = {
        name: value.format(directory=tmp_path) if isinstance(value, str) else value for name, value in listen.items()
    }
    target, notify_socket = (text.format(directory=tmp_path) for text in (target, notify_socket))
    relay, client = start("udp", "-n", target, notify_socket=notify_socket, **listen)
    assert "20081224" in client.do("state")["capable"]
    for call, number in (("c", 17), ("ended", 18)):
        client.do("open", call=call, number=number)
        client.sdp(call, "caller", describe(HOST, 40000, 40002))
        client.sdp(call, "callee", describe(HOST, 50000, 50002))
    assert client.do("sent")[-8] == f"U c-0 {HOST} 40000 cf {notify_socket} r%2017"
    assert "ERR:" not in relay.log
    client.do("delete", call="ended")
    client.wait_totals(active=2)
    for media in (0, 1):
        assert not relay.ask(f"Q c-{media} cf ct && S ttl=1").startswith("E")
    wait_for(lambda: len(client.do("notified")) == 2, DEADLINE_S, "two notifications")
    assert sorted(client.do("notified")) == ["r 17", "r 17 1"]
    client.wait_totals(active=0)
    client.do("timed_out", call="c", index=1)
    assert client.do("sent")[-1] == "D c-0 cf ct"
    assert sorted(client.do("notified")) == ["r 17", "r 17 1"]


def test_cluster_adds_the_totals_of_its_members(start):
    """rtp_cluster asks by `G` for two names, and takes what the heartbeats say of the active calls."""
    _, client = start("udp")
    client.do("open", call="c")
    client.sdp("c", "caller", describe(HOST, 40000))
    client.wait_totals(created=1, active=1)
    assert client.do("add_totals", names="nsess_created total_duration") == "1 0.0"
    client.do("delete", call="c")
    client.wait_totals(created=1, active=0)
    created, duration = client.do("add_totals", names="nsess_created total_duration").split()
    assert created == "1"
    assert 0 < float(duration) < DEADLINE_S


def test_cluster_looks_up_a_call_that_it_does_not_know(start):
    """After a restart it sends `L` with the tags exchanged in place of `U`, to each member; one answers with a port."""
    _, client = start("udp")
    client.do("open", call="c")
    client.sdp("c", "caller", describe(HOST, 40000))
    [(host, port)] = client.sdp("c", "callee", describe(HOST, 50000))
    update = f"UR{HOST} c-0 {HOST} 50000 ct cf tcp:{HOST}:1 tag"
    assert client.do("forced_lookup", text=update) == f"{port} {host}"
    assert client.do("sent")[-1] == f"LR{HOST} c-0 {HOST} 50000 cf ct"
    assert client.do("forced_lookup", text=update.replace("c-0", "other-0")) == "0"
    client.wait_totals(created=1, active=1)
