import pytest
from generator.neighbours import Neighbours
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether

RELAY, PHONE = "02:00:00:00:01:01", "0a:00:00:00:01:02"
BROADCAST = "ff:ff:ff:ff:ff:ff"
QINQ = ((0x88A8, 200), (0x8100, 100))
SIDE = Neighbours(PHONE, frozenset({"10.0.1.10", "fd00::10"}))
TAGGED = Neighbours(PHONE, frozenset({"10.0.1.10", "fd00::10"}), QINQ)


def arp_request(target="10.0.1.10"):
    return Ether(src=RELAY, dst=BROADCAST) / ARP(op=1, hwsrc=RELAY, psrc="10.0.1.1", pdst=target)


def solicitation(target="fd00::10", source="fd00::1"):
    return (
        Ether(src=RELAY, dst="33:33:ff:00:00:10")
        / IPv6(src=source, dst="ff02::1:ff00:10")
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=RELAY)
    )


def test_arp_is_answered():
    assert SIDE.answer(bytes(arp_request())) == bytes(
        Ether(src=PHONE, dst=RELAY) / ARP(op=2, hwsrc=PHONE, psrc="10.0.1.10", hwdst=RELAY, pdst="10.0.1.1")
    )


def test_a_solicitation_is_answered():
    expected = (
        Ether(src=PHONE, dst=RELAY)
        / IPv6(src="fd00::10", dst="fd00::1", hlim=255)
        / ICMPv6ND_NA(tgt="fd00::10", R=0, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=PHONE)
    )
    assert SIDE.answer(bytes(solicitation())) == bytes(expected)


def test_behind_tags():
    request = arp_request()
    tagged = Ether(src=RELAY, dst=BROADCAST) / Dot1AD(vlan=200) / Dot1Q(vlan=100) / request[ARP]
    answer = Ether(TAGGED.answer(bytes(tagged)))
    assert (answer[Dot1AD].vlan, answer[Dot1Q].vlan, answer[ARP].psrc) == (200, 100, "10.0.1.10")
    assert TAGGED.answer(bytes(request)) is None
    assert SIDE.answer(bytes(tagged)) is None


@pytest.mark.parametrize(
    "frame",
    [
        arp_request("10.0.1.11"),
        solicitation("fd00::11"),
        solicitation(source="::"),
        Ether(src=RELAY, dst=BROADCAST) / ARP(op=1, hwsrc=RELAY, psrc="10.0.1.10", pdst="10.0.1.10"),
        Ether(src=RELAY, dst=PHONE) / ARP(op=2, hwsrc=RELAY, psrc="10.0.1.1", pdst="10.0.1.10"),
    ],
)
def test_what_is_not_for_the_phones_gets_no_answer(frame):
    assert SIDE.answer(bytes(frame)) is None


@pytest.mark.parametrize("side", [SIDE, TAGGED])
@pytest.mark.parametrize(("target", "source"), [("10.0.1.1", "10.0.1.10"), ("fd00::1", "fd00::10")])
def test_a_question_is_answered_by_another_of_these(side, target, source):
    """Both ends by the same code, which the tests above compare with frames of scapy's."""
    relay = Neighbours(RELAY, frozenset({target}), side.tags)
    answer = relay.answer(side.question(target, source))
    assert answer is not None
    assert side.heard(answer) == (target, RELAY)
    assert side.heard(side.question(target, source)) is None


def test_a_solicitation_goes_to_the_group_of_the_target():
    packet = Ether(SIDE.question("fd00::12:3456", "fd00::10"))
    assert (packet.dst, packet[IPv6].dst, packet[IPv6].hlim) == ("33:33:ff:12:34:56", "ff02::1:ff12:3456", 255)
