"""Builds one relay from a configuration: makes all its parts, and wires them to each other."""

import asyncio
import os
import random
import resource
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from rtpproxy.config import NOTES_DIRECTORY, Config
from rtpproxy.control.dispatch import Dispatcher
from rtpproxy.control.parser import Parser
from rtpproxy.control.server import ControlServer
from rtpproxy.errors import StartError
from rtpproxy.instance.later import Later
from rtpproxy.instance.modules import build_modules
from rtpproxy.instance.ports import MediaPorts, build_kernel, build_ports
from rtpproxy.instance.verdicts import VerdictReport
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.bound import BoundMedia
from rtpproxy.media.sending import plain_sender
from rtpproxy.media.sockets import check_local, route_source
from rtpproxy.media.steered import SteeredMedia
from rtpproxy.modules.registry import Registry
from rtpproxy.network.background import Background
from rtpproxy.network.host_networks import HostNetworks, HostNetworksFollower
from rtpproxy.notes.notes import Notes
from rtpproxy.offload.off import NoKernelTier
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.tier import KernelTier
from rtpproxy.outbound.notify import Notifier
from rtpproxy.playback.disk import Disk
from rtpproxy.playback.files import Files
from rtpproxy.playback.players import Players
from rtpproxy.process.privileges import check_root, identity
from rtpproxy.recording.arrivals import Arrivals
from rtpproxy.recording.carrier import Carrier
from rtpproxy.recording.copier import Copier
from rtpproxy.recording.directories import of_config
from rtpproxy.recording.off import NoRecorder
from rtpproxy.recording.recorder import Recorder
from rtpproxy.recording.tapper import Tapper
from rtpproxy.service.copies import UserspaceCopier
from rtpproxy.service.events import Ending
from rtpproxy.service.notification import TimeoutNotification
from rtpproxy.service.sessions import Service
from rtpproxy.session.local import LocalAddresses
from rtpproxy.session.ports import PortAllocator

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
    busy: Callable[[], float]
    """Seconds for which this thread ran, or waited for a processor, since it began."""


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
    modules: Registry
    dispatcher: Dispatcher
    server: ControlServer


async def open_control(
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

    is_noted = bool(config.record_directory or config.modules)
    limit = AgeLimit(config.max_wait_ms / 1000, clocks.monotonic, clocks.wall, is_noted=is_noted)
    ports = build_ports(config, notes, local_addresses, on_datagram, limit, stack)
    verdicts = VerdictReport(ports.programs.tables.counts.verdicts if ports.programs else dict)
    background = Background(asyncio.get_running_loop())
    # The last report counts what was forwarded until the programs were detached.
    kernel = build_kernel(config, ports, background, verdicts.log_changes, stack)
    notifier = Notifier(asyncio.get_running_loop())
    stack.callback(notifier.close)
    programs = ports.programs if isinstance(kernel, KernelTier) else None
    recorder, copier, tapper, carrier = _build_recorder(config, clocks, ports.media, programs, stack)
    loop = asyncio.get_running_loop()
    later = Later(loop, clocks.monotonic)
    stack.callback(later.close)
    players = Players(
        loop, clocks.monotonic, Files(config.prompt_directory), Disk(loop, clocks.monotonic), random.SystemRandom()
    )
    stack.callback(players.close)
    modules = build_modules(config.modules, notifier, clocks.monotonic, clocks.wall, identity(config), stack)
    service = Service(
        config,
        local_addresses,
        ports.media,
        kernel.forwarder,
        kernel.counters,
        recorder,
        copier,
        tapper,
        carrier,
        players,
        _ports_maker(config, {address.port for address in server.opened if address.kind.is_datagram}),
        (TimeoutNotification(notifier), *modules.modules),
        _capacity(config, is_steered=ports.programs is not None),
        later.call,
    )
    for module in modules.modules:
        module.begin(service.taps)
    if config.modules:
        # They may want to hear of the sessions that a relay still has when it stops.
        stack.callback(lambda: service.delete_all(clocks.monotonic(), Ending.STOPPED))
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
    dispatcher = Dispatcher(service, Parser(local_addresses, modules), modules)
    return Parts(
        *(config, notes, local_addresses, ports, kernel, verdicts, recorder, service),
        *(host_networks, modules, dispatcher, server),
    )


def note_directories() -> list[str]:
    """List where notes may be: those of root's relays and, for an ordinary user, those of that user's session."""
    session = "" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    return [NOTES_DIRECTORY, *([f"{session}/rtpproxy"] if os.path.isabs(session) else [])]


def _build_recorder(
    config: Config, clocks: Clocks, media: SteeredMedia | BoundMedia, programs: Programs | None, stack: ExitStack
) -> tuple[Recorder | NoRecorder, Copier | UserspaceCopier, Tapper, Carrier]:
    """Build what records and copies, and what brings packets to it. `programs` is None without kernel tier."""
    directories = of_config(config)
    if directories is not None:
        stack.callback(directories.close)
    open_ring = programs.tee.open if programs is not None else None
    arrivals = Arrivals(clocks.monotonic, clocks.wall_ns, media.stamp)
    carrier = Carrier(
        *(asyncio.get_running_loop(), directories, clocks.monotonic),
        open_ring,
        arrivals.arrived_ns,
    )
    tapper = Tapper(carrier)
    stack.callback(tapper.log_end)
    stack.callback(lambda: carrier.close(clocks.monotonic()))
    recorder = NoRecorder() if directories is None else Recorder(config, directories, carrier)
    if programs is None or not isinstance(media, SteeredMedia):
        return recorder, UserspaceCopier(media), tapper, carrier
    return recorder, Copier(carrier, plain_sender), tapper, carrier


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
