"""10,000 random commands of all kinds, at a real relay and at a model of it; at the end the relay holds nothing.

Packets come to open ports all the while, and other programs take ports. Nothing here depends on time: sessions end by
commands, and the last ones by a timeout that a command sets.
"""

import collections
import contextlib
import itertools
import os
import re
import socket
import struct
import sys
import time
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from tests.hostile import census
from tests.hostile.commands import Address, World
from tests.hostile.soaking import MediaGenerator, MediaModel
from tests.netns import Topology
from tests.netns_call.call import BOUND, KERNEL, ip, rtcp
from tests.outbound.listeners import Controller
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

SEED = int(os.environ.get("SEED", "1"))
"""`SEED=` repeats a failed run, except for the packets that came between."""
COMMANDS = 10_000
WARMING = 500
"""Commands before the first census, so that whatever is made once is there."""
PAIRS = 6
PORTS = range(20000, 20000 + 2 * PAIRS, 2)
IDLE_S, TIMEOUTS_S = 10_000, (5_000, 20_000)
PHONE_PORTS = (4000, 4001)
PROMPT_BYTES = 2000
"""A quarter of a second."""
HOST_IPV6, PHONE_IPV6 = "2001:db8::1", "2001:db8::2"
EXTRA = ("10.9.0.8", "10.9.0.9")
OWN = "10.9.0.7"
"""An address that no random command names."""
KEPT = (
    *("rtpproxy.recording.directories.Made", "rtpproxy.recording.directories.Identity"),  # of the files made last
    "rtpproxy.media.sending._Sender",  # a raw socket for each of our addresses and each TOS byte
    "rtpproxy.session.reach._Rules",  # for each host that commands and packets name, up to 10,000
)
"""What is made as it is needed, and stays."""
CENSUS = str(Path(census.__file__))
MEMORY = Path("/dev/shm")

pytestmark = [pytest.mark.root, pytest.mark.seeded]


@pytest.fixture
def topology():
    with Topology(ipv6=True) as topology:
        for extra in (*EXTRA, OWN):
            ip(topology.relay, f"addr add {extra}/32 dev lo")
        ip(topology.relay, f"-6 addr add {HOST_IPV6}/64 dev to-callee nodad")
        ip(topology.callee, f"-6 addr add {PHONE_IPV6}/64 dev {topology.callee.ifname} nodad")
        yield topology


@pytest.fixture
def recordings():
    """A directory for recordings and one for those that have not ended, in memory where that is possible."""
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as place:
        for name in ("recordings", "spool"):
            Path(place, name).mkdir()
        yield Path(place)


class Soak:
    """A relay, its model, phones that send to its ports, and another program that takes some."""

    def __init__(self, relay, topology, controller: Controller, rng: Random):
        """`controller` is told of timeouts."""
        told = controller.listening.getsockname()
        self.relay = relay
        self.history = collections.deque(maxlen=60)
        self.world = World(
            [
                Address(topology.caller.gateway.ip),
                Address(topology.callee.gateway.ip, "two", shown="relay.example", space=1),
                Address(HOST_IPV6, "six", is_ipv6=True, space=2),
            ],
            notify=(f"unix:{told}", told),
            routes={phone.ip: phone.gateway.ip for phone in (topology.caller, topology.callee)},
            extra=EXTRA,
            foreign=("10.9.9.9", "2001:db8::9999"),
        )
        self.model = MediaModel(self.world, PORTS, idle_s=IDLE_S)
        self._rng = rng
        self._generator = MediaGenerator(rng, self.world, (topology.callee.ip, PHONE_IPV6), TIMEOUTS_S)
        self._controller, self._told = controller, None
        self._host = topology.relay
        self._net = Path(f"/proc/{relay.process.pid}/net")
        self._client = self._host.socket()
        self._client.settimeout(DEADLINE_S)
        self._client.connect(("127.0.0.1", 22222))
        self._cookies = itertools.count()
        self._taken: dict[tuple[int, int], list[socket.socket]] = {}
        """Sockets of the other program, by space and RTP port."""
        self._phones = [
            _bound(phone, address, port)
            for phone, address in (
                *((topology.caller, topology.caller.ip), (topology.callee, topology.callee.ip)),
                (topology.callee, PHONE_IPV6),
            )
            for port in PHONE_PORTS
        ]

    def close(self):
        for one in (self._client, *self._phones, *itertools.chain(*self._taken.values())):
            one.close()

    def ask(self, text):
        """Ask over UDP, so that any text is one command."""
        cookie = b"%d " % next(self._cookies)
        self._client.send(cookie + text.encode())
        reply = self._client.recv(65536)
        assert reply.startswith(cookie)
        assert reply.endswith(b"\n")
        return reply[len(cookie) : -1].decode()

    def warm_up(self):
        """Do everything once."""
        for host in EXTRA:
            assert self.ask(f"Ul{host} warm 10.0.1.2 4000 f").endswith(f" {host}")
            assert self.world.join(self.world.at(host)) is not None
            assert self.ask("D warm f") == "0"
        self.run(WARMING)
        self.end_by_timeout()

    def run(self, commands):
        """Give random commands, each to both."""
        for _ in range(commands):
            self.give(self._generator.next())
            for _ in range(self._rng.choice((0, 0, 0, 1, 2, 3))):
                self._send_packet()
            if not self._rng.randrange(50):
                self._occupy()

    def give(self, command):
        self.model.bound = self._bound_pairs()
        now = time.monotonic()
        reply = self.ask(command.text)
        self.history.append(f"{command.text!r} -> {reply!r}")
        self.model.check(command, reply, now)
        if self.model.unknown is not None:
            reply = self.ask("Cp" + command.text[command.text.index(" ") :])
            self.history.append(f"the same with p -> {reply!r}")
            self.model.tell(reply)

    def _send_packet(self):
        """RTP and RTCP, from where commands say that phones are, to any port of a session, or to another one."""
        phone = self._rng.choice(self._phones)
        is_ipv6 = phone.family == socket.AF_INET6
        held = sorted(self.model.held) or [(0, PORTS[0])]
        space, port = self._rng.choice(held)
        local = self.world.known[space]
        if local.is_ipv6 == is_ipv6:
            is_rtcp = phone.getsockname()[1] % 2
            number = self._rng.randrange(1000)
            with contextlib.suppress(ConnectionRefusedError):
                phone.sendto(rtcp(number) if is_rtcp else rtp(number), (local.host, port + is_rtcp))

    def _occupy(self):
        """Another program takes a pair that nobody has, or gives it back."""
        pair = self._rng.randrange(len(self.world.known[:3])), self._rng.choice(PORTS)
        if pair in self._taken:
            for taken in self._taken.pop(pair):
                taken.close()
            self.model.busy.remove(pair)
        elif pair not in self.model.held | self._bound_pairs():
            space, port = pair
            port += self._rng.getrandbits(1)
            hosts = [local.host for local in self.world.known if local.space == space]
            self._taken[pair] = [_bound(self._host, host, port) for host in hosts]
            self.model.busy.add(pair)

    def take_all_ports(self):
        """Every pair of every address is there for sessions again, and no more."""
        self.free_ports()
        for local in self.world.known[:3]:
            words = f"{'6' if local.is_ipv6 else ''}l{f'[{local.host}]' if local.is_ipv6 else local.host}"
            remote = f"{PHONE_IPV6 if local.is_ipv6 else '10.0.1.2'} 4000"
            ports = {self.ask(f"U{words} last-{local.space}-{number} {remote} f").split()[0] for number in PORTS}
            assert ports == {str(port) for port in PORTS}
            assert self.ask(f"U{words} last-{local.space} {remote} f") == "E72"
        assert self.ask("X") == "0"

    def _bound_pairs(self):
        """Space and RTP port of pairs of which a socket has one."""
        pairs = set()
        for name, family, size in (("udp", socket.AF_INET, 4), ("udp6", socket.AF_INET6, 16)):
            for line in self._net.joinpath(name).read_text().splitlines()[1:]:
                address, _, port = line.split()[1].partition(":")
                packed = struct.pack(f"={size // 4}I", *(int(word, 16) for word in re.findall("." * 8, address)))
                if int(port, 16) & ~1 in PORTS:
                    pairs.add((self.world.at(socket.inet_ntop(family, packed)).space, int(port, 16) & ~1))
        return pairs

    def free_ports(self):
        """The other program ends."""
        for taken in itertools.chain(*self._taken.values()):
            taken.close()
        self._taken.clear()
        self.model.busy.clear()

    def end_by_timeout(self):
        """Let all sessions that are left end by a timeout, and look if that is told where a command asked for it."""
        self.free_ports()
        assert self.ask(f"Ul{OWN} own 10.0.1.2 4000 f {self.world.notify[0]} own && S ttl=1").endswith(f" {OWN}")
        for session in self.model.sessions:
            # What is played keeps a session alive.
            for tags in (session.from_tag, f"nobody {session.from_tag}"):
                assert self.ask(f"S {session.call} {tags}") == "0"
            self.ask(f"Q {session.call} {session.from_tag} && S ttl=1 && Sr ttl=1")
        self.settle()
        tags = ["own", *(session.notify[1] for session in self.model.sessions if session.notify)]
        self.model.sessions.clear()
        if self._told is None:
            self._told = self._controller.accept()
        assert sorted(self._told.lines(len(tags))) == sorted(f"{tag}\n".encode() for tag in tags)

    def settle(self):
        """Wait until nothing is going on: sessions, recordings, copies, prompts."""

        def is_idle():
            lines = dict(line.rsplit(": ", 1) for line in self.ask("It").splitlines())
            names = ("active sessions", "recording files_open", "recording copies_open")
            made, ended = self.ask("G nplrs_created nplrs_destroyed").split()
            busy = [name for name in lines if name in names or name.startswith("streams by")]
            return made == ended and not any(int(lines[name]) for name in busy)

        wait_for(is_idle, DEADLINE_S, "everything to end")


def _bound(host, address, port):
    opened = host.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    opened.bind((address, port))
    opened.setblocking(False)
    return opened


class Holdings:
    """What a relay's process holds: objects and threads, descriptors by kind, child processes."""

    def __init__(self, relay, path):
        self._process = Path(f"/proc/{relay.process.pid}")
        self._path = path

    def count(self):
        links = [self._link(one) for one in (self._process / "fd").iterdir()]
        counts = collections.Counter(re.sub(r"[0-9]+", "N", link) for link in links if link)
        counts["children"] = len((self._process / "task" / self._process.name / "children").read_text().split())
        counts.update(census.ask(self._path))
        counts["socket:[N]"] -= counts["rtpproxy.media.sending._Sender"]
        for name in KEPT:
            del counts[name]
        return counts

    def _link(self, path):
        try:
            return os.readlink(path)
        except FileNotFoundError:
            return ""

    def more_than(self, before):
        """What there is more of than before: how many there were, and are."""
        now = self.count()
        return {name: (before[name], now[name]) for name in now if now[name] > before[name]}


@pytest.mark.parametrize("way", [KERNEL, BOUND], ids=lambda way: way.name)
def test_nothing_is_left_of_many_commands(topology, tmp_path, recordings, way):
    told_at, census_at = tmp_path / "told", tmp_path / "census"
    prompts = [tmp_path / f"prompt.{payload_type}" for payload_type in (0, 8, 101)]
    for prompt in prompts:
        prompt.write_bytes(bytes(PROMPT_BYTES))
    options = (
        *("-l", topology.caller.gateway.ip, "-l", f"two@{topology.callee.gateway.ip}=relay.example"),
        *(
            "-l",
            f"own@{OWN}",
            "-6",
            f"six@{HOST_IPV6}",
            "-m",
            str(PORTS[0]),
            "-M",
            str(PORTS[-1] + 1),
            "-T",
            str(IDLE_S),
        ),
        *("-P", "-r", str(recordings / "recordings"), "-S", str(recordings / "spool")),
        *("--cdr", str(tmp_path / "cdr"), "--dtmf-notify", f"unix:{told_at}"),
        *("-n", f"unix:{told_at}", "-s", "udp:127.0.0.1:22222", "-F", *way.options),
    )
    running = RunningRelay(
        *(tmp_path, *options),
        host=topology.relay,
        prefix=(sys.executable,),
        program=CENSUS,
        environment={"CENSUS": str(census_at)},
    )
    with contextlib.closing(Controller(socket.AF_UNIX, str(told_at))) as controller, running as relay:
        soak = Soak(relay, topology, controller, Random(f"{SEED} {way.name}"))
        holdings = Holdings(relay, census_at)
        with contextlib.closing(soak):
            try:
                soak.warm_up()
                before = holdings.count()
                soak.run(COMMANDS)
            except Exception as error:
                raise AssertionError(f"{error!r} with SEED={SEED} after\n" + "\n".join(soak.history)) from error
            soak.end_by_timeout()
            try:
                wait_for(lambda: not holdings.more_than(before), DEADLINE_S, "nothing to be left")
            except AssertionError as error:
                raise AssertionError(f"left: {holdings.more_than(before)}") from error
            soak.take_all_ports()
        ended = int(relay.ask("G nsess_destroyed"))
        assert relay.stop() == 0
        # One has the names of the columns.
        assert (tmp_path / "cdr").read_bytes().count(b"\n") == ended + 1
        assert not re.search("unexpected|Traceback|^CRIT", relay.log, re.MULTILINE)
    assert os.listdir(recordings / "spool") == []
    assert set(os.listdir(recordings / "recordings")) <= soak.model.names
    assert {path.name for path in tmp_path.iterdir()} == {
        *("told", "census", "cdr", relay.log_path.name, *(prompt.name for prompt in prompts)),
    }
