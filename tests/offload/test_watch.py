"""What is done where our programs are not what they were; interfaces and entries are doubles."""

import logging
import math
from types import SimpleNamespace

import pytest

from rtpproxy.errors import OffloadError
from rtpproxy.offload.attach import Hook, Loss, Report
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.forwarder import Contradicted
from rtpproxy.offload.patience import FIRST_PAUSE_S, PAUSE_S, TRIES
from rtpproxy.offload.watch import Watch

INDEX = 11
XDP_GONE, TC_GONE = Loss(Hook.XDP), Loss(Hook.TC)
TAKEN = Loss(Hook.XDP, "other (id 7)")
TOOK_OFF = "somebody took our XDP program off"


class FakeInterfaces:
    """One interface, eth0, whose hooks a test empties; `renew` attaches where nothing is barred."""

    def __init__(self):
        self.links = {INDEX: SimpleNamespace(index=INDEX, name="eth0", xdp_mode="")}
        self.lost = []
        self.front = []
        self.barred = {}
        self.renewed = 0
        self.asked_the_kernel = []
        self.error = None
        self.failing = set()
        self.healing = set()
        """Places where the next try succeeds."""
        self.is_loading = False
        """A program is being loaded that the interface waits for once it was tried."""
        self.waiting = set()

    def is_used(self, index):
        return index == INDEX

    def losses(self, index, *, is_link_known=False):
        if self.error:
            raise self.error
        self.asked_the_kernel.append(not is_link_known)
        return list(self.lost)

    def in_front(self, index):
        return list(self.front)

    def bar(self, index, hook, why):
        self.barred[index, hook] = why

    def unbar(self, index, hook):
        self.barred.pop((index, hook), None)

    def renew(self, index, lost=()):
        if self.error:
            raise self.error
        self.renewed += 1
        self.lost = []
        self.failing -= self.healing
        if self.is_loading:
            self.waiting.add(index)
        return [self.report(index)]

    def take_waiting(self):
        waiting, self.waiting = self.waiting, set()
        return waiting

    def reports_by(self, index):
        return [self.report(index)]

    def failed(self):
        return set(self.failing)

    def has(self, index, hook):
        return (index, hook) not in self.barred

    def report(self, index):
        if self.is_loading:
            return Report("eth0", Tier.USERSPACE, "the program is being loaded", is_waiting=True)
        tiers = {Hook.XDP: Tier.XDP, Hook.TC: Tier.TC}
        usable = [tier for hook, tier in tiers.items() if self.has(index, hook)]
        return Report("eth0", usable[0] if usable else Tier.USERSPACE)


class FakeForwarder:
    """Entries of two ports, and what a check of them finds."""

    def __init__(self):
        self.found = Contradicted({}, 0)
        self.ports = [35000, 35001]

    def check(self, now):
        return self.found

    def installed_by(self, ingress):
        return self.ports


class Scene:
    def __init__(self):
        self.interfaces, self.forwarder = FakeInterfaces(), FakeForwarder()
        self.forwarded = {35000: 10, 35001: 20}
        self.verdicts = {"up_fragment": 0, "up_no_entry": 0}
        links = self.interfaces.links
        self.interfaces.links = SimpleNamespace(get=links.get, all=lambda: list(links.values()))
        self.by_index = links
        self.watch = Watch(self.interfaces, self.forwarder, self.forwarded.__getitem__, lambda: self.verdicts)

    def lose(self, *losses, now=1.0):
        self.interfaces.lost = list(losses)
        self.watch.suspect(INDEX)
        return self.watch.check(now)

    def contradict(self, now, packets=50, *, is_new=False):
        self.forwarder.found = Contradicted({INDEX: is_new}, packets)
        return self.watch.tick(now)


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
def warnings(caplog):
    """Return a function that takes the warnings logged so far."""
    caplog.set_level(logging.INFO, "rtpproxy.offload.watch")

    def take():
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        caplog.clear()
        return lines

    return take


def test_all_is_well(scene, warnings):
    assert scene.lose() == set()
    assert (scene.interfaces.renewed, warnings()) == (0, [])
    assert scene.watch.check(2.0) == set()
    assert scene.interfaces.asked_the_kernel == [False]


def test_other_interfaces_are_nobodys_concern(scene):
    scene.watch.suspect(99)
    assert scene.watch.check(1.0) == set()
    assert scene.interfaces.asked_the_kernel == []


def test_all_interfaces_after_lost_events(scene):
    scene.interfaces.lost = [XDP_GONE]
    scene.watch.suspect_all()
    assert scene.watch.check(1.0) == {INDEX}


def test_program_that_was_taken_off(scene, warnings):
    assert scene.lose(XDP_GONE) == {INDEX}
    assert (scene.interfaces.renewed, scene.interfaces.barred) == (1, {})
    assert warnings() == [f"eth0: {TOOK_OFF}; attached again"]
    assert scene.lose(XDP_GONE) == {INDEX}
    assert warnings() == []


def test_filter_that_was_deleted(scene, warnings):
    assert scene.lose(TC_GONE) == {INDEX}
    assert warnings() == ["eth0: somebody deleted our TC filter; attached again"]


def test_somebody_who_insists(scene, warnings):
    for _ in range(TRIES):
        scene.lose(XDP_GONE)
    warnings()
    scene.lose(XDP_GONE, now=5.0)
    why = f"{TOOK_OFF} again and again; next try in {PAUSE_S:.0f} s"
    assert scene.interfaces.barred == {(INDEX, Hook.XDP): why}
    assert warnings() == [f"eth0: {TOOK_OFF}; eth0: kernel, TC"]
    assert scene.watch.tick(5.0 + PAUSE_S - 1) == set()
    assert scene.watch.tick(5.0 + PAUSE_S) == {INDEX}
    assert (scene.interfaces.barred, scene.interfaces.renewed) == ({}, TRIES + 2)
    assert scene.watch.tick(6.0 + PAUSE_S) == set()


def test_program_in_the_place_of_ours(scene, warnings):
    scene.by_index[INDEX].xdp_mode = "xdp"
    assert scene.lose(TAKEN) == {INDEX}
    why = "somebody else's XDP program other (id 7) took the place of ours and was left alone"
    assert scene.interfaces.barred == {(INDEX, Hook.XDP): why}
    assert warnings() == [f"eth0: {why}; eth0: kernel, TC"]
    assert scene.watch.tick(1e9) == set()
    assert scene.lose() == set()
    scene.by_index[INDEX].xdp_mode = ""
    assert scene.lose() == {INDEX}
    assert (scene.interfaces.barred, warnings()) == ({}, [])


def test_places_that_change_hands_often(scene):
    for _ in range(TRIES + 1):
        scene.by_index[INDEX].xdp_mode = "xdp"
        scene.lose(TAKEN, now=2.0)
        scene.by_index[INDEX].xdp_mode = ""
        scene.lose(now=2.0)
    assert "again and again" in scene.interfaces.barred[INDEX, Hook.XDP]


def test_kernel_that_does_not_answer(scene, caplog):
    scene.interfaces.error = OffloadError("Operation not permitted")
    assert scene.lose(XDP_GONE) == set()
    assert caplog.messages == ["eth0: cannot see to it that our programs are attached: Operation not permitted"]


def test_contradiction_makes_it_ask_the_kernel(scene):
    scene.interfaces.lost = [XDP_GONE]
    assert scene.contradict(1.0, is_new=True) == {INDEX}
    assert scene.interfaces.asked_the_kernel == [True]


def test_obstacle_that_stops_everything(scene, warnings):
    scene.interfaces.bar(INDEX, Hook.XDP, "TC only")
    scene.interfaces.front = ["tcx program 7"]
    why = "tcx program 7 in front of our TC program keeps packets from it"
    assert scene.contradict(1.0, is_new=True) == set()
    assert warnings() == [f"eth0: {why}"]
    assert scene.contradict(2.0) == {INDEX}
    assert scene.interfaces.barred[INDEX, Hook.TC] == why
    scene.forwarder.found = Contradicted({}, 0)
    assert scene.watch.tick(3.0) == set()
    scene.interfaces.front = []
    assert scene.watch.tick(4.0) == {INDEX}
    assert ((INDEX, Hook.TC) in scene.interfaces.barred, warnings()) == (False, [])


def test_obstacle_is_tried_again_after_a_while(scene):
    scene.interfaces.bar(INDEX, Hook.XDP, "TC only")
    scene.interfaces.front = ["tcx program 7"]
    scene.contradict(1.0)
    scene.contradict(2.0)
    scene.forwarder.found = Contradicted({}, 0)
    assert scene.watch.tick(2.0 + PAUSE_S) == {INDEX}


def test_obstacle_that_lets_others_pass(scene, warnings):
    """Only its own streams stay in userspace then."""
    scene.interfaces.bar(INDEX, Hook.XDP, "TC only")
    scene.interfaces.front = ["TC filter of priority 1 (bpf)"]
    scene.contradict(1.0)
    for now in (2.0, 3.0):
        scene.forwarded[35001] += 50
        assert scene.contradict(now) == set()
    assert (INDEX, Hook.TC) not in scene.interfaces.barred
    assert len(warnings()) == 1


def test_obstacle_beside_verdicts_on_other_frames(scene, warnings):
    """They are those of the whole host, of a trunk's other VLANs for instance; that nothing passes tells."""
    scene.interfaces.bar(INDEX, Hook.XDP, "TC only")
    scene.interfaces.front = ["tcx program 7"]
    scene.verdicts["up_fragment"] += 50
    assert scene.contradict(1.0) == set()
    assert warnings() == []
    scene.verdicts["up_fragment"] += 50
    assert scene.contradict(2.0) == {INDEX}
    assert (INDEX, Hook.TC) in scene.interfaces.barred
    (told,) = warnings()
    assert told.startswith("eth0: tcx program 7 in front of our TC program")


def test_obstacle_that_lets_others_pass_beside_verdicts_that_explain(scene, warnings):
    scene.interfaces.bar(INDEX, Hook.XDP, "TC only")
    scene.interfaces.front = ["TC filter of priority 1 (bpf)"]
    for now in (1.0, 2.0, 3.0):
        scene.verdicts["up_fragment"] += 50
        scene.forwarded[35001] += 50
        assert scene.contradict(now) == set()
    assert (scene.interfaces.barred.keys(), warnings()) == ({(INDEX, Hook.XDP)}, [])


def test_obstacle_in_front_of_tc_behind_xdp(scene):
    """The rest of the interface goes on by XDP."""
    scene.interfaces.front = ["tcx program 7"]
    for now in (1.0, 2.0, 3.0):
        assert scene.contradict(now) == set()
    assert scene.interfaces.barred == {}


def test_verdicts_explain_packets_that_come_up(scene, warnings):
    scene.verdicts["up_fragment"] += 50
    assert scene.contradict(1.0, is_new=True) == set()
    assert warnings() == []


def test_verdicts_on_frames_without_entry_explain_nothing(scene, warnings):
    scene.verdicts["up_no_entry"] += 50
    assert scene.contradict(1.0, is_new=True) == set()
    (told,) = warnings()
    assert told.startswith("eth0: packets of its streams reach userspace although the kernel should forward them")
    scene.contradict(2.0)
    assert warnings() == []


def test_interface_that_is_gone(scene, warnings):
    """Its number may come again, with another interface."""
    scene.by_index[INDEX].xdp_mode = "xdp"
    scene.lose(TAKEN)
    link = scene.by_index.pop(INDEX)
    scene.watch.suspect(INDEX)
    assert scene.watch.check(2.0) == scene.watch.tick(2.0) == set()
    warnings()
    scene.by_index[INDEX] = link
    scene.interfaces.barred.clear()
    scene.lose(TAKEN)
    assert len(warnings()) == 1
    assert scene.watch._barred_until == {(INDEX, Hook.XDP): math.inf}


def test_what_failed_in_passing_is_tried_again(scene, warnings, caplog):
    """Not at each tick, and until it succeeds; nothing of that is a warning."""
    place = INDEX, Hook.XDP
    scene.interfaces.failing = {place}
    renewed_at = []
    for now in range(100):
        before = scene.interfaces.renewed
        if now == 60:
            scene.interfaces.healing = {place}
        changed = scene.watch.tick(float(now))
        if scene.interfaces.renewed > before:
            renewed_at.append(now)
        assert changed == ({INDEX} if not scene.interfaces.failing and now == renewed_at[-1] else set())
    first = FIRST_PAUSE_S
    assert renewed_at == [first, 3 * first, 7 * first, 15 * first]
    assert caplog.messages == ["eth0: trying XDP again"] * 4
    assert warnings() == []


def test_both_hooks_are_tried_again_at_once(scene, caplog, warnings):
    scene.interfaces.failing = scene.interfaces.healing = {(INDEX, Hook.XDP), (INDEX, Hook.TC)}
    assert scene.watch.tick(0.0) == set()
    assert scene.watch.tick(FIRST_PAUSE_S) == {INDEX}
    assert (caplog.messages, scene.interfaces.renewed) == (["eth0: trying XDP and TC again"], 1)


def test_hooks_that_failed_one_after_the_other_are_tried_together(scene, caplog):
    """A tick fell between the two failures."""
    caplog.set_level(logging.INFO, "rtpproxy.offload.watch")
    scene.interfaces.failing = {(INDEX, Hook.XDP)}
    scene.watch.tick(0.0)
    scene.interfaces.failing = {(INDEX, Hook.XDP), (INDEX, Hook.TC)}
    scene.watch.tick(1.0)
    scene.interfaces.healing = scene.interfaces.failing
    assert scene.watch.tick(FIRST_PAUSE_S) == {INDEX}
    assert caplog.messages == ["eth0: trying XDP and TC again"]


def test_try_that_the_kernel_does_not_answer(scene, caplog):
    scene.interfaces.failing = {(INDEX, Hook.TC)}
    scene.watch.tick(0.0)
    scene.interfaces.error = OffloadError("Operation not permitted")
    assert scene.watch.tick(FIRST_PAUSE_S) == set()
    assert caplog.messages == ["eth0: cannot attach again: Operation not permitted"]


def test_loss_is_told_with_what_was_done_once_the_program_for_that_is_loaded(scene, warnings):
    scene.interfaces.is_loading = True
    assert scene.lose(TAKEN) == {INDEX}
    assert scene.watch.retry_waiting() == {INDEX}
    assert warnings() == []
    scene.interfaces.is_loading = False
    assert scene.watch.retry_waiting() == {INDEX}
    why = "somebody else's XDP program other (id 7) took the place of ours and was left alone"
    assert warnings() == [f"eth0: {why}; eth0: kernel, TC"]
    renewed = scene.interfaces.renewed
    assert (scene.watch.retry_waiting(), scene.interfaces.renewed, warnings()) == (set(), renewed, [])


def test_loss_is_told_at_the_end_at_the_latest(scene, warnings):
    scene.interfaces.is_loading = True
    scene.lose(XDP_GONE)
    assert warnings() == []
    scene.watch.close()
    assert warnings() == [f"eth0: {TOOK_OFF}; attached again"]


def test_interface_that_is_gone_while_it_waits_for_a_program(scene, warnings):
    scene.interfaces.is_loading = True
    scene.lose(TAKEN)
    scene.by_index.pop(INDEX)
    scene.watch.suspect(INDEX)
    scene.interfaces.waiting.clear()
    scene.interfaces.is_loading = False
    assert (scene.watch.retry_waiting(), warnings()) == (set(), [])


def test_kernel_that_does_not_answer_when_the_program_is_loaded(scene, caplog):
    scene.interfaces.waiting = {INDEX}
    scene.interfaces.error = OffloadError("Operation not permitted")
    assert scene.watch.retry_waiting() == {INDEX}
    assert caplog.messages == ["eth0: cannot attach again: Operation not permitted"]
