"""How much is measured, and how often."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Plan:
    """One run of the benchmark. Times are in seconds, rates in packets a second."""

    sizes: tuple[int, ...] = (500, 7500)
    """Calls."""
    rounds: int = 11
    """Runs of each relay, in turn."""
    run_s: float = 0.3
    """Length of a run at full speed."""
    paced_s: float = 2.0
    """Length of a run at a pace."""
    paced_rate: int = 100_000
    """At which the kernel's delays are measured."""
    has_all_families: bool = True
    """IPv6 and both changes of family, too."""
    userspace_rates: tuple[int, ...] = (40_000, 80_000, 100_000)
    peer_calls: int = 500
    peer_rates: tuple[int, ...] = (20_000, 40_000)
    peer_rounds: int = 5
    rows: tuple[int, ...] = (1, 2000, 30_000)
    """Rows that the XDP program is walked over."""
    walks: int = 61
    control_rounds: int = 5
    control_calls: int = 3000
    """Set up in one run."""
    controlled_calls: int = 1000
    """Held meanwhile."""
    loaded_in_flight: int = 8
    """Commands, while media is measured."""
    loaded_s: float = 5.0
    """Length of a run with commands in flight."""
    churn_calls: int = 200
    """In userspace, while routes change."""
    churn_routes: int = 200_000
    churn_s: float = 12.0
    """Length of a run; routes change for a part of it."""
    churn_peers: int = 15_000
    recorded: tuple[int, ...] = (0, 100, 1000)
    """Calls that are recorded while others send at full speed; as many as the most always send at their usual rate."""
    recorded_rounds: int = 7
    recorded_steps: tuple[int, ...] = (1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 7000)
    """Calls that are recorded while all send at their usual rate, up to the first that one core cannot write."""
    recorded_s: float = 4.0
    """Length of such a run."""
    prompts: int = 500
    """Played at once."""
    prompts_s: float = 60.0
    prompt_set_ups: int = 5000
    """A second, meanwhile."""
    watched: int = 2000
    """Streams that are watched for DTMF, of twice as many."""
    reported_rate: int = 3000
    """RTCP packets that go to a collector, of all calls: what 7,500 calls send, each party every five seconds."""
    reported_rounds: int = 5
    reported_s: float = 5.0
    held_calls: int = 15_000
    """For memory and for the idle check."""


FULL = Plan()
QUICK = replace(
    FULL,
    sizes=(500,),
    rounds=5,
    run_s=0.1,
    paced_s=0.5,
    has_all_families=False,
    userspace_rates=(40_000,),
    peer_rates=(20_000,),
    peer_rounds=1,
    rows=(1, 2000),
    walks=15,
    control_rounds=2,
    control_calls=500,
    loaded_s=1.0,
    churn_routes=20_000,
    churn_s=3.0,
    recorded=(0, 100),
    recorded_rounds=3,
    recorded_steps=(100, 400),
    recorded_s=1.0,
    prompts=100,
    prompts_s=3.0,
    watched=200,
    reported_rounds=3,
    reported_s=2.0,
    held_calls=1000,
)
