"""The reply to `It`: every stream is counted once."""

from rtpproxy.offload.off import NoCounters, NoEntries
from tests.fakes import ForwardingEntry
from tests.scenario import Scenario, start_talking


def tiers(play: Scenario) -> list[str]:
    return play.ask("It").splitlines()[5:]


def test_streams_by_tier(play):
    frames = ["frames up_no_entry: 5", "frames forwarded_though_not_rtp: 6"]
    assert tiers(play) == ["streams by XDP: 0", "streams by userspace: 0", *frames]
    play.call("call")
    start_talking(play)
    entries = [want for want in play.offload.installed.values() if isinstance(want, ForwardingEntry)]
    assert tiers(play)[:2] == [f"streams by XDP: {len(entries)}", f"streams by userspace: {4 - len(entries)}"]
    play.ask("D call f")
    assert tiers(play)[:2] == ["streams by XDP: 0", "streams by userspace: 0"]
    play.ask("U half 10.0.1.2 4000 f")
    assert tiers(play)[1:3] == ["streams by userspace: 2", "userspace, not complete: 2"]
    play.ask("D half f")


def test_without_a_kernel_tier_everything_has_one_reason():
    play = Scenario(entries=NoEntries("--offload off"), counters=NoCounters())
    play.call("call")
    start_talking(play)
    assert tiers(play) == ["streams by userspace: 4", "userspace, --offload off: 4"]


def test_what_userspace_was_too_slow_for(play):
    before = tiers(play)
    play.media.late = 7
    assert tiers(play) == [*before, "frames dropped_waited_too_long: 7"]
    play.media.excess = 9
    assert tiers(play) == [*before, "frames dropped_waited_too_long: 7", "frames dropped_no_room: 9"]
