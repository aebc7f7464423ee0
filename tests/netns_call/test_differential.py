"""Userspace and kernel forward the same: one stream of random frames into four relays, and what leaves them compared.

The hosts around each relay have the same addresses, and the relays the same ports, so that frames can be compared as a
whole. What the kernel leaves to userspace is part of it: options, fragments, other sources, wrong lengths.
Two differences are meant, and are left out of the comparison (`essence`).
"""

import contextlib
from collections import Counter
from random import Random

import pytest
from scapy.all import IP, UDP, Dot1Q, Ether, IPv6, Raw
from scapy.layers.inet import (
    IPOption_NOP,
    IPOption_Router_Alert,
    IPOption_RR,
    IPOption_Timestamp,
    fragment,
)
from scapy.layers.inet6 import (
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
    fragment6,
)

from rtpproxy.config import LatchingMode
from tests.fuzzing import INPUTS, SEED
from tests.netns import Topology
from tests.netns_call.call import BOUND, KERNEL, STEERED, TC, Call, Tap
from tests.netns_call.dual_stack.families import EVERYWHERE, PAIRS, addresses
from tests.running import RunningRelay, muxed_rtcp, rtp
from tests.waiting import DEADLINE_S, wait_for

WAYS = (KERNEL, TC, STEERED, BOUND)
PACKETS = max(60, INPUTS // 500)
"""For each pair of families."""
BATCH = 20
IDLE_S = 36_000
ETH_P_ALL = 3
SSRC, OTHER_SSRC = 0x1234, 0xBAD
FOREIGN = {False: "10.0.1.77", True: "fd00:0:1::77"}
COUNTERS = ("npkts_ina", "npkts_ino", "nrelayed", "ndropped", "rtpa_perrs")
"""Those that do not depend on the order of packets: what the kernel forwards overtakes what userspace relays."""


class Rig:
    """A relay that owns ports and forwards in one way, its hosts, and a call of each pair of families."""

    def __init__(self, way, latching, directory, stack):
        self.way = way
        self.topology = stack.enter_context(Topology(ipv6=True))
        # Ports in ascending order: the same command gets the same port from each relay. Calls may be idle for long,
        # while the others are waited for.
        options = (*way.options, *EVERYWHERE, "-b", "-T", str(IDLE_S), "--latching", latching)
        self.relay = stack.enter_context(RunningRelay(directory, *options, host=self.topology.relay, name=way.name))
        caller, callee = self.topology.caller, self.topology.callee
        self.calls = {
            name: stack.enter_context(Call(self.relay, caller, callee, name, **self._addresses(number, pair)))
            for number, (name, pair) in enumerate(PAIRS.items())
        }
        self.taps = {phone: stack.enter_context(Tap(phone, ETH_P_ALL)) for phone in (caller, callee)}

    def _addresses(self, number, pair):
        at = addresses(self.topology, pair)
        return {name: (host, port + 10 * number) for name, (host, port) in at.items()}

    def count(self, name):
        """Read the counters of a call."""
        return self.relay.counters(f"{self.calls[name].tags} {' '.join(COUNTERS)}")

    def exchange(self, frames, marks):
        """Send frames as the caller; what comes out of the relay at either phone until all the marks have."""
        for frame in frames:
            self.taps[self.topology.caller].send(frame)
        out = {phone.name: [] for phone in self.taps}

        def is_complete():
            for phone, tap in self.taps.items():
                gateway = bytes.fromhex(phone.gateway.mac.replace(":", ""))
                with contextlib.suppress(BlockingIOError):
                    while True:
                        frame = tap._socket.recv(65535)
                        if frame[6:12] == gateway and is_datagram(frame):
                            out[phone.name].append(frame)
            return all(any(mark in frame for frame in out["callee"]) for mark in marks)

        wait_for(is_complete, DEADLINE_S, f"the marks behind the frames, {self.way.name}")
        return out


@pytest.fixture(scope="module", params=[mode.value for mode in LatchingMode])
def rigs(tmp_path_factory, request):
    with contextlib.ExitStack() as stack:
        rigs = [Rig(way, request.param, tmp_path_factory.mktemp("differential"), stack) for way in WAYS]
        for rig in rigs:
            for call in rig.calls.values():
                call.establish(rig.way)
        yield rigs
        for rig in rigs:
            assert "unexpected" not in rig.relay.log


def is_datagram(frame):
    """True for UDP of either family, and for fragments; not for what keeps a network running."""
    kind = int.from_bytes(frame[12:14])
    return (kind == 0x0800 and frame[23] == 17) or (kind == 0x86DD and frame[20] in (17, 44))


def essence(frame):
    """A frame without the two things in which tiers differ; None if it is damaged.

    The identification of IPv4 is a socket's or the sender's own. A UDP checksum that the sender left out of IPv4 stays
    out in the kernel, and a socket computes it. The receiver drops a damaged frame: the kernel passes a wrong checksum
    on as wrong as it was, the stack drops it.
    """
    if frame[12:14] == b"\x08\x00":
        packet = IP(frame[14:])
        found = packet.chksum
        del packet.chksum
        assert IP(bytes(packet)).chksum == found, f"header checksum of {frame.hex()}"
        is_fragment = packet.flags.MF or packet.frag
        frame = frame[:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:]
    else:
        packet = IPv6(frame[14:])
        is_fragment = IPv6ExtHdrFragment in packet
        if is_fragment:
            frame = frame[:58] + bytes(4) + frame[62:]
    if is_fragment:
        return frame
    found, at = packet[UDP].chksum, 40 if frame[12:14] == b"\x08\x00" else 60
    del packet[UDP].chksum
    right = type(packet)(bytes(packet))[UDP].chksum
    if found not in (right, 0):
        return None
    return frame[:at] + right.to_bytes(2) + frame[at + 2 :]


# Frames


class Frames:
    """Random frames of a caller to the relay: its packets, as they should be and otherwise, and those of others."""

    def __init__(self, rng, rig, name):
        self.rng = rng
        call = rig.calls[name]
        self.phone = rig.topology.caller
        self.source, self.to = call.caller.rtp.address, call.caller.to
        self.is_ipv6 = ":" in self.to[0]
        self.number = 100
        self.rtcp = 0

    def any(self):
        """The frames of one packet, more than one if it is in fragments."""
        kinds = (
            *(
                self.plain,
                self.plain,
                self.plain,
                self.repeated,
                self.late,
                self.other_ssrc,
                self.no_rtp,
                self.rtcp_on_the_port,
            ),
            *(self.odd_header, self.absent_checksum, self.wrong_checksum, self.options, self.options),
            *(self.fragments, self.fragments, self.foreign, self.foreign),
            *(self.wrong_length, self.cut, self.tagged, self.for_another_mac),
        )
        return [bytes(frame) for frame in self.rng.choice(kinds)()]

    def marks(self, number):
        """Frames that pass: one that the kernel forwards, and one that it leaves to userspace; and their payloads."""
        payloads = [f"mark {kind} {number:05}".encode() for kind in ("plain", "odd")]
        return [bytes(self.frame(payloads[0])), bytes(self.frame(payloads[1], options=self.quiet_options()))], payloads

    def payload(self, ssrc=SSRC):
        self.number += 1
        return rtp(
            self.number, ssrc=ssrc, payload=self.rng.randbytes(self.rng.choice((0, 1, 20, 160, 161, 1200, 1400)))
        )

    def frame(self, payload, *, source=None, options=None, udp=(), ip=(), mac=""):
        host, port = source or self.source
        datagram = UDP(sport=port, dport=self.to[1], **dict(udp)) / Raw(payload)
        header = (IPv6 if self.is_ipv6 else IP)(src=host, dst=self.to[0], **dict(ip))
        if options is not None and not self.is_ipv6:
            header.options = options
        elif options is not None:
            header = header / options
        return Ether(src=self.phone.mac, dst=mac or self.phone.gateway.mac) / header / datagram

    def plain(self):
        return [self.frame(self.payload())]

    def repeated(self):
        return [self.frame(self.payload())] * 2

    def late(self):
        first, second = self.frame(self.payload()), self.frame(self.payload())
        return [second, first]

    def other_ssrc(self):
        return [self.frame(self.payload(ssrc=0x4321))]

    def no_rtp(self):
        return [self.frame(self.rng.randbytes(self.rng.choice((0, 1, 7, 11, 12, 100))))]

    def rtcp_on_the_port(self):
        """Of this phone, or of another that might take the stream if it were RTP."""
        self.number += 1
        payload = muxed_rtcp(self.number, ssrc=SSRC, kind=self.rng.choice((200, 201, 213)))
        source = self.source if self.rng.randrange(3) else (FOREIGN[self.is_ipv6], self.source[1])
        return [self.frame(payload, source=source)]

    def odd_header(self):
        rng = self.rng
        if self.is_ipv6:
            fields = {"hlim": rng.choice((1, 7, 255)), "tc": rng.randrange(256), "fl": rng.randrange(1 << 20)}
        else:
            fields = {
                "ttl": rng.choice((1, 7, 255)),
                "tos": rng.randrange(256),
                "id": rng.randrange(65536),
                "flags": rng.choice(("", "DF", "evil")),
            }
        return [self.frame(self.payload(), ip=fields)]

    def absent_checksum(self):
        return [self.frame(self.payload(), udp={"chksum": 0})]

    def wrong_checksum(self):
        """Over the header of IPv4, too."""
        wrong = {"chksum": self.rng.randrange(1, 65536)}
        return [self.frame(self.payload(), udp=wrong) if self.is_ipv6 else self.frame(self.payload(), ip=wrong)]

    def quiet_options(self):
        return IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]) if self.is_ipv6 else [IPOption_NOP()] * 4

    def options(self):
        if self.is_ipv6:
            headers = (
                IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]),
                IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))]),
                IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
            )
        else:
            headers = (
                [IPOption_NOP()] * self.rng.randrange(1, 40),
                [IPOption_RR(pointer=4, routers=["0.0.0.0"] * 3)],
                [IPOption_Timestamp(flg=0)],
                [IPOption_Router_Alert()],
            )
        return [self.frame(self.payload(), options=self.rng.choice(headers))]

    def fragments(self):
        """In any order; sometimes one is missing, and sometimes one that is whole says that it is a fragment."""
        rng = self.rng
        payload = rtp(self.number, payload=rng.randbytes(rng.choice((100, 1000, 3000))))
        self.number += 1
        if self.is_ipv6:
            whole = self.frame(payload, options=IPv6ExtHdrFragment(id=rng.randrange(1 << 32)))
            is_alone = len(payload) < 1200 and rng.randrange(4) == 0
            pieces = [whole] if is_alone else self._fragments6(whole)
        else:
            pieces = fragment(
                self.frame(payload, ip={"id": rng.randrange(65536)}), fragsize=rng.choice((48, 512, 1480))
            )
        if rng.randrange(2):
            rng.shuffle(pieces)
        if len(pieces) > 1 and rng.randrange(5) == 0:
            del pieces[rng.randrange(len(pieces))]
        return pieces

    def _fragments6(self, whole):
        ethernet = Ether(src=whole.src, dst=whole.dst)
        return [ethernet / piece for piece in fragment6(whole[IPv6], self.rng.choice((200, 1280)))]

    def foreign(self):
        """Of somebody who does not know the stream: another host, another port, or both; plain or not."""
        rng = self.rng
        host, port = self.source
        elsewhere = FOREIGN[self.is_ipv6]
        source = rng.choice(((elsewhere, port), (host, 6000 + rng.randrange(100)), (elsewhere, 6001)))
        payload = rtp(rng.randrange(65536), ssrc=OTHER_SSRC, payload=rng.randbytes(200))
        options = self.quiet_options() if rng.randrange(3) == 0 else None
        frame = self.frame(payload, source=source, options=options)
        if rng.randrange(4) or options is not None:
            return [frame]
        if self.is_ipv6:
            framed = self.frame(payload, source=source, options=IPv6ExtHdrFragment(id=rng.randrange(1 << 32)))
            return self._fragments6(framed)
        return fragment(frame, fragsize=96)

    def wrong_length(self):
        """UDP's does not agree with IP's."""
        payload = self.payload()
        return [self.frame(payload, udp={"len": max(0, 8 + len(payload) + self.rng.choice((-9, -1, 1, 100)))})]

    def cut(self):
        frame = bytes(self.frame(self.payload()))
        return [frame[: self.rng.randrange(34, len(frame))]]

    def tagged(self):
        """With a priority tag, which means nothing, or for a VLAN that nobody is in."""
        frame = self.frame(self.payload())
        packet = frame.payload
        frame.remove_payload()
        kind = 0x86DD if self.is_ipv6 else 0x0800
        frame.type = 0x8100
        return [frame / Dot1Q(vlan=self.rng.choice((0, 5)), prio=self.rng.randrange(8), type=kind) / packet]

    def for_another_mac(self):
        return [self.frame(self.payload(), mac="02:00:00:00:99:99")]


@pytest.mark.seeded
@pytest.mark.parametrize("name", PAIRS)
def test_all_ways_send_the_same_frames(rigs, name):
    """They count them alike, too, but for damaged ones, which never come to userspace."""
    frames = Frames(Random(f"{SEED} {name}"), rigs[0], name)
    reference, *others = rigs[::-1]  # a socket for each port is what every relay can do
    before = {rig: rig.count(name) for rig in rigs}
    damaged = dict.fromkeys(others, 0)
    for batch in range(PACKETS // BATCH):
        sent = [frame for _ in range(BATCH) for frame in frames.any()]
        marked, payloads = frames.marks(batch)
        expected = reference.exchange(sent + marked, payloads)
        for rig in others:
            found = rig.exchange(sent + marked, payloads)
            for phone, out in expected.items():
                where = f"{rig.way.name}, to the {phone}, SEED={SEED} FUZZ_INPUTS={INPUTS}"
                damaged[rig] += assert_same(found[phone], out, where, sent)
    wanted = gained(reference, name, before)
    for rig in others:
        counts = gained(rig, name, before)
        counts["npkts_ina"] -= damaged[rig]
        counts["nrelayed"] -= damaged[rig]
        assert counts == wanted, rig.way.name


def gained(rig, name, before):
    after = rig.count(name)
    return {counter: after[counter] - before[rig][counter] for counter in COUNTERS}


def assert_same(found, expected, where, sent):
    """Compare frames; return the number of damaged ones. The order of the kernel's and userspace's may differ."""
    wanted, got = (Counter(map(essence, frames)) for frames in (expected, found))
    assert not wanted.pop(None, 0), "userspace sends damaged frames"
    damaged = got.pop(None, 0)
    differences = [
        *(f"missing: {frame.hex()}" for frame in (wanted - got)),
        *(f"not sent by userspace: {frame.hex()}" for frame in (got - wanted)),
    ]
    inputs = "\n".join(frame.hex() for frame in sent)
    assert not differences, "\n".join([where, *differences, "after:", inputs])
    return damaged
