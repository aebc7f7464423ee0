"""Links as the kernel describes them: what carries what, and which frames are for this host."""

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from rtpproxy.errors import OffloadError
from rtpproxy.network.links import Links, OurFrames, Reception, read_link, redirected_mtu

UP = 0x41
Q, AD = 0x8100, 0x88A8


def message(index, name, *attributes, kind="", data=(), ethernet=True, family=0):
    """The kernel's message about a link."""
    sent = ifinfmsg()
    sent["index"], sent["ifi_type"], sent["flags"], sent["family"] = index, 1 if ethernet else 772, UP, family
    info = [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": list(data)})] if data else [("IFLA_INFO_KIND", kind)]
    sent["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", f"02:00:00:00:00:{index:02x}"),
        ("IFLA_MTU", 1500),
        *attributes,
        *([("IFLA_LINKINFO", {"attrs": info})] if kind else []),
    ]
    sent.encode()
    return bytes(sent.data)


def vlan(index, name, parent, protocol, number, *attributes):
    data = [("IFLA_VLAN_ID", number), ("IFLA_VLAN_PROTOCOL", protocol)]
    return message(index, name, ("IFLA_LINK", parent), *attributes, kind="vlan", data=data)


def mac(index):
    return f"02:00:00:00:00:{index:02x}"


class FakeNetlink:
    """Answers with the links that the test wrote."""

    def __init__(self, *links):
        self.links = list(links)

    def dump(self, *_):
        return self.links


ETH0 = message(2, "eth0")
ETH0_5 = vlan(3, "eth0.5", 2, Q, 5)
S_VLAN = vlan(4, "eth0.s7", 2, AD, 7)
C_VLAN = vlan(5, "eth0.s7.6", 4, Q, 6)
THIRD = vlan(6, "deep", 5, Q, 9)
LOOPBACK = message(1, "lo", ethernet=False)
ALL = (LOOPBACK, ETH0, ETH0_5, S_VLAN, C_VLAN, THIRD)


@pytest.mark.parametrize(
    ("name", "carrier", "tags"),
    [
        ("eth0", "eth0", ()),
        ("eth0.5", "eth0", ((Q, 5),)),
        ("eth0.s7", "eth0", ((AD, 7),)),
        ("eth0.s7.6", "eth0", ((AD, 7), (Q, 6))),
        ("deep", "eth0", ((AD, 7), (Q, 6), (Q, 9))),
    ],
)
def test_carriers_and_tags(name, carrier, tags):
    links = Links(FakeNetlink(*ALL))
    found, found_tags = links.lower(links.by_name(name))
    assert (found.name, found_tags) == (carrier, tags)


def macs(links):
    """MACs of the frames for this host."""
    return {key: reception.mac for key, reception in links.frames(lambda name: False).items()}


def test_frames_of_this_host():
    """As XDP sees them: with up to two tags at what carries the VLAN; and as TC does: at each interface itself."""
    assert macs(Links(FakeNetlink(*ALL))) == {
        **{(index, ()): mac(index) for index in (2, 3, 4, 5, 6)},
        (2, ((Q, 5),)): mac(3),
        (2, ((AD, 7),)): mac(4),
        (2, ((AD, 7), (Q, 6))): mac(5),
        (2, ((Q, 6),)): mac(5),  # the driver took the outer one off
    }


def test_an_interface_with_one_tag_comes_before_one_whose_outer_tag_was_taken_off():
    """Even when the kernel's copy, which is written in this order, has no room for all."""
    assert list(macs(Links(FakeNetlink(*ALL))))[-1] == (2, ((Q, 6),))
    links = Links(FakeNetlink(*ALL, vlan(9, "eth0.6", 2, Q, 6)))
    assert macs(links)[2, ((Q, 6),)] == mac(9)


@pytest.mark.parametrize(("tags", "expected"), [((), 1500), (((Q, 5),), 1500), (((AD, 7), (Q, 6)), 1496)])
def test_mtu_of_redirected_frames(tags, expected):
    links = Links(FakeNetlink(ETH0))
    assert redirected_mtu(links.get(2), tags) == expected


def test_frames_of_a_bond_come_by_its_ports():
    """XDP runs on those; TC sees them at the bond."""
    bond = message(10, "bond0", kind="bond")
    ports = [message(index, f"eth{index}", ("IFLA_MASTER", 10)) for index in (11, 12)]
    links = Links(FakeNetlink(bond, *ports, vlan(13, "bond0.5", 10, Q, 5)))
    tagged = {(index, ((Q, 5),)): mac(13) for index in (10, 11, 12)}
    assert macs(links) == {**{(index, ()): mac(index) for index in (10, 11, 12, 13)}, **tagged}


def test_interfaces_that_the_stack_takes_frames_by():
    """A bond or a bridge stands for its ports, in the question about rp_filter, too; a VRF does not."""
    bond, bridge, vrf = (message(index, kind, kind=kind) for index, kind in ((10, "bond"), (20, "bridge"), (30, "vrf")))
    ports = [message(index, f"eth{index}", ("IFLA_MASTER", index // 10 * 10)) for index in (11, 21, 31)]
    tagged = vlan(13, "bond.5", 10, Q, 5, ("IFLA_MASTER", 20))
    found = Links(FakeNetlink(bond, bridge, vrf, *ports, tagged)).frames(lambda name: name in ("bridge", "eth31"))
    assert {key: (reception.index, reception.is_strict) for key, reception in found.items()} == {
        **dict.fromkeys([(10, ()), (11, ())], (10, False)),
        **dict.fromkeys([(20, ()), (21, ()), (13, ()), (10, ((Q, 5),)), (11, ((Q, 5),))], (20, True)),
        **{(30, ()): (30, False), (31, ()): (31, True)},
    }


def test_ports_of_a_bridge_carry_no_vlan_of_it():
    bridge, port = message(10, "br0", kind="bridge"), message(11, "eth1", ("IFLA_MASTER", 10))
    links = Links(FakeNetlink(bridge, port, vlan(13, "br0.5", 10, Q, 5)))
    assert (11, ((Q, 5),)) not in macs(links)


@pytest.mark.parametrize(
    "link",
    [
        vlan(3, "eth0.5", 2, Q, 5, ("IFLA_LINK_NETNSID", 0)),
        vlan(3, "eth0.5", 99, Q, 5),
        message(3, "mv0", ("IFLA_LINK", 2), kind="macvlan"),
    ],
    ids=["parent in another namespace", "unknown parent", "macvlan"],
)
def test_links_that_are_their_own_carriers(link):
    links = Links(FakeNetlink(ETH0, link))
    assert links.lower(links.get(3)) == (links.get(3), ())
    assert macs(links)[3, ()] == mac(3)


def test_events():
    links = Links(FakeNetlink(ETH0))
    assert links.on_event(ETH0_5, is_gone=False) == 3
    assert links.lower(links.get(3))[1] == ((Q, 5),)
    assert links.on_event(message(2, "renamed"), is_gone=False) == 2
    assert [links.by_name("eth0"), links.get(2).name] == [None, "renamed"]
    assert links.on_event(message(3, "eth0.5"), is_gone=True) == 3
    assert links.get(3) is None


def test_reports_of_bridge_ports_are_no_change():
    links = Links(FakeNetlink(ETH0))
    for is_gone in (False, True):
        assert links.on_event(message(2, "eth0", family=7), is_gone=is_gone) is None
    assert links.get(2) is not None


class FakeCopy:
    """The kernel's copy, with limited room."""

    def __init__(self, room=10):
        self.room = room
        self.frames = {}

    def write(self, key, found):
        if found is None:
            del self.frames[key]
        elif key not in self.frames and len(self.frames) == self.room:
            raise OffloadError(f"{key}: no room")
        else:
            self.frames[key] = found


def test_copy_follows():
    copy = FakeCopy()
    ours = OurFrames(copy.write)
    a, b, c, d = Reception("a", 2), Reception("b", 3), Reception("c", 3), Reception("c", 3, is_strict=True)
    for frames in ({(2, ()): a, (3, ()): b}, {(3, ()): c}, {(3, ()): d}, {(3, ((Q, 5),)): d}, {}):
        ours.follow(frames)
        assert copy.frames == frames


def test_no_room(caplog):
    """One warning; the others are written, and when room is made, also those that had none."""
    copy = FakeCopy(room=1)
    ours = OurFrames(copy.write)
    for _ in range(2):
        ours.follow({(2, ()): "a", (3, ()): "b"})
        assert copy.frames == {(2, ()): "a"}
    (message,) = caplog.messages
    assert message.endswith("no room; what arrives at such an interface stays in userspace")
    ours.follow({(3, ()): "b"})
    assert copy.frames == {(3, ()): "b"}


def test_program_of_the_driver_beside_another():
    """The kernel names no single program then."""
    both = [("IFLA_XDP_DRV_PROG_ID", 7), ("IFLA_XDP_HW_PROG_ID", 9)]
    assert read_link(message(2, "eth0", ("IFLA_XDP", {"attrs": both}))).xdp_program_id == 7
    for attributes, number in (([("IFLA_XDP_PROG_ID", 5)], 5), ([], 0)):
        assert read_link(message(2, "eth0", ("IFLA_XDP", {"attrs": attributes}))).xdp_program_id == number
