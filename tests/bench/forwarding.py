"""What is forwarded and relayed, beside the limit of the same machine and the kernel's own NAT, in turn."""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial

import click

from tests.bench.relays import Families, Subject, bare, in_kernel, kernel_nat, other_program, relayed, told
from tests.bench.runs import Measured, run_once
from tests.running import PROGRAM

Make = Callable[[int], AbstractContextManager[Subject]]
Round = dict[str, Measured]
"""One run of each relay, by its name."""

_BARE, _NAT, _COMPARED_WITH_NAT = "bare redirect 4-4", "kernel NAT 4-4", "TC 4-4"
_FAMILIES = [Families(4, 4), Families(6, 6), Families(4, 6), Families(6, 4)]
_IN_TURN: dict[str, Make] = {
    _BARE: bare,
    **{f"XDP {families}": partial(in_kernel, tier="xdp", families=families) for families in _FAMILIES},
    _NAT: kernel_nat,
    **{f"TC {families}": partial(in_kernel, tier="tc", families=families) for families in _FAMILIES},
}
_PACED_RATE = 100_000
_USERSPACE_RATES = 40_000, 80_000, 100_000
_PEER_RATES = 20_000, 40_000
_PEER_CALLS = 500
_PEER_ROUNDS = 5
_PACED_S = 2.0


def bench_forwarding(sizes: list[int], rounds: int, seconds: float, peer: str) -> None:
    """The table of relays; then media beside `peer`, the command of another program, empty for none."""
    click.echo(
        f"{rounds} rounds, each relay once a round; ratios are medians of the rounds' ratios; "
        f"delays are those at {_PACED_RATE:,}/s where no rate is named\n"
        "| relay | calls | packets/s | of bare | of kernel NAT | lost | p50 us | p99 us |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for calls in sizes:
        _compare_in_kernel(calls, rounds, seconds)
        _measure_userspace(calls)
    if peer:
        _compare_with_peer(peer)


def _compare_in_kernel(calls: int, rounds: int, seconds: float) -> None:
    """All that works in the kernel, in turn as fast as possible, then once at a pace; a row for each."""
    with ExitStack() as stack:
        subjects = {name: stack.enter_context(make(calls)) for name, make in _IN_TURN.items()}
        learned_from = {name: _not_forwarded(subject) for name, subject in subjects.items()}
        fast = [_run_in_turn(subjects, seconds, 0) for _ in range(rounds)]
        paced = _run_in_turn(subjects, _PACED_S, _interval_ns(_PACED_RATE))
        for name in subjects:
            nat = _ratio(fast, name, _NAT) if name == _COMPARED_WITH_NAT else "-"
            _show(name, calls, [one[name] for one in fast], paced[name], _ratio(fast, name, _BARE), nat)
        for name, subject in subjects.items():
            missing = _not_forwarded(subject) - learned_from[name]
            if missing:
                click.echo(f"{name}, {calls} calls: the kernel did not forward {missing:,} packets: {told(subject)}")


def _run_in_turn(subjects: dict[str, Subject], seconds: float, interval_ns: int) -> Round:
    return {name: run_once(subject.generator, subject.sink, seconds, interval_ns) for name, subject in subjects.items()}


def _ratio(rounds: list[Round], name: str, to: str) -> str:
    return f"{statistics.median(one[name].rate / one[to].rate for one in rounds):.2f}"


def _not_forwarded(subject: Subject) -> int:
    """Packets sent so far that the kernel did not forward for our daemon: learned from, or lost."""
    if subject.relay is None:
        return 0
    return subject.generator.total - told(subject)["frames forwarded"]


def _measure_userspace(calls: int) -> None:
    with relayed(calls, "--offload", "off") as subject:
        for rate in _USERSPACE_RATES:
            run = run_once(subject.generator, subject.sink, _PACED_S, _interval_ns(rate))
            _show(f"userspace 4-4, at {rate:,}/s", calls, [run], run)


def _compare_with_peer(peer: str) -> None:
    """Media through another program and through userspace of ours, in turn; a row for each and rate."""
    click.echo(
        f"\nthrough userspace, IPv4, {_PEER_CALLS} calls (a program may need four descriptors for each); "
        f"medians of {_PEER_ROUNDS} rounds, in turn\n"
        "| program | calls | offered/s | packets/s | lost | p50 us | p99 us |\n|---|---|---|---|---|---|---|"
    )
    commands = {"rtpproxy": f"{PROGRAM} -d ERR --offload off", "peer": peer}
    with ExitStack() as stack:
        subjects = {
            name: stack.enter_context(other_program(_PEER_CALLS, command)) for name, command in commands.items()
        }
        for rate in _PEER_RATES:
            rounds = [_run_in_turn(subjects, _PACED_S, _interval_ns(rate)) for _ in range(_PEER_ROUNDS)]
            for name in subjects:
                runs = [one[name] for one in rounds]
                pace, loss, p50_us, p99_us = (
                    statistics.median(getattr(run, field) for run in runs)
                    for field in ("rate", "loss", "p50_us", "p99_us")
                )
                click.echo(
                    f"| {name} | {_PEER_CALLS} | {rate:,} | {pace:,.0f} | {loss:.4%} | {p50_us:.1f} | {p99_us:.1f} |"
                )


def _show(name: str, calls: int, fast: list[Measured], paced: Measured, of_bare: str = "-", of_nat: str = "-") -> None:
    """One line of the table: median rate and worst loss of the fast runs, delays of the paced one."""
    rate = statistics.median(run.rate for run in fast)
    loss = max(run.loss for run in [*fast, paced])
    click.echo(
        f"| {name} | {calls:,} | {rate:,.0f} | {of_bare} | {of_nat} | {loss:.4%} "
        f"| {paced.p50_us:.1f} | {paced.p99_us:.1f} |"
    )


def _interval_ns(rate: int) -> int:
    return round(1e9 / rate)
