"""Compares what the relay says of its programs with what the kernel says, and acts where they differ.

Somebody else may detach our programs, replace them, or put a program in front that keeps packets from them. Links and
traffic control report most of that by events; the rest shows in packets that come up although they have an entry. Then
our program is attached again where nobody else is, else the next tier is taken, and one warning tells why. What could
not be loaded or attached for a reason that may pass is tried again, too.
"""

import logging
import math
from collections.abc import Callable, Mapping

from rtpproxy.errors import OffloadError
from rtpproxy.offload.attach import Hook, Interfaces, Loss, Place
from rtpproxy.offload.entry import Tier
from rtpproxy.offload.forwarder import Forwarder
from rtpproxy.offload.patience import PAUSE_S, Patience, Retries

log = logging.getLogger(__name__)

_UNEXPLAINING = {
    *("up_not_ip", "up_not_udp", "up_not_ours", "up_malformed", "up_no_entry", "up_other_source"),
    # Left to the TC program behind XDP, which counts itself what it leaves to userspace.
    "up_to_tc",
}
"""Verdicts on frames that have no entry, or that another program takes. All others explain why a packet came up."""


_UNEXPLAINED = (
    "packets of its streams reach userspace although the kernel should forward them, and no program counted why: they "
    "may arrive by another interface than the route back, or somebody else's program keeps them from ours"
)


class Watch:
    """Watches the programs on the interfaces of one relay. Times are seconds, monotonic."""

    def __init__(
        self,
        interfaces: Interfaces,
        forwarder: Forwarder,
        forwarded: Callable[[int], int],
        verdicts: Callable[[], Mapping[str, int]],
    ) -> None:
        """`forwarded` reads the kernel's count of a port, by its key; `verdicts` its counts of frames by reason."""
        self._interfaces = interfaces
        self._forwarder = forwarder
        self._forwarded = forwarded
        self._verdicts = verdicts
        self._patience = Patience()
        self._retries = Retries()
        self._suspects: dict[int, None] = {}
        self._untold: dict[int, list[Loss]] = {}
        """By interface: losses that are told once a program was loaded, because that tells what became of them."""
        self._barred_until: dict[Place, float] = {}
        """Where nothing is attached for now, and until when; infinite while somebody else's program is there."""
        self._obstacles: dict[int, list[str]] = {}
        """By interface whose TC is barred: what keeps packets from our program."""
        self._counts: dict[int, dict[int, int]] = {}
        """By interface with contradictions: what the kernel had counted at its ports at the last tick."""
        self._explained = 0
        self._told: set[tuple[int, str]] = set()

    def close(self) -> None:
        """Tell what is left to tell. To be called before our programs are detached."""
        self._tell_losses(is_end=True)

    def suspect(self, index: int) -> None:
        """Look at an interface at the next `check`: it changed, or what is attached to it."""
        if self._interfaces.links.get(index) is None:
            self._forget(index)
        elif self._interfaces.is_used(index):
            self._suspects[index] = None

    def suspect_all(self) -> None:
        """Look at all interfaces at the next `check`, after events were lost."""
        for link in self._interfaces.links.all():
            self.suspect(link.index)

    def check(self, now: float) -> set[int]:
        """Look at the interfaces under suspicion, and repair. Returns those whose tier may have changed."""
        suspects, self._suspects = self._suspects, {}
        return {index for index in suspects if self._check(index, now, is_link_known=True)}

    def tick(self, now: float) -> set[int]:
        """Compare entries with packets, and try again what is due. To be called every second.

        Returns the interfaces whose tier may have changed.
        """
        contradicted = self._forwarder.check(now)
        explained = sum(count for name, count in self._verdicts().items() if _is_explaining(name))
        is_explained = explained - self._explained >= contradicted.packets
        self._explained = explained
        changed = set()
        for index, is_new in contradicted.ingress.items():
            if (is_new or not is_explained) and self._check(index, now):
                changed.add(index)
                continue
            # The verdicts are those of the whole host: they may be on other frames, and explain nothing here.
            obstacles = self._in_front(index)
            if obstacles and self._is_now_barred(index, obstacles, now, is_certain=is_new or not is_explained):
                changed.add(index)
            elif not (obstacles or is_explained):
                self._tell(index, _UNEXPLAINED)
        for index in self._counts.keys() - contradicted.ingress.keys():
            del self._counts[index]
        return changed | self._retry(now) | self._retry_failed(now)

    def _check(self, index: int, now: float, *, is_link_known: bool = False) -> bool:
        """Attach again what an interface lost, or take the next tier. Returns False if nothing was lost."""
        try:
            if self._barred_until.get((index, Hook.XDP)) == math.inf and not self._is_taken(index):
                self._release(index, Hook.XDP)
                self._bar_after_loss(index, Loss(Hook.XDP), now)
                self._interfaces.renew(index)
                return True
            losses = self._interfaces.losses(index, is_link_known=is_link_known)
            if not losses:
                return False
            for loss in losses:
                self._bar_after_loss(index, loss, now)
            self._interfaces.renew(index, [loss.hook for loss in losses])
        except OffloadError as error:
            log.error("%s: cannot see to it that our programs are attached: %s", self._name(index), error)
            return False
        self._untold.setdefault(index, []).extend(losses)
        self._tell_losses()
        return True

    def _tell_losses(self, *, is_end: bool = False) -> None:
        """Tell of programs that interfaces lost, and what was done; while one waits for a program, only at the end."""
        for index in list(self._untold):
            reports = self._interfaces.reports_by(index)
            if any(report.is_waiting for report in reports) and not is_end:
                continue
            for loss in self._untold.pop(index):
                is_back = self._interfaces.has(index, loss.hook)
                self._tell(index, f"{_words(loss)}; {'attached again' if is_back else '; '.join(map(str, reports))}")

    def _is_taken(self, index: int) -> bool:
        link = self._interfaces.links.get(index)
        return link is not None and bool(link.xdp_mode)

    def _bar_after_loss(self, index: int, loss: Loss, now: float) -> None:
        """Keep away from a hook where somebody else is, or from which somebody insists to take our program."""
        if loss.taken_by:
            self._bar(index, loss.hook, _words(loss), math.inf)
            return
        pause_s = self._patience.pause_s((index, loss.hook), now)
        if pause_s:
            self._bar(index, loss.hook, f"{_words(loss)} again and again; next try in {pause_s:.0f} s", now + pause_s)

    def _in_front(self, index: int) -> list[str]:
        try:
            return self._interfaces.in_front(index)
        except OffloadError as error:
            log.error("%s: cannot ask what is in front of our TC program: %s", self._name(index), error)
            return []

    def _is_now_barred(self, index: int, obstacles: list[str], now: float, *, is_certain: bool) -> bool:
        """Bar TC on an interface where nothing passes our program for a second, because of what is in front of it.

        What is in front is told at the first look if it is certain to be the reason, else once nothing passes.
        """
        report = self._interfaces.report(index)
        why = f"{' and '.join(obstacles)} in front of our TC program keeps packets from it"
        counts = {key: self._forwarded(key) for key in self._forwarder.installed_by(index)}
        before = self._counts.get(index)
        self._counts[index] = counts
        if before is None:
            if is_certain:
                self._tell(index, why)
            return False
        if report is None or report.tier is not Tier.TC:
            return False
        if any(count != before.get(key, count) for key, count in counts.items()):
            return False
        if (index, why) not in self._told:
            self._tell(index, why)
        self._bar(index, Hook.TC, why, now + PAUSE_S)
        self._obstacles[index] = obstacles
        self._interfaces.renew(index)
        return True

    def _retry(self, now: float) -> set[int]:
        """Attach where the time has come, or where what was in front changed. Returns the interfaces."""
        ready = set()
        for index, hook in list(self._barred_until):
            try:
                if now >= self._barred_until[index, hook] or self._is_freed(index, hook):
                    self._release(index, hook)
                    self._interfaces.renew(index)
                    ready.add(index)
            except OffloadError as error:
                log.error("%s: cannot attach again: %s", self._name(index), error)
        return ready

    def _retry_failed(self, now: float) -> set[int]:
        """Try again where attaching failed in passing, when it is time. Returns interfaces where it fails no more."""
        failed = self._interfaces.failed()
        for index in dict.fromkeys(index for index, _ in self._retries.due(failed, now)):
            hooks = [hook.value for hook in Hook if (index, hook) in failed]
            log.info("%s: trying %s again", self._name(index), " and ".join(hooks))
            self._renew(index)
        return {index for index, _ in failed - self._interfaces.failed()}

    def retry_waiting(self) -> set[int]:
        """Try again where a program was waited for; one was loaded, or could not be. Returns the interfaces."""
        waiting = self._interfaces.take_waiting()
        for index in waiting:
            self._renew(index)
        self._tell_losses()
        return waiting

    def _renew(self, index: int) -> None:
        try:
            self._interfaces.renew(index)
        except OffloadError as error:
            log.error("%s: cannot attach again: %s", self._name(index), error)

    def _is_freed(self, index: int, hook: Hook) -> bool:
        """Tell if what kept packets from our TC program is gone, or something else."""
        if hook is not Hook.TC or index not in self._obstacles:
            return False
        return self._interfaces.in_front(index) != self._obstacles[index]

    def _bar(self, index: int, hook: Hook, why: str, until: float) -> None:
        self._interfaces.bar(index, hook, why)
        self._barred_until[index, hook] = until

    def _release(self, index: int, hook: Hook) -> None:
        self._interfaces.unbar(index, hook)
        del self._barred_until[index, hook]
        if hook is Hook.TC:
            self._obstacles.pop(index, None)

    def _forget(self, index: int) -> None:
        """Forget an interface that is gone: its number may come again."""
        for hook in Hook:
            self._barred_until.pop((index, hook), None)
            self._patience.forget((index, hook))
        self._obstacles.pop(index, None)
        self._untold.pop(index, None)
        self._told = {told for told in self._told if told[0] != index}

    def _tell(self, index: int, what: str) -> None:
        """Warn the first time, once for each interface and cause."""
        level = logging.INFO if (index, what) in self._told else logging.WARNING
        if level == logging.WARNING or what is not _UNEXPLAINED:
            self._told.add((index, what))
            log.log(level, "%s: %s", self._name(index), what)

    def _name(self, index: int) -> str:
        link = self._interfaces.links.get(index)
        return link.name if link else f"interface {index}"


def _words(loss: Loss) -> str:
    if loss.hook is Hook.TC:
        return "somebody deleted our TC filter"
    if loss.taken_by:
        return f"somebody else's XDP program {loss.taken_by} took the place of ours and was left alone"
    return "somebody took our XDP program off"


def _is_explaining(verdict: str) -> bool:
    return verdict.startswith("up_") and verdict not in _UNEXPLAINING
