"""Makes the legs of sessions, opens and closes their ports, and takes over what requests say of their media."""

import logging

from rtpproxy.config import Config, LatchingMode
from rtpproxy.errors import NoPortsError, PortSpaceError
from rtpproxy.service.destinations import Destinations
from rtpproxy.service.offloading import Offloading
from rtpproxy.service.packets import Packets
from rtpproxy.service.port_pairs import PortPairs
from rtpproxy.service.requests import MediaDescription
from rtpproxy.session.latch import Latch
from rtpproxy.session.local import LocalAddress, LocalAddresses
from rtpproxy.session.session import Component, Leg, Role, Session, Stream

log = logging.getLogger(__name__)


class Legs:
    """The legs of all sessions. While a leg has ports, what arrives there is relayed or forwarded, and counted."""

    def __init__(
        self,
        config: Config,
        local_addresses: LocalAddresses,
        pairs: PortPairs,
        packets: Packets,
        offloading: Offloading,
        destinations: Destinations,
    ) -> None:
        self._is_strict = config.latching is LatchingMode.STRICT
        self._is_asymmetric = config.is_asymmetric
        self._tos = config.tos
        self._locals = local_addresses
        self._pairs = pairs
        self._packets = packets
        self._offloading = offloading
        self._destinations = destinations

    def make_both(self, media: MediaDescription) -> tuple[Leg, Leg]:
        """Make the callee's and the caller's leg of a new session, without ports (protocol.md 7.3)."""
        default = self._locals.default
        towards_caller, towards_callee = (*media.directions, default, default)[:2]
        if media.local is not None:
            towards_caller = towards_callee = media.local
        return self.make(Role.CALLEE, towards_callee), self.make(Role.CALLER, towards_caller)

    def open(self, session: Session, leg: Leg, local: LocalAddress, now: float) -> None:
        """Open a port pair on one of our addresses for a leg, in place of the pair that it has. Raises NoPortsError."""
        try:
            local, port = self._pairs.open(local)
        except PortSpaceError as error:
            log.error("%s: %s", session.label, error)
            raise NoPortsError(str(error)) from error
        if leg.has_ports:
            self.close(session, leg, "new ports", now)
        before = leg.local
        has_moved = local is not before and local != before
        for stream in leg.streams:
            stream.settle(local, port + stream.component, now)
            self._offloading.add(stream)
        if has_moved:
            self._destinations.withdraw_moved(session, leg)
        self._packets.add(session, leg)

    def close(self, session: Session, leg: Leg, reason: str, now: float) -> None:
        """Close the ports of a leg: withdraw, count, then free.

        The kernel goes on sending the peer's packets from the port until the peer is closed or planned anew. That
        happens in the same turn of the event loop, before the port can be given to another leg.
        """
        for stream in leg.streams:
            self._offloading.remove(session, stream, reason, now)
        self._packets.remove(leg)
        self._pairs.close(leg.local, leg.rtp.local_port)

    def describe(self, session: Session, leg: Leg, media: MediaDescription, now: float) -> None:
        """Take over what a request says of a leg (protocol.md 5.2)."""
        self._packets.repacketizing.set_length(leg.rtp, media.packet_ms, now)
        leg.codecs = media.codecs
        if media.is_hold or media.remote is not None:
            leg.is_on_hold = media.is_hold
            leg.holds += media.is_hold
        is_asymmetric = self._is_asymmetric if media.is_asymmetric is None else media.is_asymmetric
        remotes = (None, None) if media.remote is None else self._destinations.signalled(session, leg, media.remote)
        for stream, remote in zip(leg.streams, remotes, strict=True):
            self._offloading.absorb(session, stream, now)
            if remote is not None:
                stream.latch.signal(remote, now)
            stream.latch.set_asymmetric(is_asymmetric)
        self._offloading.replan(session, now)

    def make(self, role: Role, local: LocalAddress) -> Leg:
        """Make a leg without ports."""
        return Leg(role, self._make_stream(Component.RTP, local), self._make_stream(Component.RTCP, local))

    def _make_stream(self, component: Component, local: LocalAddress) -> Stream:
        return Stream(component, local, Latch(is_strict=self._is_strict), tos=self._tos, local_host=local.host)


def local_for_new_ports(leg: Leg, media: MediaDescription) -> LocalAddress:
    """Choose our address for ports that an existing session's leg is given (protocol.md 7.3)."""
    if media.local is not None:
        return media.local
    if media.is_new_port and len(media.directions) == 2:
        return media.directions[1]
    return leg.local
