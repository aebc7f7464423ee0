"""Starts the parts of a relay, in an order that other programs rely on."""

import logging
from contextlib import ExitStack

from rtpproxy.config import OffloadMode
from rtpproxy.errors import OffloadError
from rtpproxy.instance.build import Parts
from rtpproxy.instance.stop import Stop, on_input_end
from rtpproxy.media.reservation import Reservation, take_back
from rtpproxy.notes.dead import DeadNote
from rtpproxy.notes.notes import Notes
from rtpproxy.offload import leftovers

log = logging.getLogger(__name__)


def start(parts: Parts, stop: Stop, stack: ExitStack) -> None:
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


def warnings(parts: Parts) -> list[str]:
    """Tell what the operator must see of a relay that has started, whatever the log level is."""
    exposed = parts.server.open_to_strangers
    if not exposed:
        return []
    sockets = ", ".join(map(str, exposed))
    return [
        f"commands on {sockets} are taken from anybody: a stranger could delete every call and redirect its media; "
        "name the controllers with --control-allow, or listen on a loopback address or a Unix socket"
    ]
