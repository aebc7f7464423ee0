"""One run from the first command to the last: relays asked, calls placed, media sent and judged, calls ended."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field

from generator.accounts import Account
from generator.calls import Calls
from generator.control import Clients, NoAnswerError
from generator.host import drops_of, silenced
from generator.interface import Interface
from generator.judge import Judge
from generator.media import Media, pump
from generator.schedule import NS, Schedule
from generator.settings import Settings, SettingsError
from generator.side import Side, UnreachableError
from generator.signalling import RefusedError
from generator.staging import Staging
from generator.watch import Takeover, Watch

_VERSION = "20040107"
_COMMAND_DEADLINE_S = 120.0
_PROGRESS_S = 5


class Stopped(BaseException):
    """A signal asked for the end of the run."""


class Stopping:
    """Ends a run that a signal asks to end: at once, or where a block that is going on has come to a good point."""

    def __init__(self) -> None:
        self.number: int | None = None
        """Of the signal, once it came."""
        self._is_put_off = False

    def ask(self, number: int) -> None:
        """Ask for the end. Raises Stopped, unless that is put off."""
        self.number = number
        if not self._is_put_off:
            raise Stopped

    @contextlib.contextmanager
    def put_off(self) -> Iterator[None]:
        """Raise nothing in this block, which looks at `number`, or does what has to be done in any case."""
        self._is_put_off = True
        try:
            yield
        finally:
            self._is_put_off = False


@dataclass
class Outcome:
    """What a run found out."""

    settings: Settings
    accounts: list[Account] = field(default_factory=list)
    withheld: list[Schedule] = field(default_factory=list)
    judge: Judge = field(default_factory=lambda: Judge({}))
    takeover: Takeover = field(default_factory=lambda: Takeover(0))
    began_ns: int | None = None
    strays_sent: int = 0
    sent_late: int = 0
    dropped: int = 0
    interface_drops: int = 0
    faults: list[str] = field(default_factory=list)
    stopped_by: int | None = None

    @property
    def takeover_s(self) -> float | None:
        """From the first packet of all streams until the kernel forwarded all; None if it did not, or is unknown."""
        if self.takeover.at_ns is None or self.began_ns is None:
            return None
        return max(0.0, (self.takeover.at_ns - self.began_ns) / NS)


def execute(settings: Settings, tell: Callable[[str], None], stopping: Stopping) -> Outcome:
    """Do a run. `tell` shows progress; what `stopping` asks for is an ordinary end, earlier: the calls are ended.

    Raises SettingsError, also for interfaces that cannot be opened.
    """
    settings.check()
    outcome = Outcome(settings)
    with contextlib.ExitStack() as stack:
        clients = stack.enter_context(Clients(settings.controls, settings.deadline_s))
        calls = Calls(settings, clients)
        try:
            with contextlib.ExitStack() as opened:
                _Run(settings, clients, calls, outcome, tell, opened).execute(stopping)
        except (NoAnswerError, RefusedError, UnreachableError) as error:
            outcome.faults.append(str(error))
        except OSError as error:  # an interface that has gone away, or is down
            outcome.faults.append(error.strerror or str(error))
        except Stopped:
            pass  # and told below
        finally:
            with stopping.put_off():
                calls.end()
        outcome.stopped_by = stopping.number
        outcome.faults += calls.faults
    return outcome


class _Run:
    """The parts of a run while it is going on."""

    def __init__(
        self,
        settings: Settings,
        clients: Clients,
        calls: Calls,
        outcome: Outcome,
        tell: Callable[[str], None],
        opened: contextlib.ExitStack,
    ) -> None:
        self._settings = settings
        self._clients = clients
        self._calls = calls
        self._outcome = outcome
        self._tell = tell
        self._opened = opened
        self._orders: list[Future[None]] = []

    def execute(self, stopping: Stopping) -> None:
        settings, outcome = self._settings, self._outcome
        self._ask_relays()
        watch = Watch(settings.controls, settings.deadline_s)
        self._opened.callback(watch.finish)
        interfaces, sides = self._open_interfaces()
        self._tell(f"placing {settings.calls} calls")
        self._calls.place()
        self._resolve(interfaces, sides)
        self._opened.enter_context(_all_silenced(settings, sides))
        judge = outcome.judge = Judge({interface.name: [] for interface in interfaces})
        media = Media([], interfaces, sides, judge)
        staging = Staging(settings, self._calls.placed, media)
        for sender, receiver in (sides, sides[::-1]):
            staging.add_streams(sender, receiver)
        staging.add_strays(sides)
        outcome.accounts, outcome.withheld = staging.accounts, staging.schedules
        drops = sum(drops_of(interface.name) for interface in interfaces)
        executor = self._opened.enter_context(ThreadPoolExecutor(1))
        self._add_orders(media, executor)
        self._add_progress(media)
        self._tell(f"sending for {settings.duration_s:g} s")
        watch.start(2 * settings.calls)
        try:
            with stopping.put_off():
                media.run(lambda: stopping.number is not None)
        finally:
            outcome.takeover = watch.finish()
            outcome.began_ns = media.began_ns
            outcome.sent_late = media.sent_late
            outcome.dropped = media.dropped
            outcome.strays_sent = media.strays_sent
            outcome.interface_drops = sum(drops_of(interface.name) for interface in interfaces) - drops
        self._collect_orders()

    def _ask_relays(self) -> None:
        for number, address in enumerate(self._clients.addresses):
            reply = self._clients[number].ask("V")
            if reply != _VERSION:
                raise RefusedError(f"{address} answered 'V' with {reply!r}: this is no RTPproxy, which says {_VERSION}")

    def _open_interfaces(self) -> tuple[list[Interface], list[Side]]:
        by_name: dict[str, Interface] = {}
        for side in self._settings.sides:
            if side.interface not in by_name:
                is_promiscuous = not all(one.uses_interface_mac for one in self._settings.sides)
                try:
                    interface = Interface(side.interface, is_promiscuous=is_promiscuous)
                except PermissionError as error:
                    raise SettingsError("whole frames are sent and received by root, or with CAP_NET_RAW") from error
                except OSError as error:
                    raise SettingsError(f"--{side.name} {side.interface}: {error.strerror}") from error
                by_name[side.interface] = self._opened.enter_context(interface)
        sides = [Side(side, self._settings, by_name[side.interface]) for side in self._settings.sides]
        return list(by_name.values()), sides

    def _resolve(self, interfaces: list[Interface], sides: list[Side]) -> None:
        """Find out the MAC addresses of relays and gateways, answering for the phones meanwhile."""
        relays = [{call.relay_beside(side.name).address for call in self._calls.placed} for side in sides]
        for side, addresses in zip(sides, relays, strict=True):
            for address in addresses:
                if (":" in address) != (side.settings.addresses.version == 6):
                    raise SettingsError(
                        f"the {side.name}'s phones shall send to {address}, which is of another family than theirs:"
                        f" --{side.name}-relay, or --offer-modifiers and --answer-modifiers for relays in bridge mode"
                    )
        end = time.monotonic() + self._settings.deadline_s
        nobody = Judge({interface.name: [] for interface in interfaces})
        while True:
            missing = [side.missing(addresses) for side, addresses in zip(sides, relays, strict=True)]
            if not any(missing):
                return
            for side, targets in zip(sides, missing, strict=True):
                if targets and time.monotonic() > end:
                    raise UnreachableError(
                        f"nobody at {side.interface.name} answers for {', '.join(sorted(targets))}"
                        f" ({'neighbour solicitation' if ':' in min(targets) else 'ARP'}): is this the relay's address"
                        f" as the {side.name}'s phones see it? If there is a router between, give --{side.name}-gateway"
                    )
                side.ask(targets)
            pump(interfaces, sides, nobody, 0)
            time.sleep(0.002)

    def _add_orders(self, media: Media, executor: ThreadPoolExecutor) -> None:
        """Commands that are sent beside the media, by a thread of their own."""
        hold = self._settings.hold
        if hold is not None:
            for at_s, order in ((hold.at_s, self._calls.hold), (hold.at_s + hold.for_s, self._calls.resume)):
                media.events.append((round(at_s * NS), functools.partial(self._order, executor, order)))

    def _add_progress(self, media: Media) -> None:
        """Tell every few seconds how far it is."""
        for second in range(_PROGRESS_S, math.ceil(self._settings.duration_s), _PROGRESS_S):
            media.events.append((second * NS, functools.partial(self._tell_progress, media, second)))

    def _tell_progress(self, media: Media, second: int) -> None:
        self._tell(f"{second} s: {sum(one.sent for one in media.outgoing)} packets sent")

    def _order(self, executor: ThreadPoolExecutor, order: Callable[[], None]) -> None:
        self._orders.append(executor.submit(order))

    def _collect_orders(self) -> None:
        """Wait until the commands that were sent during the media are answered."""
        for order in self._orders:
            try:
                order.result(_COMMAND_DEADLINE_S)
            except (NoAnswerError, RefusedError) as error:
                self._outcome.faults.append(str(error))
            except FutureTimeoutError:
                self._outcome.faults.append(f"commands were not answered within {_COMMAND_DEADLINE_S:g} s")


@contextlib.contextmanager
def _all_silenced(settings: Settings, sides: list[Side]) -> Iterator[None]:
    places = []
    for side in sides:
        for call in range(settings.calls):
            places.append(side.settings.place(call))
            if settings.rebinding and settings.rebinding.side == side.name:
                changes_address = settings.rebinding.changes_address
                places.append(side.settings.moved(call, settings.calls, changes_address=changes_address))
    own = sides[0].own_addresses | sides[1].own_addresses
    ports = {(place.address, place.port + offset) for place in places for offset in (0, 1) if place.address in own}
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(silenced(sorted(ports)))
        except OSError as error:
            raise SettingsError(f"the phones' ports on this host's own address cannot be kept: {error}") from error
        yield
