"""Two relays in one set of Kamailio: one that does not answer is passed over, and used again when it does."""

import pytest

from tests.clients.calls import SignalledCall, wait_for_sessions
from tests.clients.conftest import CONTROL_PORT, Setting
from tests.clients.kamailio import USUAL_FLAGS, Kamailio
from tests.clients.sipp import Media, UserAgent
from tests.netns_call.call import paused
from tests.running import RunningRelay, rtp
from tests.waiting import DEADLINE_S, wait_for

CALLS = 8
"""Kamailio chooses by the sum of the call-id's characters; those that SIPp counts up alternate."""
PATIENCE_S = 3
"""Until a relay is asked again. One that hangs is noticed after three times that."""
RANGES = (("-m", "20000", "-M", "29999"), ("-m", "30000", "-M", "39999"))


@pytest.fixture(params=["udp", "unix"])
def setting(request, topology, tmp_path):
    host, caller, callee = topology.relay, topology.caller, topology.callee
    relays, names = [], []
    try:
        for number, ports in enumerate(RANGES):
            control = f"udp:127.0.0.1:{CONTROL_PORT + number}"
            relay = RunningRelay(tmp_path, "-s", control, "-F", *ports, host=host, name=f"relay{number}")
            relays.append(relay)
            relay.start()
            names.append(control if request.param == "udp" else f"unix:{relay.socket_path}")
        kamailio = Kamailio(
            host,
            tmp_path,
            ips=[caller.gateway.ip, callee.gateway.ip],
            relays=names,
            callee=callee.ip,
            offer=(USUAL_FLAGS, callee.gateway.ip),
            answer=(USUAL_FLAGS, caller.gateway.ip),
            patience_s=PATIENCE_S,
        )
        with kamailio:
            yield Setting(topology, relays, kamailio, (callee.gateway.ip, caller.gateway.ip))
    finally:
        for relay in reversed(relays):
            relay.__exit__()


@pytest.fixture
def calls(setting, start, tmp_path):
    """Makes some calls at once, none of which may fail."""

    def calls() -> None:
        topology = setting.topology
        setting.witnesses.clear()
        answering = start(setting, UserAgent(topology.callee, tmp_path, "callee", calls=CALLS))
        options = ("-r", "100", "-d", "0")
        calling = UserAgent(topology.caller, tmp_path, "short_calls", *options, proxy=setting.proxy, calls=CALLS)
        start(setting, calling).wait()
        answering.wait()

    return calls


def created(relay: RunningRelay) -> int:
    return relay.totals()["sessions created"]


def wait_until_shared(calls, relay: RunningRelay) -> None:
    """Make calls until the relay does not get all of them any more."""

    def is_shared() -> bool:
        before = created(relay)
        calls()
        return created(relay) < before + CALLS

    wait_for(is_shared, DEADLINE_S, "the other relay to be used again")


def test_calls_move_away_from_a_relay_that_is_killed_and_back_when_it_returns(setting, calls, start, tmp_path):
    lost, other = setting.relays
    wait_for(lambda: calls() or (created(lost) and created(other)), DEADLINE_S, "calls at both relays")

    lost.kill()
    before = created(other)
    calls()
    assert created(other) == before + CALLS
    wait_for_sessions(other, 0)
    with SignalledCall(setting, tmp_path, "moved@caller", start, relay=other) as call:
        call.offer(Media(setting.topology.caller.ip, 4000))
        call.cross(rtp(1))
        call.hang_up()
    assert created(other) == before + CALLS + 1

    lost.start()
    wait_until_shared(calls, other)
    # A call that was under way when the relay returned may have been hung up at the wrong one: Kamailio's choice is by
    # the number of relays in use. Those from now on are not.
    left = [(relay, relay.totals()["active sessions"], created(relay)) for relay in setting.relays]
    # Kamailio chooses by the call-id, which is random: a few calls may all get the same relay.
    wait_for(
        lambda: calls() or all(created(relay) > before for relay, _, before in left), DEADLINE_S, "calls at both relays"
    )
    for relay, sessions, _ in left:
        wait_for_sessions(relay, sessions)


@pytest.mark.parametrize("setting", ["udp"], indirect=True)  # over unix, Kamailio waits for a reply without end
def test_calls_move_away_from_a_relay_that_hangs(setting, calls):
    """Nothing tells Kamailio but that no reply comes: the calls that find out are late, and none fails."""
    hanging, other = setting.relays
    with paused(hanging):
        before = created(other)
        calls()
        assert created(other) == before + CALLS
        wait_for_sessions(other, 0)
    wait_until_shared(calls, other)
