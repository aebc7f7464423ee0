"""Attaching to interfaces of a namespace, beside programs that are not ours."""

import errno
import logging
import os
import re
import sys
from dataclasses import replace

import pytest

from rtpproxy.config import OffloadMode
from rtpproxy.errors import OffloadError
from rtpproxy.offload.attach import Attachable, Hook, Interfaces, Report, carriers
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.syscall import program_name
from tests.conftest import TC_BEHIND_NAME, TC_NAME, XDP_NAME
from tests.offload.relay_network import RelayNetwork
from tests.offload.unprivileged import with_capabilities
from tests.optional_links import VLAN, add_or_skip
from tests.plain_programs import filter_in_front, load_plain_tc, load_plain_xdp, require_tcx, tcx_in_front

pytestmark = [pytest.mark.root, pytest.mark.kernel]

FOREIGN = "somebody_else"


@pytest.fixture
def foreign_fd():
    fd = load_plain_xdp(FOREIGN)
    yield fd
    os.close(fd)


@pytest.fixture
def interfaces(network):
    return network.interfaces


@pytest.fixture
def index(topology):
    """Number of the relay's interface to the caller."""
    return topology.caller.gateway.ifindex


def attach_foreign(network, index, fd):
    """Attach as somebody else's loader does: it replaces whatever is there."""
    network.interfaces._set_program(index, fd, 1 << 2)  # XDP_FLAGS_DRV_MODE


def programs(network):
    """The names of XDP programs by interface."""
    network.interfaces.links.reload()
    links = [network.interfaces.links.by_name(name) for name in ("lo", "to-caller", "to-callee")]
    return {link.name: program_name(link.xdp_program_id) for link in links if link and link.xdp_mode}


def test_xdp_program_that_the_kernel_refuses(network, index):
    """TC forwards in its place, and the report says why."""

    def refuse():
        raise OffloadError("cannot load the program for XDP: Invalid argument")

    programs = replace(network.programs, xdp=Attachable(XDP_NAME, refuse))
    interfaces = network.host.call(Interfaces, network.netlink, programs)
    report = interfaces.attach(index)
    assert str(report) == "to-caller: kernel, TC (cannot load the program for XDP: Invalid argument)"
    assert interfaces.failed() == set()
    interfaces.detach_all()
    interfaces.close()
    assert network.tc_programs() == {}


class Scarce:
    """A program for interfaces that there is no memory for until `is_there`."""

    def __init__(self, program):
        self._program = program
        self.is_there = False

    def attachable(self):
        return Attachable(self._program.name, self._load)

    def _load(self):
        if not self.is_there:
            reason = os.strerror(errno.ENOMEM)
            raise OffloadError(f"cannot load: {reason}") from OSError(errno.ENOMEM, reason)
        return self._program.load()


@pytest.fixture
def scarce(network):
    """The program for XDP and that for TC, each `Scarce`; and interfaces that use them."""
    xdp, tc = Scarce(network.programs.xdp), Scarce(network.programs.tc)
    programs = replace(network.programs, xdp=xdp.attachable(), tc=tc.attachable())
    interfaces = network.host.call(Interfaces, network.netlink, programs)
    yield xdp, tc, interfaces
    interfaces.detach_all()
    interfaces.close()


def test_what_there_was_no_memory_for_is_attached_by_a_later_try(network, scarce, index, caplog):
    caplog.set_level(logging.INFO, "rtpproxy.offload.attach")
    xdp, tc, interfaces = scarce
    nothing = "to-caller: userspace (cannot load: Cannot allocate memory; no TC: cannot load: Cannot allocate memory)"
    assert str(interfaces.attach(index)) == nothing
    assert interfaces.failed() == {(index, Hook.XDP), (index, Hook.TC)}
    assert (programs(network), network.tc_programs()) == ({}, {})
    interfaces.renew(index)
    tc.is_there = True
    interfaces.renew(index)
    by_tc = "to-caller: kernel, TC (cannot load: Cannot allocate memory)"
    assert str(interfaces.report(index)) == by_tc
    assert (interfaces.failed(), network.tc_programs()) == ({(index, Hook.XDP)}, {"to-caller": [TC_NAME]})
    interfaces.renew(index)
    xdp.is_there = True
    interfaces.renew(index)
    assert (interfaces.report(index).tier, interfaces.failed()) == (Tier.XDP, set())
    assert (programs(network), network.tc_programs()) == ({"to-caller": XDP_NAME}, {"to-caller": []})
    # What a try in vain finds is told once.
    assert caplog.messages == [nothing, by_tc, "to-caller: kernel, native XDP"]


def test_xdp_that_is_attached_at_last_needs_no_tc(network, scarce, index):
    xdp, _, interfaces = scarce
    interfaces.attach(index)
    xdp.is_there = True
    interfaces.renew(index)
    assert (interfaces.report(index).tier, interfaces.failed()) == (Tier.XDP, set())


def test_tc_behind_xdp_that_there_was_no_memory_for(network, index, caplog):
    behind = Scarce(network.programs.tc_behind_xdp)
    programs = replace(network.programs, tc_behind_xdp=behind.attachable())
    interfaces = network.host.call(Interfaces, network.netlink, programs)
    interfaces.attach(index)
    interfaces.back_up_xdp()
    interfaces.renew(index)
    interfaces.renew(index)
    assert (interfaces.report(index).tier, interfaces.failed()) == (Tier.XDP, {(index, Hook.TC)})
    why = "no TC behind XDP, so some of its streams stay in userspace: cannot load: Cannot allocate memory"
    assert caplog.messages == [f"to-caller: {why}"]
    behind.is_there = True
    interfaces.renew(index)
    assert (interfaces.failed(), network.tc_programs()) == (set(), {"to-caller": [TC_BEHIND_NAME]})
    interfaces.detach_all()
    interfaces.close()


def test_interface_that_is_gone_is_not_tried_again(network, scarce, index):
    _, _, interfaces = scarce
    interfaces.attach(index)
    network.ip("link del to-caller")
    interfaces.reload()
    assert interfaces.failed() == set()


# Programs that are being loaded

BEING_LOADED = "the program is being loaded"


def test_interface_waits_in_userspace_for_its_program(network, interfaces, index, caplog):
    """TC is not attached meanwhile, nor even loaded: XDP is on its way."""
    caplog.set_level(logging.INFO, "rtpproxy.offload.attach")
    network.being_loaded = {XDP_NAME, TC_NAME}
    for _ in range(2):
        report = interfaces.attach(index)
        assert (str(report), report.is_waiting) == (f"to-caller: userspace ({BEING_LOADED})", True)
    assert (programs(network), network.tc_programs(), interfaces.failed()) == ({}, {}, set())
    # Another program was loaded.
    assert network.is_loaded() == {index}
    assert interfaces.attach(index) == report
    assert network.is_loaded(XDP_NAME) == {index}
    assert interfaces.attach(index) == Report("to-caller", Tier.XDP)
    assert (programs(network), network.tc_programs()) == ({"to-caller": XDP_NAME}, {})
    assert network.is_loaded() == set()
    assert caplog.messages == [f"to-caller: userspace ({BEING_LOADED})", "to-caller: kernel, native XDP"]


def test_interface_waits_for_tc(tc_network, index):
    tc_network.being_loaded = {TC_NAME}
    report = tc_network.interfaces.attach(index)
    assert str(report) == f"to-caller: userspace (--offload tc; no TC: {BEING_LOADED})"
    assert report.is_waiting
    assert tc_network.is_loaded(TC_NAME) == {index}
    assert tc_network.interfaces.attach(index) == Report("to-caller", Tier.TC, "--offload tc")


def test_interfaces_wait_together(network, interfaces, topology):
    network.being_loaded = {XDP_NAME}
    indexes = {topology.caller.gateway.ifindex, topology.callee.gateway.ifindex}
    for number in indexes:
        interfaces.attach(number)
    assert network.is_loaded(XDP_NAME) == indexes
    assert set(programs(network)) == {"to-caller", "to-callee"}


def test_tc_where_xdp_was_is_waited_for(network, interfaces, index):
    """What TC sends for XDP goes on meanwhile: that program does nothing else."""
    interfaces.attach(index)
    interfaces.back_up_xdp()
    network.being_loaded = {TC_NAME}
    network.ip("link set to-caller xdp off")
    interfaces.bar(index, Hook.XDP, "taken off again")
    (report,) = interfaces.renew(index, [Hook.XDP])
    assert (str(report), report.is_waiting) == (
        f"to-caller: userspace (taken off again; no TC: {BEING_LOADED})",
        True,
    )
    assert network.tc_programs() == {"to-caller": [TC_BEHIND_NAME]}
    assert network.is_loaded(TC_NAME) == {index}
    assert interfaces.reports_by(index) == [Report("to-caller", Tier.TC, "taken off again")]
    assert network.tc_programs() == {"to-caller": [TC_NAME]}


def test_tc_behind_xdp_is_waited_for(network, interfaces, index, caplog):
    """XDP goes on meanwhile."""
    caplog.set_level(logging.INFO, "rtpproxy.offload.attach")
    report = interfaces.attach(index)
    network.being_loaded = {TC_BEHIND_NAME}
    assert interfaces.back_up_xdp()
    assert (interfaces.is_backup_waiting, network.tc_programs()) == (True, {})
    assert network.is_loaded(TC_BEHIND_NAME) == {index}
    assert not interfaces.is_backup_waiting
    assert interfaces.attach(index) == report
    assert network.tc_programs() == {"to-caller": [TC_BEHIND_NAME]}
    told = "TC behind XDP, for streams that leave by interfaces that take no redirected frames"
    assert caplog.messages == ["to-caller: kernel, native XDP", f"to-caller: {told}"]


def test_what_failed_fails_until_its_program_is_loaded(network, scarce, index, caplog):
    """A later try in vain changes nothing, and nothing is told of it."""
    caplog.set_level(logging.INFO, "rtpproxy.offload.attach")
    xdp, tc, interfaces = scarce
    tc.is_there = True
    report = interfaces.attach(index)
    xdp.is_there, network.being_loaded = True, {XDP_NAME}
    assert interfaces.renew(index) == [report]
    assert (report.tier, report.is_waiting) == (Tier.TC, False)
    assert interfaces.failed() == {(index, Hook.XDP)}
    xdp.is_there = False
    assert interfaces.take_waiting() == {index}
    assert interfaces.renew(index) == [report]
    xdp.is_there = True
    interfaces.renew(index)
    network.being_loaded.clear()
    assert interfaces.take_waiting() == {index}
    assert interfaces.renew(index) == [Report("to-caller", Tier.XDP)]
    assert interfaces.failed() == interfaces.take_waiting() == set()
    assert caplog.messages == [str(report), "to-caller: kernel, native XDP"]


def test_program_that_could_not_be_loaded_after_all(network, scarce, index):
    """The next tier is taken, and waited for in its turn; what may pass is tried again later."""
    xdp, tc, interfaces = scarce
    tc.is_there = xdp.is_there = True
    network.being_loaded = {XDP_NAME, TC_NAME}
    assert interfaces.attach(index).is_waiting
    xdp.is_there = False
    assert interfaces.take_waiting() == {index}
    (report,) = interfaces.renew(index)
    why = "cannot load: Cannot allocate memory"
    assert (report.reason, report.is_waiting) == (f"{why}; no TC: {BEING_LOADED}", True)
    assert interfaces.failed() == {(index, Hook.XDP)}
    network.being_loaded.clear()
    assert interfaces.take_waiting() == {index}
    assert interfaces.renew(index) == [Report("to-caller", Tier.TC, why)]


def test_interface_that_goes_while_its_program_is_loaded(network, interfaces, index):
    network.being_loaded = {XDP_NAME}
    interfaces.attach(index)
    network.ip("link del to-caller")
    # Whether its event was read or not.
    assert network.is_loaded(XDP_NAME) == {index}
    assert not interfaces.attach(index).is_waiting
    network.being_loaded = {XDP_NAME}
    interfaces.renew(index)
    interfaces.reload()
    assert interfaces.attach(index).reason == "it is gone"
    assert (interfaces.take_waiting(), interfaces.failed()) == (set(), set())


def test_hook_that_is_barred_while_its_program_is_loaded(network, interfaces, index):
    network.being_loaded = {XDP_NAME}
    interfaces.attach(index)
    interfaces.bar(index, Hook.XDP, "taken off again")
    assert interfaces.renew(index) == [Report("to-caller", Tier.TC, "taken off again")]
    assert network.is_loaded(XDP_NAME) == set()


def test_nothing_is_waited_for_once_all_is_detached(network, interfaces, index):
    network.being_loaded = {XDP_NAME}
    interfaces.attach(index)
    interfaces.detach_all()
    assert network.is_loaded(XDP_NAME) == set()
    assert (programs(network), interfaces.reports()) == ({}, [])


def test_links(interfaces, topology, index):
    link = interfaces.links.get(index)
    assert link == interfaces.links.by_name("to-caller")
    assert (link.name, link.mac, link.mtu) == ("to-caller", topology.caller.gateway.mac, 1500)
    assert (link.is_up, link.is_ethernet, link.xdp_mode, link.xdp_program_id) == (True, True, "", 0)
    assert not interfaces.links.by_name("lo").is_ethernet
    assert (interfaces.links.get(999), interfaces.links.by_name("eth7")) == (None, None)


@pytest.mark.vm
def test_attach_and_detach(network, interfaces, index):
    assert interfaces.attach(index) == Report("to-caller", Tier.XDP)
    assert str(interfaces.attach(index)) == "to-caller: kernel, native XDP"
    assert network.tier("to-caller") is Tier.XDP
    assert programs(network) == {"to-caller": XDP_NAME}
    assert list(network.xdp_programs()) == ["to-caller"]
    interfaces.detach_all()
    assert network.tier("to-caller") is None
    assert (programs(network), network.xdp_programs(), interfaces.reports()) == ({}, {}, [])


def test_attaching_twice_is_attaching_once(network, interfaces, index):
    first = interfaces.attach(index)
    id_before = interfaces.links.get(index).xdp_program_id
    assert interfaces.attach(index) is first
    assert interfaces.links.get(index).xdp_program_id == id_before
    assert interfaces.reports() == [first]


def test_again_after_detaching(network, interfaces, index):
    interfaces.attach(index)
    interfaces.detach_all()
    network.interfaces.links.reload()
    assert interfaces.attach(index).tier is Tier.XDP
    assert programs(network) == {"to-caller": XDP_NAME}


@pytest.mark.vm
def test_foreign_program_is_left_alone_and_reported(network, interfaces, index, foreign_fd):
    attach_foreign(network, index, foreign_fd)
    interfaces.links.reload()
    report = interfaces.attach(index)
    expected = f"somebody else's XDP program {FOREIGN} is attached; it was left alone"
    assert report == Report("to-caller", Tier.TC, expected)
    assert str(report) == f"to-caller: kernel, TC ({expected})"
    assert network.tier("to-caller") is Tier.TC
    interfaces.detach_all()
    assert programs(network) == {"to-caller": FOREIGN}


def test_foreign_program_that_no_event_told_of(network, interfaces, index, foreign_fd):
    attach_foreign(network, index, foreign_fd)
    report = interfaces.attach(index)
    assert (report.tier, report.reason) == (Tier.TC, "no native XDP: XDP program already attached")
    assert programs(network) == {"to-caller": FOREIGN}
    # The next try knows whose it is, and is the last one.
    assert interfaces.failed() == {(index, Hook.XDP)}
    (report,) = interfaces.renew(index)
    assert report.reason == f"somebody else's XDP program {FOREIGN} is attached; it was left alone"
    assert (interfaces.failed(), network.tc_programs()) == (set(), {"to-caller": [TC_NAME]})


def test_other_instance_is_named(network, interfaces, index):
    fd = load_plain_xdp("rtpp_x_other")
    attach_foreign(network, index, fd)
    os.close(fd)
    interfaces.links.reload()
    assert interfaces.attach(index).reason == "another rtpproxy instance has it: XDP program rtpp_x_other"
    assert programs(network) == {"to-caller": "rtpp_x_other"}


def test_foreign_replacement_stays(network, interfaces, index, foreign_fd, caplog):
    interfaces.attach(index)
    attach_foreign(network, index, foreign_fd)
    interfaces.detach_all()
    assert programs(network) == {"to-caller": FOREIGN}
    assert "to-caller: our XDP program was replaced by somebody else's; left alone" in caplog.messages


def test_program_that_somebody_took_off_was_not_replaced(network, interfaces, index, caplog):
    caplog.set_level(logging.WARNING)
    interfaces.attach(index)
    network.ip("link set to-caller xdp off")
    interfaces.detach_all()
    assert not [line for line in caplog.messages if "replaced by somebody else's" in line]


def test_interface_that_vanished_is_no_matter_at_the_end(network, interfaces, index, caplog):
    interfaces.attach(index)
    network.ip("link del to-caller")
    interfaces.detach_all()
    assert caplog.messages == []


@pytest.mark.vm
def test_kernels_reason_is_in_the_report(network, topology, interfaces, index):
    topology.caller.run(["ip", "link", "set", topology.caller.ifname, "mtu", "9000"])
    report = interfaces.attach(index)
    assert report.tier is Tier.TC
    assert re.fullmatch("no native XDP: (veth: )?Peer MTU is too large to set XDP", report.reason)


@pytest.mark.vm
def test_interface_that_went_to_another_namespace_and_came_back(network, topology, interfaces, index):
    """Our program is still on it, and is not taken for another instance's."""
    interfaces.attach(index)
    network.ip(f"link set to-caller netns {topology.callee.ns}")
    network.follow(lambda: interfaces.links.get(index) is None, "the link to be gone")
    topology.callee.run(["ip", "link", "set", "to-caller", "netns", topology.relay.ns])
    network.follow(lambda: interfaces.links.by_name("to-caller") is not None, "the link")
    back = interfaces.links.by_name("to-caller")
    assert interfaces.attach(back.index) == Report("to-caller", Tier.XDP)
    interfaces.detach_all()
    assert programs(network) == {}


def test_links_that_went_while_events_were_lost(network, interfaces, index):
    interfaces.attach(index)
    network.ip("link del to-caller")
    interfaces.reload()
    assert (interfaces.reports(), interfaces.links.get(index)) == ([], None)


def test_driver_without_native_xdp(network, interfaces):
    network.ip("link add br0 type bridge")
    interfaces.links.reload()
    report = interfaces.attach(interfaces.links.by_name("br0").index)
    assert (report.name, report.tier) == ("br0", Tier.TC)
    assert report.reason.lower() == "no native xdp: underlying driver does not support xdp in native mode"
    assert network.tc_programs() == {"br0": [TC_NAME]}


def test_not_ethernet(interfaces):
    report = interfaces.attach(interfaces.links.by_name("lo").index)
    assert str(report) == "lo: userspace (not an Ethernet interface)"


def test_no_such_interface(interfaces):
    assert str(interfaces.attach(999)) == "interface 999: userspace (it is gone)"


def test_interface_that_was_asked_for_before_its_event_came(network, interfaces):
    """Addresses are asked for, links follow events: the address may be seen first."""
    network.ip("link add veth0 index 900 type veth peer veth1 index 901")
    interfaces.attach(900)
    network.take_events()
    assert interfaces.attach(900) == Report("veth0", Tier.XDP)


def test_events_keep_links_true(network, interfaces, index):
    network.ip("link set to-caller mtu 1400")
    network.follow(lambda: interfaces.links.get(index).mtu == 1400, "the MTU")
    network.ip("link set to-caller down")
    network.follow(lambda: not interfaces.links.get(index).is_up, "the link to be down")
    network.ip("link set to-caller name renamed")
    network.follow(lambda: interfaces.links.by_name("renamed") is not None, "the name")
    network.ip("link del renamed")
    network.follow(lambda: interfaces.links.get(index) is None, "the link to be gone")


def test_number_that_comes_again_is_attached_again(network, interfaces):
    for mac in ("02:00:00:00:09:01", "02:00:00:00:09:02"):
        network.ip(f"link add veth0 index 900 address {mac} type veth peer veth1 index 901")
        network.follow(lambda mac=mac: getattr(interfaces.links.get(900), "mac", "") == mac, "the link")
        assert interfaces.attach(900).tier is Tier.XDP
        network.ip("link del veth0")
        network.follow(lambda: interfaces.links.get(900) is None, "the link to be gone")


def test_bridge_ports_own_events_are_no_change(network, interfaces):
    network.ip("link add br0 type bridge", "link add veth0 index 900 type veth peer veth1 index 901")
    network.follow(lambda: interfaces.links.get(900) is not None, "the link")
    network.ip("link set veth0 master br0", "link set veth0 nomaster", "link set veth0 mtu 1300")
    network.follow(lambda: interfaces.links.get(900).mtu == 1300, "the MTU")
    assert interfaces.links.get(900).name == "veth0"


def test_carriers(network, topology, index):
    network.ip("addr add 10.0.1.100/24 dev to-caller", "addr add 192.0.2.1/32 dev lo")
    caller, callee = index, topology.callee.gateway.ifindex
    assert carriers(network.netlink, {"10.0.2.1"}) == [callee]
    assert carriers(network.netlink, {"10.0.1.100"}) == [caller]
    assert carriers(network.netlink, {"192.0.2.1"}) == [1]
    assert sorted(carriers(network.netlink, {"10.0.1.1", "10.0.1.100", "10.0.2.1"})) == [caller, callee]
    assert sorted(carriers(network.netlink, {""})) == [1, caller, callee]
    assert sorted(carriers(network.netlink, {"", "10.0.2.1"})) == [1, caller, callee]
    assert carriers(network.netlink, {"203.0.113.1"}) == []
    assert carriers(network.netlink, set()) == []


CAPABILITIES = ("bpf", "perfmon", "net_admin", "net_raw")
AS_OPERATOR = """
import sys
from rtpproxy.offload import loader
from rtpproxy.offload.attach import Attachable, Interfaces, ProgramSet
from rtpproxy.offload.programs import LIMITS
from rtpproxy.network.netlink import Rtnetlink

names = {"on_xdp": "rtpp_x_op", "on_tc": "rtpp_t_op", "on_tc_behind_xdp": "rtpp_b_op"}
loaded = loader.load(LIMITS, names)
programs = ProgramSet(
    xdp=Attachable(names["on_xdp"], lambda: loaded.xdp_fd),
    tc=Attachable(names["on_tc"], lambda: loaded.tc_fd),
    tc_behind_xdp=Attachable(names["on_tc_behind_xdp"], lambda: loaded.tc_behind_xdp_fd),
)
interfaces = Interfaces(Rtnetlink(), programs)
for index in map(int, sys.argv[1:]):
    print(interfaces.attach(index))
interfaces.detach_all()
"""


def test_without_root(topology, network, index, foreign_fd):
    """The capabilities for loading and attaching must suffice to detach, and to leave others' programs alone."""
    other = topology.callee.gateway.ifindex
    attach_foreign(network, other, foreign_fd)
    command = [*with_capabilities(*CAPABILITIES), sys.executable, "-c", AS_OPERATOR, str(index), str(other)]
    done = topology.relay.run(command, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first == "to-caller: kernel, native XDP"
    assert second.startswith("to-callee: kernel, TC (somebody else's XDP program")
    assert (programs(network), network.tc_programs()) == ({"to-callee": FOREIGN}, {})


# TC


def test_tc_is_forced(tc_network, index):
    assert str(tc_network.interfaces.attach(index)) == "to-caller: kernel, TC (--offload tc)"
    assert (programs(tc_network), tc_network.tc_programs()) == ({}, {"to-caller": [TC_NAME]})
    tc_network.interfaces.detach_all()
    assert tc_network.tc_programs() == {}


def test_tc_is_forbidden(topology, loaded, index, foreign_fd):
    network = RelayNetwork(topology.relay, loaded, OffloadMode.XDP)
    attach_foreign(network, index, foreign_fd)
    network.interfaces.links.reload()
    assert network.interfaces.attach(index).tier is Tier.USERSPACE
    assert not network.interfaces.back_up_xdp()
    assert network.tc_programs() == {}
    network.close()


@pytest.mark.vm
def test_tc_behind_xdp(network, interfaces, topology, index):
    """On interfaces with XDP already, and on those that get it later."""
    interfaces.attach(index)
    assert network.tc_programs() == {}
    assert interfaces.back_up_xdp()
    interfaces.attach(topology.callee.gateway.ifindex)
    behind = {"to-caller": [TC_BEHIND_NAME], "to-callee": [TC_BEHIND_NAME]}
    assert network.tc_programs() == behind
    assert interfaces.back_up_xdp()
    assert network.tc_programs() == behind
    assert network.tier("to-caller") is Tier.XDP
    interfaces.detach_all()
    assert (programs(network), network.tc_programs()) == ({}, {})


# What becomes of our programs


def lost(interfaces, index):
    return [(loss.hook, loss.taken_by.partition(" ")[0]) for loss in interfaces.losses(index)]


def test_nothing_is_lost(network, interfaces, tc_network, index):
    interfaces.attach(index)
    interfaces.back_up_xdp()
    assert (lost(interfaces, index), interfaces.is_used(index)) == ([], True)
    assert (lost(interfaces, 999), interfaces.is_used(999)) == ([], False)


def test_program_that_is_gone_is_lost(network, interfaces, index):
    interfaces.attach(index)
    network.ip("link set to-caller xdp off")
    assert lost(interfaces, index) == [(Hook.XDP, "")]
    assert interfaces.renew(index, [Hook.XDP]) == [Report("to-caller", Tier.XDP)]
    assert (lost(interfaces, index), programs(network)) == ([], {"to-caller": XDP_NAME})


def test_event_that_is_older_than_our_program(network, interfaces, index):
    """It shows none; only the kernel's answer counts."""
    network.ip("link set to-caller mtu 1400")
    interfaces.attach(index)
    network.follow(lambda: interfaces.links.get(index).mtu == 1400, "the event")
    assert interfaces.losses(index, is_link_known=True) == []


def test_program_that_was_replaced_is_lost(network, interfaces, index, foreign_fd):
    interfaces.attach(index)
    attach_foreign(network, index, foreign_fd)
    assert lost(interfaces, index) == [(Hook.XDP, FOREIGN)]
    (report,) = interfaces.renew(index, [Hook.XDP])
    assert (report.tier, network.tc_programs()) == (Tier.TC, {"to-caller": [TC_NAME]})
    assert programs(network) == {"to-caller": FOREIGN}


@pytest.mark.vm
@pytest.mark.parametrize("command", ["filter del dev to-caller ingress", "qdisc del dev to-caller clsact"])
def test_filter_that_is_gone_is_lost(tc_network, index, command):
    interfaces = tc_network.interfaces
    interfaces.attach(index)
    tc_network.tc(command)
    assert lost(interfaces, index) == [(Hook.TC, "")]
    assert interfaces.renew(index, [Hook.TC]) == [Report("to-caller", Tier.TC, "--offload tc")]
    assert (lost(interfaces, index), tc_network.tc_programs()) == ([], {"to-caller": [TC_NAME]})


def test_filter_with_our_name_and_another_program_is_not_ours(tc_network, index):
    interfaces = tc_network.interfaces
    interfaces.attach(index)
    tc_network.tc("filter del dev to-caller ingress")
    fd = load_plain_tc(TC_NAME)
    tc_network.interfaces._clsact.attach(index, fd, TC_NAME)
    os.close(fd)
    assert lost(interfaces, index) == [(Hook.TC, "")]


def test_hooks_that_are_barred(network, interfaces, index):
    interfaces.attach(index)
    network.ip("link set to-caller xdp off")
    interfaces.bar(index, Hook.XDP, "taken off again")
    assert interfaces.renew(index, [Hook.XDP]) == [Report("to-caller", Tier.TC, "taken off again")]
    interfaces.bar(index, Hook.TC, "blocked")
    reason = "taken off again; no TC: blocked"
    assert interfaces.renew(index) == [Report("to-caller", Tier.USERSPACE, reason)]
    for hook in Hook:
        interfaces.unbar(index, hook)
    assert interfaces.renew(index) == [Report("to-caller", Tier.XDP)]
    assert (programs(network), network.tc_programs()) == ({"to-caller": XDP_NAME}, {"to-caller": []})


def test_tc_behind_xdp_comes_back_with_it(network, interfaces, index):
    interfaces.attach(index)
    interfaces.back_up_xdp()
    network.ip("link set to-caller xdp off")
    interfaces.bar(index, Hook.XDP, "taken off again")
    interfaces.renew(index, [Hook.XDP])
    assert network.tc_programs() == {"to-caller": [TC_NAME]}
    interfaces.unbar(index, Hook.XDP)
    interfaces.renew(index)
    assert (programs(network), network.tc_programs()) == ({"to-caller": XDP_NAME}, {"to-caller": [TC_BEHIND_NAME]})


@pytest.mark.vm
def test_vlan_interfaces_follow_what_carries_them(network, interfaces, index):
    add_or_skip(network.host, VLAN, "link to-caller name vlan5 index 905 up type vlan id 5")
    network.follow(lambda: interfaces.links.get(905) is not None, "the link")
    interfaces.attach(905)
    network.ip("link set to-caller xdp off")
    interfaces.bar(index, Hook.XDP, "taken off again")
    assert interfaces.renew(index, [Hook.XDP]) == [Report("vlan5", Tier.TC, "taken off again")]
    assert network.tc_programs() == {"vlan5": [TC_NAME]}
    interfaces.unbar(index, Hook.XDP)
    assert interfaces.renew(index) == [Report("vlan5", Tier.XDP, "by to-caller, which carries it")]
    assert (programs(network), network.tc_programs()) == ({"to-caller": XDP_NAME}, {"vlan5": []})


def test_filter_of_a_vlan_interface_that_is_gone(topology, tc_network, index):
    """A veth stands for the VLAN interface, which not every kernel has."""
    interfaces, other = tc_network.interfaces, topology.callee.gateway.ifindex
    interfaces.links._links[other] = replace(interfaces.links.get(other), parent=index, vlan=(0x8100, 5))
    interfaces.attach(other)
    tc_network.tc("filter del dev to-callee ingress")
    assert lost(interfaces, other) == [(Hook.TC, "")]
    assert interfaces.renew(other, [Hook.TC]) == [Report("to-callee", Tier.TC, "--offload tc")]
    assert tc_network.tc_programs() == {"to-callee": [TC_NAME]}


@pytest.mark.vm
def test_what_is_in_front_of_tc(topology, tc_network, index):
    interfaces = tc_network.interfaces
    assert topology.relay.call(interfaces.in_front, index) == []
    interfaces.attach(index)
    assert topology.relay.call(interfaces.in_front, index) == []
    with filter_in_front(topology.relay, "caller"):
        assert topology.relay.call(interfaces.in_front, index) == ["TC filter of priority 1 (bpf)"]
    assert topology.relay.call(interfaces.in_front, index) == []
    require_tcx(topology.relay, "caller")
    with tcx_in_front(topology.relay, "caller"):
        (named,) = topology.relay.call(interfaces.in_front, index)
        assert re.fullmatch(r"tcx program foreign_tcx \(id \d+\)", named)
    assert topology.relay.call(interfaces.in_front, index) == []


def test_userspace_where_xdp_is_demanded_and_lost(topology, loaded, index, foreign_fd):
    network = RelayNetwork(topology.relay, loaded, OffloadMode.XDP)
    network.interfaces.attach(index)
    attach_foreign(network, index, foreign_fd)
    assert lost(network.interfaces, index) == [(Hook.XDP, FOREIGN)]
    (report,) = network.interfaces.renew(index, [Hook.XDP])
    assert (report.tier, network.tc_programs()) == (Tier.USERSPACE, {})
    assert programs(network) == {"to-caller": FOREIGN}
    network.close()
