"""The phones of one side at work: their interface, their MAC address, and the way to the relay."""

import time
from collections.abc import Iterable

from generator.frames import Flow
from generator.host import is_own_address
from generator.interface import Interface
from generator.neighbours import Neighbours
from generator.settings import Settings, SettingsError, SideSettings

_ASK_AGAIN_S = 0.5


class UnreachableError(Exception):
    """Nobody says what the MAC address of a relay or of a gateway is."""


class Side:
    """The phones of one side. `hops` are MAC addresses by address; `own_addresses` those of this host's that phones
    use.

    The kernel answers for its own addresses; for all others, the phones have a MAC address that is not the
    interface's, so that the kernel takes their frames for somebody else's and neither answers nor forwards them.
    """

    def __init__(self, settings: SideSettings, run: Settings, interface: Interface) -> None:
        self.settings = settings
        self.interface = interface
        addresses = {settings.place(call).address for call in range(run.calls)}
        if run.rebinding and run.rebinding.side == settings.name and run.rebinding.changes_address:
            addresses |= {settings.moved(call, run.calls, changes_address=True).address for call in range(run.calls)}
        self.own_addresses = frozenset(address for address in addresses if is_own_address(address))
        if self.own_addresses and self.own_addresses != addresses:
            own, other = min(self.own_addresses), min(addresses - self.own_addresses)
            raise SettingsError(
                f"--{settings.name}-address: {own} is this host's own, {other} is not; give addresses of one kind"
            )
        is_shared = bool(self.own_addresses) or settings.uses_interface_mac
        self.mac = interface.mac if is_shared else virtual_mac(interface.mac, settings.name)
        self.hops: dict[str, str] = {}
        self.neighbours = Neighbours(self.mac, frozenset(addresses), settings.tags)
        self._asked_at = 0.0

    @property
    def name(self) -> str:
        """`caller` or `callee`."""
        return self.settings.name

    def take(self, frame: bytes) -> None:
        """Answer a question for one of the phones, or learn from an answer."""
        answer = None if self.own_addresses else self.neighbours.answer(frame)
        if answer is not None:
            self.interface.send(answer)
        heard = self.neighbours.heard(frame)
        if heard is not None:
            self.hops[heard[0]] = heard[1]

    def missing(self, relays: Iterable[str]) -> set[str]:
        """Which hosts' MAC addresses are to be found out yet."""
        wanted = {self.settings.gateway} if self.settings.gateway else set(relays)
        return wanted - self.hops.keys()

    def ask(self, targets: Iterable[str]) -> None:
        """Ask for MAC addresses, twice a second."""
        if time.monotonic() < self._asked_at + _ASK_AGAIN_S:
            return
        self._asked_at = time.monotonic()
        for target in targets:
            self.interface.send(self.neighbours.question(target, self.settings.place(0).address))

    def flow_to(self, relay: str, relay_port: int, address: str, port: int) -> Flow:
        """From a phone to the relay."""
        return Flow(self.mac, address, port, self._hop(relay), relay, relay_port)

    def flow_from(self, relay: str, relay_port: int, address: str, port: int) -> Flow:
        """From the relay to a phone."""
        return Flow(self._hop(relay), relay, relay_port, self.mac, address, port)

    def _hop(self, relay: str) -> str:
        return self.hops[self.settings.gateway or relay]


def virtual_mac(mac: str, side: str) -> str:
    """Make a MAC address for phones from the interface's: locally administered, another for each side."""
    first = "0a" if side == "caller" else "0e"
    return ":".join([first, *mac.split(":")[1:]])
