"""`make bench`: what the relay forwards and relays, beside the limit of the same machine, in one run.

Bare redirect (the limit), XDP and TC in and between the IP families, and the kernel's NAT run in turn, on the same kind
of veth topology, with the same generator and sink; each round gives ratios, and their medians are printed. Then the
userspace tier, call set-ups over both kinds of control socket, media while they go on, the idle check, and memory.
"""

import resource

import click

from tests.bench.control import measure_control
from tests.bench.forwarding import bench_forwarding
from tests.bench.loaded import bench_media_under_commands
from tests.bench.resources import measure_idle_check, measure_memory


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Runs of each relay, as many ratios.")
@click.option("--seconds", default=0.3, show_default=True, help="Length of a run.")
@click.option("--calls", "sizes", multiple=True, type=int, default=(500, 7500), show_default=True)
@click.option("--only", type=click.Choice(["forwarding", "control", "idle"]), help="Leave the other parts out.")
@click.option("--peer", default="", metavar="COMMAND", help="Another RTPproxy, for media and call set-ups beside ours.")
def main(rounds: int, seconds: float, sizes: tuple[int, ...], only: str | None, peer: str) -> None:
    """Measure and print."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if only in (None, "forwarding"):
        bench_forwarding(list(sizes), rounds, seconds, peer)
    if only in (None, "control"):
        measure_control(peer)
        bench_media_under_commands(sizes[0])
    if only in (None, "idle"):
        measure_idle_check()
        measure_memory()


if __name__ == "__main__":
    main()
