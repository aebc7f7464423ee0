"""The loaded programs and their maps, made from the configuration."""

import hashlib
import ipaddress
import logging
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from rtpproxy.config import CACHE_DIRECTORY, SHORT_BYTES, Config, ListenAddress, OffloadMode
from rtpproxy.errors import OffloadError
from rtpproxy.network.background import Runner
from rtpproxy.offload import loader
from rtpproxy.offload.attach import PROGRAM_PREFIX, Attachable, ProgramSet
from rtpproxy.offload.host_maps import HostMaps
from rtpproxy.offload.loading import BeingLoadedError, Loading
from rtpproxy.offload.refusals import Refusals
from rtpproxy.offload.syscall import attach_sk_lookup, program_id
from rtpproxy.offload.tables import TYPE_GIVEN, Tables
from rtpproxy.offload.tee import Tee
from rtpproxy.offload.tracing import Traced
from rtpproxy.rtp.statistics import MAX_JUMP
from rtpproxy.session.latch import SEQUENCE_DISTANCE, KnownSource
from rtpproxy.session.local import slots_of
from rtpproxy.session.loops import REPEATS_PER_SECOND, RTCP_PER_SECOND, UNNUMBERED_PER_SECOND
from rtpproxy.session.session import Component

log = logging.getLogger(__name__)

OTHERS_PER_SECOND = 8
"""Limit of packets from other sources than the locked one that the kernel leaves to userspace, per port.

It lets as many again through that have the SSRC of the locked source: a phone that moved."""
LEARNING_PER_SECOND = 50
"""Limit of packets from sources that no port expects, to a port that is locked to none yet.

Each of them may teach the relay an endpoint, which costs some 200 µs; one of a phone is enough."""
SOURCE_LEARNING_PER_SECOND = 250
"""The same for each source, at all ports. Behind one NAT so many phones can start each second."""
ODD_PER_SECOND = 1000
"""Limit of the known source's packets with IP options, extension headers or fragments, per port.

No phone sends options; fragments are those of large video packets."""
EXPECTED_PER_SECOND = 1000
"""Limit of packets from the source that the newest command names, while another has the stream, per port.

As many again from those who had it before. A video call has half of that."""
HOST_EXPECTED_PER_SECOND = 20_000
"""The same for all ports together: 200 forked calls, all of whose callees send."""
HOST_OTHERS_PER_SECOND = 1000
"""Limit of packets from other sources for all ports together; as many again of phones that may have moved."""
HOST_LEARNING_PER_SECOND = 4000
"""Limit of packets to ports that are locked to no source yet, for all ports together; as many again of the odd ones."""
HOST_KNOWN_PER_SECOND = 150_000
"""Limit of packets of known sources, for all ports together. Userspace relays about 100,000."""
FRAGMENTS_PER_SECOND = 1000
"""Limit of later fragments that the kernel leaves to the stack, per processor and source (256 are told apart)."""
LIMITS = {
    "MAX_JUMP": str(MAX_JUMP),
    "REPEATS_PER_SECOND": str(REPEATS_PER_SECOND),
    "UNNUMBERED_PER_SECOND": str(UNNUMBERED_PER_SECOND),
    "RTCP_PER_SECOND": str(RTCP_PER_SECOND),
    "OTHERS_PER_SECOND": str(OTHERS_PER_SECOND),
    "LEARNING_PER_SECOND": str(LEARNING_PER_SECOND),
    "SOURCE_LEARNING_PER_SECOND": str(SOURCE_LEARNING_PER_SECOND),
    "ODD_PER_SECOND": str(ODD_PER_SECOND),
    "MOVED_DISTANCE": str(SEQUENCE_DISTANCE),
    "EXPECTED_PER_SECOND": str(EXPECTED_PER_SECOND),
    "HOST_EXPECTED_PER_SECOND": str(HOST_EXPECTED_PER_SECOND),
    "HOST_OTHERS_PER_SECOND": str(HOST_OTHERS_PER_SECOND),
    "HOST_LEARNING_PER_SECOND": str(HOST_LEARNING_PER_SECOND),
    "HOST_KNOWN_PER_SECOND": str(HOST_KNOWN_PER_SECOND),
    "FRAGMENTS_PER_SECOND": str(FRAGMENTS_PER_SECOND),
    "TYPE_GIVEN": str(TYPE_GIVEN),
}
"""Macros that the programs cannot be compiled without."""
_MOST_KNOWN = UNNUMBERED_PER_SECOND, RTCP_PER_SECOND
"""By component: limit of the known source's packets that the kernel leaves to userspace each second, per port."""


_FEWEST_NEXT_HOPS, _MOST_NEXT_HOPS = 256, 1 << 16


def next_hops_of(ports: int) -> int:
    """How many rows for next hops so many ports need: one for each leg, if all phones are on one flat network.

    So a relay with few ports pays little. Some are spare, because a leg's new row is taken before the old one is free.
    """
    return min(max(ports // 2, _FEWEST_NEXT_HOPS), _MOST_NEXT_HOPS)


def instance_name(config: Config) -> str:
    """Eight characters that tell this relay from others; the names of its programs contain them."""
    return hashlib.sha256(config.instance.encode()).hexdigest()[:8]


class Programs:
    """The programs and their maps. `close` leaves only what is attached to interfaces."""

    def __init__(self, config: Config, on_attachable: Callable[[Collection[int]], None] = lambda _: None) -> None:
        """Make the maps. Programs are loaded when they are needed.

        One that the kernel refuses is an error in the log, and interfaces do without it.

        `on_attachable` is told the kernel's IDs of all programs that may be attached to interfaces, whenever there is
        one more, and before it is attached.

        Raises OffloadError, after unloading everything.
        """
        name = instance_name(config)
        names = dict(zip(loader.FUNCTIONS, (f"{PROGRAM_PREFIX}{letter}_{name}" for letter in "xtbsnr"), strict=True))
        listen, slots = config.listen, max(slots_of(config.listen)) + 1
        first_port, last_port = config.port_min, config.port_max + 1
        self._steer_link = -1
        with ExitStack() as stack:
            self._loaded = loader.load(
                {
                    **LIMITS,
                    "FIRST_PORT": str(first_port),
                    "PORT_SPAN": str(last_port + 1 - first_port),
                    "LOCAL_SLOTS": str(slots),
                    "MAX_NEXT_HOPS": str(next_hops_of((last_port + 1 - first_port) * slots)),
                    "DOUBLED_BYTES": str(SHORT_BYTES if config.is_doubling else 0),
                    **_slot_defines(listen),
                },
                names,
                directory=CACHE_DIRECTORY,
            )
            stack.callback(self._loaded.close)
            try:
                self.tables = Tables(self._loaded, first_port, last_port)
            except OSError as error:
                raise OffloadError(f"cannot map the tables: {error.strerror}") from error
            stack.callback(self.tables.close)
            self.host_maps = HostMaps(self._loaded)
            self.refusals = Refusals(self._loaded)
            self.tee = Tee(self._loaded, config.tee_memory_mb << 20)
            self._on_attachable = on_attachable
            self._attachable: dict[str, int] = {}
            self._told: set[tuple[str, str]] = set()
            self._traced = Traced(self._loaded)
            self._loading = Loading(self._traced)
            self.on_interfaces = ProgramSet(
                *(
                    Attachable(names[function], partial(self._load, function))
                    for function in ("on_xdp", "on_tc", "on_tc_behind_xdp")
                )
            )
            wildcards = {address.is_ipv6 for address in listen if not address.host}
            for address, slot in zip(listen, slots_of(listen), strict=True):
                if address.is_ipv6 not in wildcards:
                    self.host_maps.add_local(address.host, slot)
            self._wanted = self._of(config.offload)
            stack.pop_all()

    def load_by(self, runner: Runner, on_tried: Callable[[], None]) -> None:
        """From now on, let `runner` load the programs for interfaces, so that calls do not wait.

        `on_tried` is called when one was loaded, or could not be. `runner` must be closed before `load_at_once` is
        called, or `close`.
        """

        def tried(function: str) -> None:
            with suppress(OffloadError):  # logged
                self._load(function)
            on_tried()

        self._loading.load_by(runner, tried)

    def load_rest(self) -> None:
        """Load, as `load_by` says, all programs that interfaces may be given: soon the privilege will be gone."""
        for program in self._wanted:
            with suppress(OffloadError):  # logged, or being loaded
                program.load()

    def load_at_once(self) -> None:
        """Load programs as before `load_by`."""
        self._loading.load_at_once()

    def _of(self, mode: OffloadMode) -> tuple[Attachable, ...]:
        """Return the programs that interfaces may be given."""
        found = self.on_interfaces
        return {
            OffloadMode.AUTO: (found.xdp, found.tc, found.tc_behind_xdp),
            OffloadMode.XDP: (found.xdp,),
            OffloadMode.TC: (found.tc,),
            OffloadMode.OFF: (),
        }[mode]

    def _load(self, function: str) -> int:
        """Load a program for interfaces, unless it is loaded.

        Raises OffloadError, each of whose reasons is logged once, and BeingLoadedError as long as that takes.
        """
        try:
            fd = self._loading.fd(function)
        except BeingLoadedError:
            raise
        except OffloadError as error:
            if (function, str(error)) not in self._told:
                self._told.add((function, str(error)))
                log.error("%s", error)
            raise
        if function not in self._attachable:
            self._attachable[function] = program_id(fd)
            self._on_attachable(self._attachable.values())
            if function == "on_xdp" and self._traced.why_not:
                log.info(
                    "not all frames that drivers do not send for XDP are seen; they count as forwarded: %s",
                    self._traced.why_not,
                )
        return fd

    def steer(self, receivers: Sequence[int]) -> None:
        """Hand packets for open ports to these sockets: those of IPv4, then as many of IPv6 or none.

        Raises OffloadError.
        """
        try:
            self.host_maps.set_sockets(receivers)
            self._steer_link = attach_sk_lookup(self._loaded.steer_fd)
        except OSError as error:
            raise OffloadError(f"cannot attach the sk_lookup program: {error.strerror}") from error

    def mark(self, key: int, is_open: bool) -> None:
        """Open or close a port in the port table. At one that is closed nobody is expected any more."""
        if is_open:
            self.tables.ports.open_port(key)
        else:
            self.tables.ports.close_port(key)
            self.tables.sources.expect(key, None, 0)

    def expect(self, key: int, source: KnownSource | None, component: Component) -> None:
        """Keep room for packets of a source on their way to userspace (`bpf/budget.h`)."""
        self.tables.sources.expect(key, source, _MOST_KNOWN[component])

    def close(self) -> None:
        """Stop steering, unmap the tables and close all descriptors."""
        if self._steer_link >= 0:
            os.close(self._steer_link)
        self._traced.close()
        self.tee.close()
        self.tables.close()
        self._loaded.close()


def _slot_defines(listen: tuple[ListenAddress, ...]) -> dict[str, str]:
    """Make the macros for the port spaces of `listen` that the programs know without a look-up."""
    by_slot = list(zip(listen, slots_of(listen), strict=True))
    defines = {f"ANY_IPV{6 if one.is_ipv6 else 4}_SLOT": str(slot) for one, slot in by_slot if not one.host}
    for is_ipv6, family in ((False, "IPV4"), (True, "IPV6")):
        first = next(((one.host, slot) for one, slot in by_slot if one.host and one.is_ipv6 is is_ipv6), None)
        if first is not None:
            host, slot = first
            packed = ipaddress.ip_address(host).packed
            numbers = (int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4))
            words = [f"__constant_htonl({number:#x})" for number in numbers]
            defines[f"FIRST_{family}"] = f"{{{','.join(words)}}}" if is_ipv6 else words[0]
            defines[f"FIRST_{family}_SLOT"] = str(slot)
    return defines
