"""Calls that phones signal through Kamailio, and what tests wait for."""

from collections.abc import Callable
from pathlib import Path

from tests.clients.conftest import Setting
from tests.clients.sipp import MEDIA_PORT, Caller, Media, UserAgent
from tests.netns import Phone
from tests.netns_call.call import Call, Party, PhonePort
from tests.running import RunningRelay
from tests.waiting import DEADLINE_S, wait_for

CALLER_PORT = 4000


class SignalledCall(Call):
    """A call whose ports Kamailio asked for: the phones send where SIP told them to."""

    def __init__(
        self,
        setting: Setting,
        directory: Path,
        call_id: str,
        start: Callable,
        *,
        relay: RunningRelay | None = None,
        callee_ip: str = "",
    ) -> None:
        """`start` is the fixture; `relay` is the one that should be asked, by default the only one.

        `callee_ip` is the callee's IPv4 address unless said otherwise.
        """
        topology = setting.topology
        self.relay = relay or setting.relay
        self.name = call_id
        self.answering = start(setting, UserAgent(topology.callee, directory, "callee", ip=callee_ip))
        self.calling = start(setting, Caller(topology.caller, directory, setting.proxy, call_id))
        self.caller = party(topology.caller, CALLER_PORT)
        self.callee = party(topology.callee, MEDIA_PORT, callee_ip)

    def offer(self, media: Media) -> tuple[Media, Media]:
        """Call, or offer something else within the call; what the callee and the caller are told."""
        to_caller = self.calling.offer(media)
        to_callee = self.answering.offers[-1]
        self.caller.to = to_caller.address
        self.callee.to = to_callee.address
        return to_callee, to_caller

    def hang_up(self) -> None:
        """End the call; the relay must have no session then."""
        self.calling.hang_up()
        self.answering.wait()
        wait_for_sessions(self.relay, 0)


def party(phone: Phone, port: int, ip: str = "") -> Party:
    """A phone's two ports; the IPv4 address is the phone's unless said otherwise."""
    ip = ip or phone.ip
    return Party(PhonePort(phone, ip, port), PhonePort(phone, ip, port + 1))


def wait_for_sessions(relay: RunningRelay, count: int) -> None:
    wait_for(lambda: relay.totals()["active sessions"] == count, DEADLINE_S, f"{count} sessions")
