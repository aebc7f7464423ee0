"""Puts the media of a run together: streams, strays, and what is to happen at which time."""

from collections.abc import Callable

from generator.accounts import Account
from generator.building import Builder, StrayFrames, sorts
from generator.calls import Call
from generator.frames import Kind
from generator.media import Judged, Media, Outgoing
from generator.schedule import NS, Impairments, Plan, Schedule
from generator.settings import Flood, Settings
from generator.side import Side

_SPARE_PLACES = 8
_FLOOD_SEED = 1000


class Staging:
    """Adds streams and events to the media of a run. `accounts` and `schedules` are of the streams that are judged."""

    def __init__(self, settings: Settings, calls: list[Call], media: Media) -> None:
        self._settings = settings
        self._calls = calls
        self._media = media
        self.accounts: list[Account] = []
        self.schedules: list[Schedule] = []

    def add_streams(self, sender: Side, receiver: Side) -> None:
        """RTP, and RTCP if wanted, from one side to the other."""
        for sort in sorts(self._settings, sender.name):
            first_stream = len(self.accounts) * self._settings.calls
            builder = Builder(self._settings, self._calls, sort, first_stream, sender.name == "caller")
            sending = self._outgoing(builder, sender, receiver)
            self._add_limit(sending.account, sort.plan, sort.plan.start_ns, 0)
            self._add_rebinding(builder, sending, sender, receiver)

    def add_strays(self, sides: list[Side]) -> None:
        """Strays to the ports of both sides."""
        for number, flood in enumerate(self._settings.floods):
            for side in sides:
                frames = StrayFrames(self._settings, self._calls, side).build()
                seed = (self._settings.seed, _FLOOD_SEED + number, int(side.name == "caller"))
                schedule = Schedule(flood_plan(flood, len(frames)), Impairments(), seed)
                self._media.outgoing.append(Outgoing(schedule, frames, side.interface))

    def _outgoing(self, builder: Builder, sender: Side, receiver: Side) -> Judged:
        settings, sort, media = self._settings, builder.sort, self._media
        account = Account(
            (f"{sender.name} to {receiver.name}", sort.kind.value),
            builder.arriving(receiver, is_moved=False),
            builder.first_stream,
            sort.plan.packets + _SPARE_PLACES,
            settings.expectations,
        )
        account.late_ns = round(settings.late_ms * 1_000_000)
        impairments = settings.impairments if sort.kind is Kind.RTP else Impairments()
        schedule = Schedule(sort.plan, impairments, (settings.seed, builder.first_stream))
        sending = Judged(schedule, builder.leaving(sender, is_moved=False), sender.interface, account=account)
        media.outgoing.append(sending)
        media.judge.accounts[receiver.interface.name].append(account)
        media.judge.expect_at_phones(account)
        self.accounts.append(account)
        self.schedules.append(schedule)
        return sending

    def _add_limit(self, account: Account, plan: Plan, start_ns: int, transition: int) -> None:
        """Each stream has the time of an opening, after a period in which all of them have sent."""
        at_ns = start_ns + plan.period_ns + round(self._settings.opening_s * NS)
        self._media.events.append((at_ns, lambda: account.limit_transition(transition)))

    def _add_rebinding(self, builder: Builder, sending: Judged, sender: Side, receiver: Side) -> None:
        """Move the phones of a side. RTCP keeps its place where only ports change."""
        rebinding, account = self._settings.rebinding, sending.account
        if rebinding is None or (builder.sort.kind is Kind.RTCP and not rebinding.changes_address):
            return
        at_ns = round(rebinding.at_s * NS)
        if rebinding.side == receiver.name:
            self._media.events.append((at_ns, self._moving_receiver(account, builder, receiver)))
        else:
            self._media.events.append((at_ns, self._moving_sender(sending, builder, sender)))
        self._add_limit(account, builder.sort.plan, at_ns, 1)

    def _moving_receiver(self, account: Account, builder: Builder, receiver: Side) -> Callable[[], None]:
        frames = builder.arriving(receiver, is_moved=True)

        def move() -> None:
            account.move(frames)
            self._media.judge.expect_at_phones(account)

        return move

    @staticmethod
    def _moving_sender(sending: Judged, builder: Builder, sender: Side) -> Callable[[], None]:
        frames = builder.leaving(sender, is_moved=True)

        def move() -> None:
            sending.account.start_transition()
            sending.frames = frames

        return move


def flood_plan(flood: Flood, ports: int) -> Plan:
    """Spread strays over the ports of a side; half of the rate goes to each side."""
    start_ns = round(flood.at_s * NS)
    period_ns = max(1, round(2 * ports / flood.rate * NS))
    return Plan(ports, period_ns, start_ns, start_ns + round(flood.for_s * NS))
