"""One relay: its parts are built from a configuration, started, and taken down in reverse order.

`build` makes all parts and wires them to each other. `serve` starts them in an order that other programs rely on, lets
them run until the relay is told to stop, and takes them down.
"""

import asyncio
import logging
import os
import random
import resource
from asyncio import AbstractEventLoop
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from rtpproxy.config import NOTES_DIRECTORY, Config, ControlKind, OffloadMode
from rtpproxy.control.dispatch import Dispatcher
from rtpproxy.control.parser import Parser
from rtpproxy.control.server import ControlServer
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.instance.ports import MediaPorts, build_kernel, build_ports
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.bound import BoundMedia
from rtpproxy.media.reservation import Reservation, take_back
from rtpproxy.media.sockets import check_local, route_source
from rtpproxy.media.steered import SteeredMedia
from rtpproxy.network.background import Background
from rtpproxy.network.host_networks import HostNetworks, HostNetworksFollower
from rtpproxy.notes.dead import DeadNote
from rtpproxy.notes.notes import Notes
from rtpproxy.notes.place import here
from rtpproxy.offload import leftovers
from rtpproxy.offload.off import NoKernelTier
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.tier import KernelTier
from rtpproxy.outbound.notify import Notifier
from rtpproxy.process import signals
from rtpproxy.process.privileges import check_root, identity
from rtpproxy.recording.arrivals import Arrivals
from rtpproxy.recording.directories import Directories
from rtpproxy.recording.off import NoRecorder
from rtpproxy.recording.recorder import Recorder
from rtpproxy.service.notification import TimeoutNotification
from rtpproxy.service.sessions import Service
from rtpproxy.session.local import LocalAddresses
from rtpproxy.session.ports import PortAllocator

log = logging.getLogger(__name__)

TICK_S = 1.0
REPORT_INTERVAL_S = 60.0
FILES_PER_SESSION = 5
"""Descriptors that a session needs where ports are bound: four sockets, and some room."""

Clock = Callable[[], float]
"""Monotonic time in seconds."""


class Clocks(NamedTuple):
    """The clocks that a relay reads."""

    monotonic: Clock
    wall: Callable[[], float]
    """Seconds since 1970, as in the kernel's timestamps; somebody may step it."""
    wall_ns: Callable[[], int]
    """The same in nanoseconds."""


OnReady = Callable[[Sequence[str]], Callable[[], None]]
"""Takes the warnings of the start, which the operator must see whatever the log level is.

May give up privileges. Returns what gives up, in the thread that calls it, the one that loading programs needs.
"""


async def serve(
    config: Config, clocks: Clocks, on_ready: OnReady, abort: Callable[[int], None], bound: Sequence[int] = ()
) -> None:
    """Run the relay until it is told to stop. Raises StartError when it cannot start.

    `on_ready` is called once everything serves; `abort` with the number of a signal that came while stopping. `bound`
    are descriptors of UDP sockets that are bound already, for control sockets.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_exception)
    stop = Stop(abort)
    signals.catch(loop, stop.on_signal, stop.slowly)
    with ExitStack() as stack:
        notes = Notes(_note_directories(), here)
        stack.callback(notes.close)
        server = await _open_control(config, clocks.monotonic, notes, bound, stack)
        parts = build(config, clocks, notes, server, stack)
        stop.follow(parts.service.stop_slowly)
        _start(parts, stop, stack)
        Ticks(parts, loop, clocks.monotonic, stop).start()
        if not stop.is_asked:
            give_up = on_ready(_warnings(parts))
            if config.user:
                parts.kernel.load_rest(give_up)
            parts.recorder.start()
            log.info("rtpproxy started")
        await stop.wait()
    log.info("rtpproxy stopped")


class Stop:
    """The request to stop, whoever makes it: a signal, the end of standard input, the end of the last session."""

    def __init__(self, abort: Callable[[int], None]) -> None:
        """`abort` is called with the number of a signal that comes while the relay is stopping."""
        self._abort = abort
        self._event = asyncio.Event()
        self._is_slow = False
        self._followers: list[Callable[[], None]] = []

    @property
    def is_asked(self) -> bool:
        """True once the relay must stop."""
        return self._event.is_set()

    async def wait(self) -> None:
        """Wait until the relay must stop."""
        await self._event.wait()

    def on_signal(self, number: int) -> None:
        """Stop cleanly; at the second signal, abort."""
        if self.is_asked:
            self._abort(number)
        log.info("stopping on signal %d", number)
        self._event.set()

    def now(self, why: str) -> None:
        """Stop cleanly; `why` is logged."""
        log.info("%s", why)
        self._event.set()

    def slowly(self) -> None:
        """Ask for a slow stop: no new sessions, and the end when the last one has ended."""
        log.info("stopping slowly: no new sessions; exit when the last one ends")
        self._is_slow = True
        for follower in self._followers:
            follower()

    def follow(self, follower: Callable[[], None]) -> None:
        """Call `follower` when a slow stop is asked for; at once, if it has been asked for already."""
        self._followers.append(follower)
        if self._is_slow:
            follower()


# Parts


class VerdictReport:
    """Logs frame counters by verdict."""

    def __init__(self, read: Callable[[], dict[str, int]]) -> None:
        """`read` gives the kernel's counters."""
        self._sources = [read]
        self._logged: dict[str, int] = {}

    def add(self, read: Callable[[], dict[str, int]]) -> None:
        """Log further counters after the others."""
        self._sources.append(read)

    def log_changes(self) -> None:
        """Log the counters if they changed since they were logged last."""
        if not log.isEnabledFor(logging.INFO):
            return
        verdicts = {name: count for read in self._sources for name, count in read().items()}
        if verdicts != self._logged:
            self._logged = verdicts
            counts = ", ".join(f"{name} {count}" for name, count in verdicts.items() if count)
            log.info("frames by verdict: %s", counts or "none")


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that one relay consists of."""

    config: Config
    notes: Notes
    local_addresses: LocalAddresses
    ports: MediaPorts
    kernel: KernelTier | NoKernelTier
    verdicts: VerdictReport
    recorder: Recorder | NoRecorder
    service: Service
    host_networks: HostNetworksFollower
    dispatcher: Dispatcher
    server: ControlServer


async def _open_control(
    config: Config, clock: Clock, notes: Notes, bound: Sequence[int], stack: ExitStack
) -> ControlServer:
    """Open the control sockets first of all, because a restarted relay that refuses commands is not asked for a minute.

    What comes waits there until the relay serves. Raises StartError.
    """
    server = ControlServer(
        *(config.control, clock),
        owner=identity(config),
        mode=config.socket_mode,
        allowed=config.control_allow,
        is_abandoned=lambda mark: mark in notes.abandoned_sockets(),
    )
    await server.open(bound)
    stack.callback(server.close)
    check_root(config, server.opened)  # a service manager may have passed a UDP socket
    for mark in server.marks:
        notes.ours.listen(mark)
    return server


def build(config: Config, clocks: Clocks, notes: Notes, server: ControlServer, stack: ExitStack) -> Parts:
    """Make all other parts of a relay and wire them. What takes each one down is pushed on `stack`. Raises StartError.

    Nothing is attached to an interface yet, no command is answered, and nothing that other relays see has changed.
    """
    local_addresses = LocalAddresses(config.listen, config.is_bridging, route_source)
    for address in local_addresses.known:
        check_local(address)

    def on_datagram(key: int, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        # Media and service know each other; no datagram comes before the event loop runs again.
        service.datagram(key, data, source, local_host, now)

    limit = AgeLimit(config.max_wait_ms / 1000, clocks.monotonic, clocks.wall)
    ports = build_ports(config, notes, local_addresses, on_datagram, limit, stack)
    verdicts = VerdictReport(ports.programs.tables.counts.verdicts if ports.programs else dict)
    background = Background(asyncio.get_running_loop())
    # The last report counts what was forwarded until the programs were detached.
    kernel = build_kernel(config, ports, background, verdicts.log_changes, stack)
    notifier = Notifier(asyncio.get_running_loop())
    stack.callback(notifier.close)
    programs = ports.programs if isinstance(kernel, KernelTier) else None
    recorder = _build_recorder(config, clocks, ports.media, programs, stack)
    service = Service(
        config,
        local_addresses,
        ports.media,
        kernel.forwarder,
        kernel.counters,
        recorder,
        _ports_maker(config, {address.port for address in server.opened if address.kind.is_datagram}),
        (TimeoutNotification(notifier),),
        _capacity(config, is_steered=ports.programs is not None),
    )
    verdicts.add(service.dropped)

    def on_host_networks(networks: HostNetworks) -> None:
        if service.host_has(networks.local, networks.broadcast, clocks.monotonic()):
            asyncio.get_running_loop().call_soon(judge_more)

    def judge_more() -> None:
        if service.judge_more(clocks.monotonic()):
            asyncio.get_running_loop().call_soon(judge_more)

    try:
        host_networks = HostNetworksFollower(asyncio.get_running_loop(), background, on_host_networks)
    except OSError as error:
        raise StartError(f"cannot ask for this host's addresses, to keep media from them: netlink: {error}") from error
    stack.callback(host_networks.close)
    stack.callback(background.close)
    dispatcher = Dispatcher(service, Parser(local_addresses))
    return Parts(
        *(config, notes, local_addresses, ports, kernel, verdicts, recorder, service),
        *(host_networks, dispatcher, server),
    )


def _note_directories() -> list[str]:
    """List where notes may be: those of root's relays and, for an ordinary user, those of that user's session."""
    session = "" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    return [NOTES_DIRECTORY, *([f"{session}/rtpproxy"] if os.path.isabs(session) else [])]


def _build_recorder(
    config: Config, clocks: Clocks, media: SteeredMedia | BoundMedia, programs: Programs | None, stack: ExitStack
) -> Recorder | NoRecorder:
    if not config.record_directory:
        return NoRecorder()
    directories = Directories(config.record_directory, config.spool_directory)
    open_ring = programs.tee.open if programs is not None else None
    arrivals = Arrivals(clocks.monotonic, clocks.wall_ns, media.stamp)
    recorder = Recorder(
        *(asyncio.get_running_loop(), config, directories, clocks.monotonic),
        open_ring,
        arrivals.arrived_ns,
    )
    stack.callback(lambda: recorder.close(clocks.monotonic()))
    return recorder


def _ports_maker(config: Config, excluded: Collection[int]) -> Callable[[], PortAllocator]:
    """Return what makes the allocator of one port space. All have one order, and leave out ports of control sockets."""
    seed = random.getrandbits(64)
    return lambda: PortAllocator(
        *(config.port_min, config.port_max, config.is_sequential),
        random.Random(seed),
        excluded,
    )


def _capacity(config: Config, *, is_steered: bool) -> int:
    """Count the sessions that fit: each needs two port pairs and, where ports are bound, their files."""
    sessions = (config.port_max - config.port_min + 2) // 4
    if not is_steered:
        sessions = min(sessions, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // FILES_PER_SESSION)
    return sessions


def on_input_end(kind: ControlKind, config: Config, stop: Stop) -> None:
    """Handle the end of standard input, which was a control socket (protocol.md 1.1, 12.3)."""
    if kind is ControlKind.STDIOC:
        stop.now("stopping: standard input ended")
    elif len(config.control) == 1:
        stop.slowly()


# Start


def _start(parts: Parts, stop: Stop, stack: ExitStack) -> None:
    """Claim media ports, clear up after killed relays, attach programs, answer commands.

    In this order. Raises StartError.
    """
    parts.service.control_is_at(parts.server.endpoints)
    parts.host_networks.start()
    for address in parts.local_addresses.known:
        parts.ports.claims.add(address)
    # From here on it is certain that no relay with these control sockets, or with these ports, runs.
    for note in parts.notes.dead():
        _undo(note, parts.notes)
    _reserve_ports(parts, stack)
    _announce(parts)
    parts.kernel.start()
    parts.server.serve(
        parts.dispatcher.execute,
        on_duplicate=parts.dispatcher.count_repeated,
        on_end=lambda kind: on_input_end(kind, parts.config, stop),
    )
    # First of all that is taken down: no command may be read that is not answered. The sockets are closed last.
    stack.callback(parts.server.stop)


def _undo(note: DeadNote, notes: Notes) -> None:
    """Undo what a relay left that was killed, as far as that is possible from here."""
    left = note.contents
    if left is None:
        note.remove()
        return
    try:
        is_undone = leftovers.detach(left.programs)
    except (OffloadError, OSError) as error:
        log.warning("cannot look for programs that a killed predecessor left: %s", error)
        is_undone = False
    if notes.is_here(left.place):
        others = [other.reserved for other in notes.living() if notes.is_here(other.place)]
        is_undone = take_back(left.reserved, others) and is_undone
    elif left.programs or left.reserved:
        # A relay in its network namespace will find what is to be done there.
        is_undone = False
    (note.remove if is_undone else note.keep)()


def _reserve_ports(parts: Parts, stack: ExitStack) -> None:
    """Tell the kernel about our media ports, where no sockets hold them."""
    if parts.ports.programs is not None:
        reservation = Reservation(parts.notes.ours)
        reservation.make(parts.config.port_min, parts.config.port_max + 1)
        stack.callback(reservation.undo)


def _announce(parts: Parts) -> None:
    config = parts.config
    for address in parts.server.opened:
        log.info("control socket %s", address)
    way = "bound" if parts.ports.programs is None else "steered"
    for listen in config.listen:
        where = listen.host or f"all local {'IPv6 ' if listen.is_ipv6 else ''}addresses"
        log.info("media ports %d-%d on %s, %s", config.port_min, config.port_max + 1, where, way)
    if parts.notes.ours.why_not:
        # Without BPF nothing is left that would have to be found.
        log.log(
            logging.INFO if parts.ports.programs is None else logging.WARNING,
            "no note of this relay is kept (%s): other relays do not learn which ports it has, and its successor does "
            "not find what it leaves if it is killed",
            parts.notes.ours.why_not,
        )
    why = parts.ports.why_no_bpf
    if why:
        # Operators who asked for kernel forwarding must see this at the default log level.
        level = logging.WARNING if config.offload is OffloadMode.OFF else logging.ERROR
        log.log(level, "ports are bound, and userspace relays everything: BPF cannot be used: %s", why)


def _warnings(parts: Parts) -> list[str]:
    exposed = parts.server.open_to_strangers
    if not exposed:
        return []
    sockets = ", ".join(map(str, exposed))
    return [
        f"commands on {sockets} are taken from anybody: a stranger could delete every call and redirect its media; "
        "name the controllers with --control-allow, or listen on a loopback address or a Unix socket"
    ]


# Running


class Ticks:
    """Does what is due every second: timers of sessions, checks of the kernel tier, reports."""

    def __init__(self, parts: Parts, loop: AbstractEventLoop, clock: Clock, stop: Stop) -> None:
        self._parts = parts
        self._loop = loop
        self._clock = clock
        self._stop = stop

    def start(self) -> None:
        """Schedule the first tick, a second from now."""
        self._loop.call_later(TICK_S, self._tick, self._clock() + TICK_S)

    def _tick(self, due: float) -> None:
        if self._stop.is_asked:
            # The parts that a tick uses may be closed already.
            return
        now = self._clock()
        # Ticks keep their rhythm; missed ones are not made up for. The next tick is scheduled first, so that it comes
        # even if this one fails.
        following = max(due + TICK_S, now)
        self._loop.call_later(following - now, self._tick, following)
        self._parts.service.tick(now)
        self._parts.kernel.tick()
        if self._parts.service.is_finished:
            self._stop.now("the last session of a slow stop has ended")
        if int(due / REPORT_INTERVAL_S) != int((due - TICK_S) / REPORT_INTERVAL_S):
            self._parts.verdicts.log_changes()


def _log_exception(_: AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    log.error("unexpected: %s", context.get("message"), exc_info=trace)
