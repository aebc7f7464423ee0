"""Everything that a run is told: values only, checked. Times are seconds since the media began."""

from dataclasses import dataclass, field

from generator.accounts import MAX_RUN_S
from generator.addresses import AddressRange, ControlAddress, Tags
from generator.codecs import Codec
from generator.differences import Expectations
from generator.frames import MAX_SIZE, MIN_SIZE
from generator.schedule import Impairments
from generator.signalling import Place

MAX_CALLS = 8192
"""Streams are numbered by 16 bits, and marks have room for eight of a call."""
_LAST_PORT = 65535
_LONGEST_JITTER_S = 1.0


class SettingsError(Exception):
    """Settings that contradict each other or cannot be met."""


@dataclass(frozen=True)
class SideSettings:
    """The phones of one side: `name` is caller or callee.

    `relays` are the relay's addresses as these phones see them, one for each control socket; empty for those of the
    replies. The addresses that follow those of the phones are for phones that move, the next one is the stranger's.
    """

    name: str
    interface: str
    addresses: AddressRange
    first_port: int
    tags: Tags = ()
    gateway: str = ""
    relays: tuple[str, ...] = ()
    uses_interface_mac: bool = False

    def place(self, call: int) -> Place:
        """Where a phone receives RTP; RTCP is one port higher."""
        return Place(str(self.addresses[call % self.addresses.count]), self.first_port + 2 * (call // self._count))

    def moved(self, call: int, calls: int, *, changes_address: bool) -> Place:
        """Where it receives RTP after NAT gave it another address, or another port."""
        place = self.place(call)
        if changes_address:
            return Place(str(self.addresses[self._count + call % self._count]), place.port)
        return Place(place.address, place.port + 2 * self._ports(calls))

    def stranger(self) -> str:
        """An address on the phones' network that no phone has."""
        return str(self.addresses[2 * self._count])

    def last_port(self, calls: int) -> int:
        """The last that any phone may use, also after a move."""
        return self.first_port + 4 * self._ports(calls)

    @property
    def _count(self) -> int:
        return self.addresses.count

    def _ports(self, calls: int) -> int:
        return -(-calls // self._count)


@dataclass(frozen=True)
class Rebinding:
    """NAT gives the phones of a side other ports for RTP, or other addresses, in the middle of the call."""

    at_s: float
    side: str = "caller"
    changes_address: bool = False


@dataclass(frozen=True)
class Hold:
    """The caller puts the call on hold: the callee is silent until it resumes."""

    at_s: float
    for_s: float


@dataclass(frozen=True)
class Flood:
    """Strays at a rate, in packets a second over all ports."""

    rate: float
    at_s: float
    for_s: float


@dataclass(frozen=True)
class Settings:
    """One run. `rtcp_interval_s` is 0 for calls without RTCP."""

    controls: tuple[ControlAddress, ...]
    caller: SideSettings
    callee: SideSettings
    codec: Codec
    rate: float
    size: int
    calls: int = 1
    duration_s: float = 10.0
    rtcp_interval_s: float = 0.0
    impairments: Impairments = field(default_factory=Impairments)
    seed: int = 1
    is_nat: bool = False
    offer_modifiers: str | None = None
    answer_modifiers: str | None = None
    rebinding: Rebinding | None = None
    hold: Hold | None = None
    floods: tuple[Flood, ...] = ()
    late_ms: float = 20.0
    is_late_wrong: bool = False
    opening_s: float = 1.0
    deadline_s: float = 5.0
    expectations: Expectations = field(default_factory=Expectations)
    expects_kernel: bool = False
    name: str = ""

    @property
    def sides(self) -> tuple[SideSettings, SideSettings]:
        """Caller and callee."""
        return self.caller, self.callee

    def check(self) -> None:
        """Raise SettingsError if something does not fit."""
        if not 1 <= self.calls <= MAX_CALLS:
            raise SettingsError(f"--calls {self.calls}: 1 to {MAX_CALLS} are possible")
        if not 0 < self.duration_s <= MAX_RUN_S:
            raise SettingsError(
                f"--duration {self.duration_s:g}: more than 0 and at most {MAX_RUN_S} seconds are possible"
            )
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise SettingsError(f"--size {self.size}: {MIN_SIZE} to {MAX_SIZE} bytes are possible")
        for name, value in (("--rate", self.rate), ("--rtcp-interval", self.rtcp_interval_s or 1.0)):
            if not 0.01 <= value <= 100_000:
                raise SettingsError(f"{name} {value:g}: 0.01 to 100000 are possible")
        if not 0 <= self.opening_s <= MAX_RUN_S or not 0.1 <= self.deadline_s <= MAX_RUN_S:
            raise SettingsError(f"--opening and --deadline: 0 and 0.1 to {MAX_RUN_S} seconds are possible")
        self._check_network()
        for side in self.sides:
            self._check_side(side)
        if self.hold and self.floods:
            raise SettingsError(
                "--hold with strays: for 10 seconds after a re-INVITE, an RTPproxy follows whoever sends; make two runs"
            )

    def _check_network(self) -> None:
        impairments = self.impairments
        for name, share in (("--loss", impairments.loss), ("--reorder", impairments.reorder)):
            if not 0 <= share <= 1:
                raise SettingsError(f"{name} {100 * share:g}: 0 to 100 percent are possible")
        if not 0 <= impairments.jitter_s <= _LONGEST_JITTER_S:
            raise SettingsError(
                f"--jitter {1000 * impairments.jitter_s:g}: 0 to {1000 * _LONGEST_JITTER_S:g} ms are possible"
            )
        times = [("--flood", flood.at_s) for flood in self.floods]
        times += [("--hold", self.hold.at_s)] if self.hold else []
        times += [("--rebind", self.rebinding.at_s)] if self.rebinding else []
        for name, at_s in times:
            if at_s >= self.duration_s:
                raise SettingsError(
                    f"{name}: {at_s:g} s is after the end of the media, which last {self.duration_s:g} s"
                )

    def _check_side(self, side: SideSettings) -> None:
        if side.first_port % 2 or side.first_port < 1:
            raise SettingsError(f"--{side.name}-port {side.first_port}: RTP ports are even")
        if side.last_port(self.calls) > _LAST_PORT:
            raise SettingsError(
                f"--{side.name}-port: there are not enough ports for so many calls; give more addresses"
            )
        if side.relays and len(side.relays) not in (1, len(self.controls)):
            raise SettingsError(f"--{side.name}-relay: give one address, or one for each --control")
