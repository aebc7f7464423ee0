"""Builds the media ports of a relay, steered or bound, and its kernel tier."""

import asyncio
import errno
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from rtpproxy.config import Config, OffloadMode, PortsMode
from rtpproxy.errors import OffloadError, StartError
from rtpproxy.media.age_limit import AgeLimit
from rtpproxy.media.bound import BoundMedia
from rtpproxy.media.claims import Claims
from rtpproxy.media.sockets import OnDatagram
from rtpproxy.media.steered import SteeredMedia
from rtpproxy.network.background import Background
from rtpproxy.notes.notes import Notes
from rtpproxy.offload.off import NoKernelTier
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.tier import KernelTier
from rtpproxy.session.local import LocalAddress, LocalAddresses


@dataclass(frozen=True, slots=True)
class MediaPorts:
    """The media ports of a relay, steered or bound, and how other relays learn of them."""

    media: SteeredMedia | BoundMedia
    claims: Claims
    programs: Programs | None = None
    """The BPF programs; None where ports are bound."""
    why_no_bpf: str = ""
    """Why BPF cannot be used although it was wanted; empty where it is used, or was not wanted."""


def build_ports(
    config: Config,
    notes: Notes,
    local_addresses: LocalAddresses,
    on_datagram: OnDatagram,
    limit: AgeLimit,
    stack: ExitStack,
) -> MediaPorts:
    """Build steered ports where they are wanted and possible, else bound ones. Raises StartError.

    What takes them down is pushed on `stack`.
    """
    why_no_bpf = ""
    if config.ports is not PortsMode.BOUND:
        try:
            return _build_steered(config, notes, local_addresses, on_datagram, limit, stack)
        except OffloadError as error:
            if config.ports is PortsMode.STEERED or config.offload.is_required:
                raise StartError(f"BPF cannot be used: {error}") from error
            if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EMFILE:
                # Bound ports need more of them still.
                raise StartError(f"BPF cannot be used: {error}") from error.__cause__
            why_no_bpf = str(error)
    media = BoundMedia(asyncio.get_running_loop(), config.tos, on_datagram, limit)
    stack.callback(media.close_all)
    return MediaPorts(media, _claims(config, notes, is_steered=False), why_no_bpf=why_no_bpf)


def _build_steered(
    config: Config,
    notes: Notes,
    local_addresses: LocalAddresses,
    on_datagram: OnDatagram,
    limit: AgeLimit,
    stack: ExitStack,
) -> MediaPorts:
    """Make the programs and steer media ports. Raises OffloadError, after undoing everything."""
    with ExitStack() as on_failure:
        programs = Programs(config, notes.ours.attach)
        on_failure.callback(programs.close)
        claims = _claims(config, notes, is_steered=True)
        media = SteeredMedia(
            *(asyncio.get_running_loop(), on_datagram, limit, programs.mark, programs.expect),
            lambda address: _listen_on(address, claims, programs),
        )
        media_ports = range(config.port_min, config.port_max + 2)
        on_failure.callback(media.close_all)
        try:
            sockets = programs.host_maps.sockets_per_family
            receivers = media.start(local_addresses.known, sockets, media_ports)
        except PermissionError as error:
            raise OffloadError(f"raw sockets: {error.strerror}; CAP_NET_RAW is needed") from error
        programs.steer(receivers)
        stack.push(on_failure.pop_all())
    return MediaPorts(media, claims, programs)


def _claims(config: Config, notes: Notes, *, is_steered: bool) -> Claims:
    return Claims(notes, config.port_min, config.port_max + 1, is_steered=is_steered)


def _listen_on(address: LocalAddress, claims: Claims, programs: Programs) -> None:
    """Steer the ports of another local address, which a command named. Raises OSError when that is impossible."""
    try:
        claims.add(address)
    except StartError as error:
        raise OSError(errno.EADDRINUSE, str(error)) from error
    try:
        programs.host_maps.add_local(address.host, address.slot)
    except OffloadError as error:
        claims.remove(address)
        raise OSError(errno.ENOSPC, str(error)) from error


def build_kernel(
    config: Config, ports: MediaPorts, background: Background, on_end: Callable[[], None], stack: ExitStack
) -> KernelTier | NoKernelTier:
    """Build the kernel tier, where ports are steered and it is wanted.

    What takes it down is pushed on `stack`, and `on_end`, which is called when it forwards nothing any more.
    """
    if ports.programs is None or config.offload is OffloadMode.OFF:
        why = "--offload off" if config.offload is OffloadMode.OFF else "BPF is not used"
        return NoKernelTier(why, ports.media.routes_changed)
    kernel = KernelTier(config, ports.programs, ports.media.routes_changed, asyncio.get_running_loop(), background)
    stack.callback(on_end)
    stack.callback(kernel.close)
    return kernel
