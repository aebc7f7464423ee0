"""Builds the frames of all streams: from the calls, as relays know them, and the sides, as phones see them."""

from dataclasses import dataclass

from generator.calls import Call
from generator.frames import (
    STRAY_MAGIC,
    Flow,
    Frames,
    Kind,
    Layout,
    Marking,
    Streams,
    build,
    rtcp_payload,
    rtp_payload,
)
from generator.schedule import NS, Plan
from generator.settings import Settings
from generator.side import Side
from generator.signalling import Place

_PHONE = Marking(tos=0x20, ttl=57)
"""Of phones' packets: others than a relay's, so that it shows if one copies them."""
_RTCP_START_NS, _RTCP_SPREAD_NS = 500_000_000, 500_000_000
_SSRC, _STRAY_SSRC = 0x10000000, 0x60000000
_FIRST_STRAY_PORT, _STRAY_PORTS = 30000, 10000


@dataclass(frozen=True)
class Sort:
    """What the streams of a kind have in common."""

    kind: Kind
    payload: bytes
    plan: Plan
    timestamp_step: int

    @property
    def port_offset(self) -> int:
        return 1 if self.kind is Kind.RTCP else 0


@dataclass(frozen=True)
class Builder:
    """Builds the frames of all calls, of one kind and direction."""

    settings: Settings
    calls: list[Call]
    sort: Sort
    first_stream: int
    is_from_caller: bool

    def leaving(self, sender: Side, *, is_moved: bool) -> Frames:
        """As the phones send them to the relay."""
        flows = []
        for call in self.calls:
            relay = call.relay_beside(sender.name)
            phone = self._phone(sender, call, is_moved)
            offset = self.sort.port_offset
            flows.append(sender.flow_to(relay.address, relay.port + offset, phone.address, phone.port + offset))
        return self._build(sender, flows, _PHONE)

    def arriving(self, receiver: Side, *, is_moved: bool) -> Frames:
        """As the relay must send them to the phones."""
        flows = []
        for call in self.calls:
            relay = call.relay_beside(receiver.name)
            phone = self._phone(receiver, call, is_moved)
            offset = self.sort.port_offset
            flows.append(receiver.flow_from(relay.address, relay.port + offset, phone.address, phone.port + offset))
        expected = self.settings.expectations
        tos = expected.tos if receiver.settings.addresses.version == 4 else expected.tos6
        ttl = expected.ttl if expected.ttl is not None else 64
        return self._build(receiver, flows, Marking(tos or 0, ttl, expected.is_df_set is not False))

    def _phone(self, side: Side, call: Call, is_moved: bool) -> Place:
        rebinding = self.settings.rebinding
        if is_moved and rebinding:
            changes_address = rebinding.changes_address
            return side.settings.moved(call.number, self.settings.calls, changes_address=changes_address)
        return side.settings.place(call.number)

    def _build(self, side: Side, flows: list[Flow], marking: Marking) -> Frames:
        layout = Layout(side.settings.tags, side.settings.addresses.version, len(self.sort.payload), self.sort.kind)
        sources = _SSRC, _SSRC + self.settings.calls
        sender, receiver = sources if self.is_from_caller else sources[::-1]
        streams = Streams(self.first_stream, sender, receiver)
        return build(flows, layout, marking, self.sort.payload, streams, self.sort.timestamp_step)


@dataclass(frozen=True)
class StrayFrames:
    """RTP from a stranger to every port of the calls on one side; to RTCP ports only where RTCP was heard."""

    settings: Settings
    calls: list[Call]
    side: Side

    def build(self) -> Frames:
        """A row for each port."""
        stranger, flows = self.side.settings.stranger(), []
        for call in self.calls:
            relay = call.relay_beside(self.side.name)
            for offset in (0, 1) if self.settings.rtcp_interval_s else (0,):
                source_port = _FIRST_STRAY_PORT + 2 * (call.number % _STRAY_PORTS) + offset
                flows.append(self.side.flow_to(relay.address, relay.port + offset, stranger, source_port))
        payload = rtp_payload(self.settings.codec, self.settings.size, self.settings.seed + 1)
        layout = Layout(self.side.settings.tags, self.side.settings.addresses.version, len(payload), Kind.RTP)
        streams = Streams(0, _STRAY_SSRC, 0, STRAY_MAGIC)
        return build(flows, layout, _PHONE, payload, streams, 160)


def sorts(settings: Settings, sender: str) -> list[Sort]:
    """The kinds of streams that the phones of a side send. On hold, the callee's are silent."""
    end_ns = round(settings.duration_s * NS)
    hold = settings.hold
    silence = (0, 0)
    if hold is not None and sender == "callee":
        silence = round(hold.at_s * NS), round((hold.at_s + hold.for_s) * NS)
    plan = Plan(settings.calls, round(NS / settings.rate), 0, end_ns, silence)
    payload = rtp_payload(settings.codec, settings.size, settings.seed)
    found = [Sort(Kind.RTP, payload, plan, round(settings.codec.clock / settings.rate))]
    if settings.rtcp_interval_s:
        start_ns = min(_RTCP_START_NS, end_ns // 2)
        period_ns = round(settings.rtcp_interval_s * NS)
        plan = Plan(settings.calls, period_ns, start_ns, end_ns, spread_ns=_RTCP_SPREAD_NS)
        found.append(Sort(Kind.RTCP, rtcp_payload(), plan, round(settings.codec.clock * settings.rtcp_interval_s)))
    return found
