"""One running relay: every part built, wired to the event loop, and taken down again in reverse order."""

import asyncio
import errno
import logging
import random
import resource
import signal
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import ExitStack

from rtpproxy.config import Config, ControlKind, OffloadMode, PortsMode
from rtpproxy.control.dispatch import Dispatcher
from rtpproxy.control.parser import Parser
from rtpproxy.control.server import ControlServer
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.media.bound import BoundMedia
from rtpproxy.media.portrange import Claims, Reservation, check_local
from rtpproxy.media.sockets import route_source
from rtpproxy.media.steered import SteeredMedia
from rtpproxy.offload.off import NoOffload
from rtpproxy.offload.tier import KernelTier, Programs, instance_name
from rtpproxy.outbound.notify import Notifier
from rtpproxy.process.privileges import identity
from rtpproxy.service.sessions import Service
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.ports import PortAllocator

log = logging.getLogger(__name__)

TICK_S = 1.0
REPORT_INTERVAL_S = 60.0
_STOP_SIGNALS = ("TERM", "INT", "USR1", "USR2", "XCPU", "XFSZ", "VTALRM", "PROF")

Clock = Callable[[], float]


class Relay:
    """The relay that a configuration describes."""

    def __init__(self, config: Config, clock: Clock) -> None:
        """Nothing is opened before `serve`."""
        self._config = config
        self._clock = clock
        self._stack = ExitStack()
        self._stopped = asyncio.Event()
        self._programs: Programs | None = None
        self._why_no_bpf = ""
        """Why BPF cannot be used though it may; empty where it is used, or need not be."""
        self._kernel: KernelTier | None = None
        self._verdicts: dict[str, int] = {}
        self._service: Service | None = None
        self._claims: Claims
        self._media: SteeredMedia | BoundMedia

    async def serve(self, on_ready: Callable[[], None], abort: Callable[[int], None]) -> None:
        """Run until a signal, or the end of a slow stop. Raises StartError when it cannot start.

        `on_ready` is called once everything serves; `abort` with the number of a signal that came while stopping.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_exception)
        self._catch_signals(loop, abort)
        with self._stack:
            await self._start(loop)
            if not self._stopped.is_set():
                on_ready()
                log.info("rtpproxy started")
            await self._stopped.wait()
        log.info("rtpproxy stopped")

    # Start

    async def _start(self, loop: AbstractEventLoop) -> None:
        config = self._config
        local_addresses = LocalAddresses(config.listen, config.is_bridging, route_source)
        for address in local_addresses.known:
            check_local(address)
        self._build_media(loop, local_addresses)
        kernel = self._kernel = self._build_kernel_tier()
        offload = kernel.forwarder if kernel else NoOffload(self._why_no_kernel)
        notifier = Notifier()
        notifier.start(loop)
        self._stack.callback(notifier.close)
        service = self._service = Service(
            config, local_addresses, self._media, offload, self._new_ports, notifier, self._capacity()
        )
        dispatcher = Dispatcher(service, Parser(local_addresses))
        server = ControlServer(
            *(config.control, dispatcher.execute, self._clock),
            owner=identity(config),
            mode=config.socket_mode,
            on_duplicate=dispatcher.count_repeated,
            on_end=self._on_input_end,
        )
        await server.open()
        self._stack.callback(server.close)
        # From here on it is certain that no other relay with these control sockets runs.
        self._claim_ports(local_addresses)
        self._announce(kernel, loop)
        server.serve()
        loop.call_later(TICK_S, self._tick, loop, service, self._clock() + TICK_S)

    def _new_ports(self) -> PortAllocator:
        """The ports of one local address; none is a control socket's."""
        config = self._config
        excluded = {address.port for address in config.control if address.kind.is_datagram}
        return PortAllocator(config.port_min, config.port_max, config.is_sequential, random.Random(), excluded)

    def _capacity(self) -> int:
        """How many sessions there is room for: each needs two port pairs and, where ports are bound, five files."""
        sessions = (self._config.port_max - self._config.port_min + 2) // 4
        if self._programs is None:
            sessions = min(sessions, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 5)
        return sessions

    def _claim_ports(self, local_addresses: LocalAddresses) -> None:
        config = self._config
        is_steered = self._programs is not None
        self._claims = Claims(config.port_min, config.port_max + 1, is_steered=is_steered)
        self._stack.callback(self._claims.close)
        for address in local_addresses.known:
            self._claims.add(address)
        if is_steered:
            reservation = Reservation(instance_name(config))
            reservation.make(config.port_min, config.port_max + 1)
            self._stack.callback(reservation.undo)
            owner = identity(config)
            if owner is not None:
                reservation.hand_over(*owner)

    def _build_media(self, loop: AbstractEventLoop, local_addresses: LocalAddresses) -> None:
        config = self._config
        if config.ports is not PortsMode.BOUND:
            try:
                self._media = self._build_steered(loop, local_addresses)
                return
            except OffloadError as error:
                if config.ports is PortsMode.STEERED or config.offload.is_required:
                    raise StartError(f"BPF cannot be used: {error}") from error
                self._why_no_bpf = str(error)
        media = BoundMedia(config.tos, self._on_datagram, self._clock)
        media.start(loop)
        self._stack.callback(media.close_all)
        self._media = media

    def _build_steered(self, loop: AbstractEventLoop, local_addresses: LocalAddresses) -> SteeredMedia:
        config = self._config
        with ExitStack() as stack:
            programs = Programs(config)
            stack.callback(programs.close)
            media = SteeredMedia(self._on_datagram, self._clock, programs.mark, self._add_local)
            media_ports = range(config.port_min, config.port_max + 2)
            stack.callback(media.close_all)
            try:
                receivers = media.start(loop, local_addresses.known, media_ports)
            except PermissionError as error:
                raise OffloadError(f"raw sockets: {error.strerror}; CAP_NET_RAW is needed") from error
            programs.steer(receivers)
            self._stack.push(stack.pop_all())
        self._programs = programs
        return media

    def _add_local(self, address: LocalAddress) -> None:
        """A command brought another address of ours into use. Raises OSError when its ports cannot be steered."""
        assert self._programs is not None
        try:
            self._claims.add(address)
        except StartError as error:
            raise OSError(errno.EADDRINUSE, str(error)) from error
        try:
            self._programs.add_local(address.host, address.slot)
        except OffloadError as error:
            self._claims.remove(address)
            raise OSError(errno.ENOSPC, str(error)) from error

    def _build_kernel_tier(self) -> KernelTier | None:
        if self._programs is None or self._config.offload is OffloadMode.OFF:
            return None
        kernel = KernelTier(self._config, self._programs, self._media.routes_changed)
        self._stack.callback(self._report_verdicts)
        self._stack.callback(kernel.close)
        return kernel

    @property
    def _why_no_kernel(self) -> str:
        return "--offload off" if self._config.offload is OffloadMode.OFF else "BPF is not used"

    def _announce(self, kernel: KernelTier | None, loop: AbstractEventLoop) -> None:
        config = self._config
        for address in config.control:
            log.info("control socket %s", address)
        way = "bound" if self._programs is None else "steered"
        for listen in config.listen:
            where = listen.host or f"all local {'IPv6 ' if listen.is_ipv6 else ''}addresses"
            log.info("media ports %d-%d on %s, %s", config.port_min, config.port_max + 1, where, way)
        if self._why_no_bpf:
            # Who wanted the kernel to forward shall read of it at the default level.
            level = logging.WARNING if config.offload is OffloadMode.OFF else logging.ERROR
            log.log(level, "ports are bound, and userspace relays everything: BPF cannot be used: %s", self._why_no_bpf)
        if kernel is None:
            log.info("all interfaces: userspace (%s)", self._why_no_kernel)
            return
        kernel.start(loop)

    def _on_datagram(self, key: int, data: bytes, source: tuple[str, int], local_host: str, now: float) -> None:
        assert self._service is not None
        self._service.datagram(key, data, source, local_host, now)

    # Running

    def _tick(self, loop: AbstractEventLoop, service: Service, due: float) -> None:
        if self._stopped.is_set():
            # What ticks look at may be closed already.
            return
        now = self._clock()
        # Ticks keep their rhythm; those that were missed are not made up for. The next one does not depend on this one.
        following = max(due + TICK_S, now)
        loop.call_later(following - now, self._tick, loop, service, following)
        service.tick(now)
        if self._kernel is not None:
            self._kernel.tick()
        else:
            # Nobody follows the routes; what was remembered of them is asked again.
            self._media.routes_changed()
        if service.is_finished:
            log.info("the last session of a slow stop has ended")
            self._stopped.set()
        if int(due / REPORT_INTERVAL_S) != int((due - TICK_S) / REPORT_INTERVAL_S):
            self._report_verdicts()

    def _report_verdicts(self) -> None:
        """Log the kernel's counters by reason, if they changed."""
        if self._programs is None or not log.isEnabledFor(logging.INFO):
            return
        verdicts = self._programs.tables.verdicts()
        if verdicts != self._verdicts:
            self._verdicts = verdicts
            counts = ", ".join(f"{name} {count}" for name, count in verdicts.items() if count)
            log.info("frames by verdict: %s", counts or "none")

    def _catch_signals(self, loop: AbstractEventLoop, abort: Callable[[int], None]) -> None:
        def stop(number: int) -> None:
            if self._stopped.is_set():
                abort(number)
            log.info("stopping on signal %d", number)
            self._stopped.set()

        for name in _STOP_SIGNALS:
            number = signal.Signals[f"SIG{name}"]
            loop.add_signal_handler(number, stop, int(number))
        loop.add_signal_handler(signal.SIGHUP, self._stop_slowly)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        # Ignored in what a shell script started in the background (protocol.md 12.3).
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)

    def _on_input_end(self, kind: ControlKind) -> None:
        """Standard input ended, and with it the control socket that it was (protocol.md 1.1, 12.3)."""
        if kind is ControlKind.STDIOC:
            log.info("stopping: standard input ended")
            self._stopped.set()
        elif len(self._config.control) == 1:
            self._stop_slowly()

    def _stop_slowly(self) -> None:
        log.info("stopping slowly: no new sessions; exit when the last one ends")
        if self._service is None:
            self._stopped.set()
        else:
            self._service.stop_slowly()


def _log_exception(_: AbstractEventLoop, context: dict[str, object]) -> None:
    error = context.get("exception")
    trace = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
    log.error("unexpected: %s", context.get("message"), exc_info=trace)
