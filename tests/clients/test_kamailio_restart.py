"""Kamailio asks with its default parameters while the relay restarts: refused once, it would not ask for a minute."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.clients.conftest import CONTROL_PORT, Setting
from tests.clients.kamailio import USUAL_FLAGS, Kamailio
from tests.clients.sipp import UserAgent, media_of
from tests.running import RunningRelay
from tests.waiting import DEADLINE_S, wait_for

CALLS, RATE = 100, 10
"""Calls, and how many are made a second; each lasts a second."""
RESTARTS = 2
AHEAD = ("nice", "-n", "-20")
"""Lets the relay start at its own pace on a busy machine, too: Kamailio waits for five seconds."""


@pytest.fixture(params=["udp", "unix"])
def kept(request, topology, tmp_path) -> Iterator[tuple[socket.socket, str]]:
    """A control socket that a service manager keeps, and what Kamailio calls it."""
    is_udp = request.param == "udp"
    kind = (socket.AF_INET, socket.SOCK_DGRAM) if is_udp else (socket.AF_UNIX, socket.SOCK_STREAM)
    with topology.relay.socket(*kind) as opened:
        if is_udp:
            opened.bind(("127.0.0.1", CONTROL_PORT))
            yield opened, f"udp:127.0.0.1:{CONTROL_PORT}"
        else:
            opened.bind(str(tmp_path / "kept"))
            opened.listen(128)
            yield opened, f"unix:{tmp_path}/kept"


@pytest.fixture
def setting(topology, kept, tmp_path) -> Iterator[Setting]:
    opened, name = kept
    host, to_caller, to_callee = topology.relay, topology.caller.gateway.ip, topology.callee.gateway.ip
    options = ("-s", "systemd:", "-F", "-l", to_caller, "-d", "DBUG")
    with (
        RunningRelay(tmp_path, *options, host=host, prefix=AHEAD, passed=[opened]) as relay,
        Kamailio(
            host,
            tmp_path,
            ips=[to_caller, to_callee],
            relays=[name],
            callee=topology.callee.ip,
            offer=(USUAL_FLAGS,),
            answer=(USUAL_FLAGS,),
            patience_s=None,
        ) as kamailio,
    ):
        yield Setting(topology, [relay], kamailio, (to_caller, to_caller))


def call_ids(letter: str, log: str) -> set[str]:
    """List the calls that a relay got this command for."""
    return set(re.findall(rf'received command " ?{letter}\S* (\S+) ', log))


def hosts(messages: list[str], first_line: str) -> dict[str, str]:
    """Tell by call-id where the SDP of these messages sends media."""
    found = [message for message in messages if re.match(rf"{first_line} (.*\n)*m=audio ", message)]
    return {re.findall(r"^Call-ID: (\S+)", message, re.MULTILINE)[0]: media_of(message).host for message in found}


def test_no_call_fails_while_the_relay_restarts(setting, start, tmp_path):
    """Each has media through the relay. But one whose offer the old relay answered and whose answer came after its end
    has no session at the new one: Kamailio lets it go on with the callee's own address."""
    relay, topology = setting.relay, setting.topology
    answering = start(setting, UserAgent(topology.callee, tmp_path, "callee", calls=CALLS))
    options = ("-r", f"{RATE}", "-d", "1000")
    calling = UserAgent(topology.caller, tmp_path, "short_calls", *options, proxy=setting.proxy, calls=CALLS)
    start(setting, calling)

    between: set[str] = set()
    for number in range(1, RESTARTS + 1):
        few = CALLS * number // (RESTARTS + 2)
        wait_for(lambda few=few: len(call_ids("U", relay.log)) >= few, DEADLINE_S, f"{few} calls")
        assert relay.stop() == 0
        between |= call_ids("U", relay.log) - call_ids("L", relay.log)
        relay.start()
    assert len(call_ids("U", relay.log)) < CALLS, "calls were over before the last restart"

    calling.wait(CALLS / RATE + DEADLINE_S)
    answering.wait()
    to_callee, to_caller = hosts(answering.received, "INVITE"), hosts(calling.received, r"SIP/2\.0 200")
    assert len(to_callee) == len(to_caller) == CALLS
    assert set(to_callee.values()) == {setting.hosts[0]}
    assert {host for call_id, host in to_caller.items() if call_id not in between} == {setting.hosts[1]}
    assert [line for line in setting.kamailio.complaints if not any(call_id in line for call_id in between)] == []
