"""`D` and `X` end sessions at once: after the reply, nothing of them is relayed in any tier."""

import pytest

from tests.netns_call.call import Call, rtcp
from tests.running import rtp


@pytest.mark.parametrize("command", ["D {} f t", "D {} f", "X"], ids=["tags", "from-tag", "all"])
def test_a_session_ends_at_once(call, relay, way, command):
    """After the reply its ports are closed ports, in every tier."""
    call.establish(way)
    assert relay.ask(command.format(call.name)) == "0"
    for sender, receiver in ((call.caller, call.callee), (call.callee, call.caller)):
        sender.rtp.expect_refusal(rtp(2), sender.to)
        sender.rtcp.expect_refusal(rtcp(2), sender.to_rtcp)
        assert receiver.rtp.take() == receiver.rtcp.take() == []
    assert relay.ask(f"Q {call.tags}") == "E50"
    assert relay.ask(f"D {call.tags}") == "E50"


def test_other_sessions_go_on(call, relay, topology, way):
    with Call(
        *(relay, topology.caller, topology.callee, f"{call.name}-2"),
        caller_at=("10.0.1.2", 4020),
        callee_at=("10.0.2.2", 5020),
    ) as other_call:
        call.establish(way)
        other_call.establish(way)
        assert relay.ask(f"D {call.tags}") == "0"
        other_call.cross(rtp(2))
        call.caller.send(rtp(2))
        other_call.cross(rtp(3))
        assert call.callee.rtp.take() == []
        assert other_call.quote()["nrelayed"] == 6
