"""Measures forwarding in the kernel, beside a bare redirect and the kernel's own NAT, and relaying in userspace."""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from tests.bench.plan import Plan
from tests.bench.progress import say
from tests.bench.relays import Families, Subject, bare, dropped, in_kernel, kernel_nat, other_program, relayed, told
from tests.bench.runs import Measured, MeasuringError, quartiles, run_once
from tests.running import PROGRAM

Make = Callable[[int], AbstractContextManager[Subject]]
Round = dict[str, Measured]
"""One run of each relay, by its name."""
Result = dict[str, Any]

GENERATOR, NAT = "generator alone", "kernel NAT 4-4"
_COMPARED_WITH_NAT = "TC 4-4"
_ALL_FAMILIES = Families(4, 4), Families(6, 6), Families(4, 6), Families(6, 4)
_BEFORE = ", before"
_LOSS_S = 0.5
"""Length of a paced run that is only to show losses."""
_TOLERATED_SHARE = 0.01
"""Of packets that the kernel may leave to userspace without spoiling a figure."""


def bare_name(version: int) -> str:
    """Name of the bare redirect of frames of one family."""
    return f"bare redirect {version}-{version}"


def measure_forwarding(plan: Plan) -> list[Result]:
    """Relays that work in the kernel, and what they are compared with: a result for each, and each number of calls."""
    families = _families(plan)
    makes = {GENERATOR: dropped, **_bare_makes(families), **_tier_makes("xdp", families)}
    makes |= {NAT: kernel_nat, **_tier_makes("tc", families)}
    results = []
    for calls in plan.sizes:
        fast, paced = _measure(makes, calls, plan)
        results += [_result(name, calls, fast, paced[name]) for name in makes]
    return results


def measure_before(plan: Plan, program: str) -> list[Result]:
    """The kernel tiers of this checkout and of another one's program, in turn: a result for each, and each size."""
    families = _families(plan)
    now = {**_tier_makes("xdp", families), **_tier_makes("tc", families)}
    before = {**_tier_makes("xdp", families, program), **_tier_makes("tc", families, program)}
    makes = _bare_makes(families)
    for number, name in enumerate(now):
        pair = {name: now[name], name + _BEFORE: before[name]}
        makes |= dict(reversed(pair.items())) if number % 2 else pair  # neither is always set up first
    plan = replace(plan, paced_s=_LOSS_S)
    results = []
    for calls in plan.sizes:
        fast, paced = _measure(makes, calls, plan)
        for name in now:
            more = [one[name].packet_ns - one[name + _BEFORE].packet_ns for one in fast]
            results.append(
                {
                    "relay": name,
                    "calls": calls,
                    "now": _result(name, calls, fast, paced[name]),
                    "before": _result(name + _BEFORE, calls, fast, paced[name + _BEFORE]),
                    "more_ns": _median(more),
                    "more_ns_quartiles": quartiles(more),
                }
            )
    return results


def measure_userspace(plan: Plan) -> list[Result]:
    """The userspace tier at several rates."""
    results = []
    for calls in plan.sizes:
        say(f"userspace, {calls:,} calls")
        with relayed(calls, "--offload", "off") as subject:
            for rate in plan.userspace_rates:
                run = run_once(subject.generator, subject.sink, plan.paced_s, _interval_ns(rate))
                results.append({"calls": calls, "offered_per_s": rate, **_paced_values([run])})
    return results


def measure_peer(plan: Plan, peer: str) -> list[Result]:
    """Media through `peer`, the command of another program, and through userspace of ours, in turn."""
    commands = {"rtpproxy": f"{PROGRAM} -d ERR --offload off", "peer": peer}
    results = []
    with ExitStack() as stack:
        say(f"media through userspace, beside another program, {plan.peer_calls:,} calls")
        subjects = {
            name: stack.enter_context(other_program(plan.peer_calls, command)) for name, command in commands.items()
        }
        for rate in plan.peer_rates:
            rounds = [_run_in_turn(subjects, plan.paced_s, _interval_ns(rate)) for _ in range(plan.peer_rounds)]
            for name in subjects:
                values = _paced_values([one[name] for one in rounds])
                results.append({"relay": name, "calls": plan.peer_calls, "offered_per_s": rate, **values})
    return results


def _families(plan: Plan) -> tuple[Families, ...]:
    return _ALL_FAMILIES if plan.has_all_families else _ALL_FAMILIES[:1]


def _bare_makes(families: tuple[Families, ...]) -> dict[str, Make]:
    versions = sorted({one.caller for one in families})
    return {bare_name(version): partial(bare, version=version) for version in versions}


def _tier_makes(tier: str, families: tuple[Families, ...], program: str = PROGRAM) -> dict[str, Make]:
    return {f"{tier.upper()} {one}": partial(in_kernel, tier=tier, families=one, program=program) for one in families}


def _measure(makes: dict[str, Make], calls: int, plan: Plan) -> tuple[list[Round], Round]:
    """All relays in turn, as fast as possible in each of several rounds, then once at a pace."""
    with ExitStack() as stack:
        subjects = {}
        for name, make in makes.items():
            say(f"{calls:,} calls: setting up {name}")
            subjects[name] = stack.enter_context(make(calls))
        learned_from = {name: _not_forwarded(subject) for name, subject in subjects.items()}
        fast = []
        for number in range(plan.rounds):
            say(f"{calls:,} calls: round {number + 1} of {plan.rounds}, {len(subjects)} relays at full speed")
            in_turn = dict(reversed(subjects.items())) if number % 2 else subjects
            fast.append(_run_in_turn(in_turn, plan.run_s, 0))
        say(f"{calls:,} calls: delays at {plan.paced_rate:,} packets/s")
        paced = _run_in_turn(subjects, plan.paced_s, _interval_ns(plan.paced_rate))
        for name, subject in subjects.items():
            lost = sum(one[name].lost_packets for one in [*fast, paced])
            relayed_count = _not_forwarded(subject) - learned_from[name] - lost
            if relayed_count > subject.generator.total * _TOLERATED_SHARE:
                raise MeasuringError(
                    f"{name}, {calls:,} calls: {relayed_count:,} of {subject.generator.total:,} packets were not "
                    f"forwarded by the kernel: {told(subject)}"
                )
    return fast, paced


def _run_in_turn(subjects: dict[str, Subject], seconds: float, interval_ns: int) -> Round:
    return {name: run_once(subject.generator, subject.sink, seconds, interval_ns) for name, subject in subjects.items()}


def _not_forwarded(subject: Subject) -> int:
    """Packets sent so far that the kernel did not forward for our daemon: learned from, or lost."""
    if subject.relay is None:
        return 0
    return subject.generator.total - told(subject).get("frames forwarded", 0)


def _result(name: str, calls: int, fast: list[Round], paced: Measured) -> Result:
    """The values of one relay; those that compare are made round by round, and then their median is taken."""
    result: Result = {
        "relay": name,
        "calls": calls,
        "packets_per_s": round(statistics.median(one[name].rate for one in fast)),
        "packet_ns": _median([one[name].packet_ns for one in fast]),
    }
    if name == GENERATOR:
        return result
    bare_redirect = bare_name(int(name.removesuffix(_BEFORE).split()[-1][0]))
    if name != bare_redirect:
        added = [one[name].packet_ns - one[bare_redirect].packet_ns for one in fast]
        result["added_ns"] = _median(added)
        result["added_ns_quartiles"] = quartiles(added)
        result["of_bare"] = round(statistics.median(one[name].rate / one[bare_redirect].rate for one in fast), 3)
    if name == _COMPARED_WITH_NAT and NAT in fast[0]:
        result["of_nat"] = round(statistics.median(one[name].rate / one[NAT].rate for one in fast), 3)
    result["lost"] = max(run.loss for run in [*(one[name] for one in fast), paced])
    result |= {"p50_us": paced.p50_us, "p99_us": paced.p99_us}
    return result


def _paced_values(runs: list[Measured]) -> Result:
    """Medians of runs at a pace."""
    names = {"packets_per_s": "rate", "lost": "loss", "p50_us": "p50_us", "p99_us": "p99_us"}
    return {key: round(statistics.median(getattr(run, name) for run in runs), 6) for key, name in names.items()}


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 1)


def _interval_ns(rate: int) -> int:
    return round(1e9 / rate)
