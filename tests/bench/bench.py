"""`make bench`: measures the relay beside other ways to do the same, prints tables and writes the results as JSON.

`docs/benchmarks.md` explains what is measured and how; `page` writes it from the JSON of one run.
"""

import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from tests.bench import page
from tests.bench.churn import measure_churn
from tests.bench.control import measure_control
from tests.bench.forwarding import measure_before, measure_forwarding, measure_peer, measure_userspace
from tests.bench.loaded import measure_media_under_commands
from tests.bench.machine import ROOT, commit_of, describe_machine
from tests.bench.plan import FULL, QUICK, Plan
from tests.bench.playback import measure_playback
from tests.bench.priority import put_first
from tests.bench.progress import say
from tests.bench.recorded import measure_recorded
from tests.bench.relays import make_room_for_connections
from tests.bench.reported import measure_reported
from tests.bench.resources import measure_idle_check, measure_memory
from tests.bench.runs import MeasuringError
from tests.bench.walk import measure_walks
from tests.bench.watched import measure_watched
from tests.running import PROGRAM
from tests.workers import enter_own_namespaces

_FORMAT = 1
_PARTS = (
    "forwarding",
    "program",
    "recorded",
    "watched",
    "reported",
    "userspace",
    "control",
    "loaded",
    "playback",
    "churn",
    "resources",
)
_TOOLS = "ip", "ethtool", "nft"


@click.command()
@click.option("--quick", is_flag=True, help="Three minutes instead of fifteen; figures are rough.")
@click.option("--before", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIRECTORY",
              help="Another checkout of this relay, to compare the kernel tiers with, in turn.")  # fmt: skip
@click.option("--peer", default="", metavar="COMMAND", help="Another RTPproxy, for media and call set-ups beside ours.")
@click.option("--only", "parts", multiple=True, type=click.Choice(_PARTS), help="Leave the other parts out.")
@click.option("--rounds", type=click.IntRange(1), help=f"Runs of each relay in the kernel.  [default: {FULL.rounds}]")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), default=Path("bench.json"),
              show_default=True, help="Where results go.")  # fmt: skip
@click.option("--publish", is_flag=True, help=f"Also make {page.PAGE.name} of them, and keep them beside it.")
def main(
    quick: bool,
    before: Path | None,
    peer: str,
    parts: tuple[str, ...],
    rounds: int | None,
    path: Path,
    publish: bool,
) -> None:
    """Measure, print tables, and write the results as JSON. Takes root, and a quarter of an hour of an idle machine."""
    if publish and (quick or (parts and (before or peer))):
        raise click.UsageError("a quick run cannot be published, nor a part beside another checkout or program")
    _check_machine()
    plan = QUICK if quick else FULL
    plan = replace(plan, rounds=rounds or plan.rounds)
    results = _describe(plan, quick)
    if publish and not results["commit"].isalnum():
        raise click.ClickException("only a commit can be published: commit the changes in rtpproxy/ and bpf/ first")
    if results["machine"]["load"] > page.QUIET_LOAD:
        say(f"this machine is busy (load {results['machine']['load']}), so expect worse figures than it can reach")
    before_program = _program_of(before) if before else ""
    if before:
        results["before"] = {"commit": commit_of(before)}
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    make_room_for_connections(2 * max(plan.sizes))
    enter_own_namespaces()
    put_first(os.getpid())
    try:
        for part, measure in _steps(plan, results, before_program, peer):
            if part in (parts or _PARTS):
                measure()
    except (MeasuringError, AssertionError) as error:
        say("failed")
        raise click.ClickException(str(error)) from error
    say("done")
    path.write_text(_as_json(results))
    click.echo(page.render_tables(results))
    click.echo(f"results: {path}", err=True)
    if publish:
        published = page.with_parts(json.loads(page.RESULTS.read_text()), results) if parts else results
        page.RESULTS.write_text(_as_json(published))
        page.PAGE.write_text(page.render(published))
        click.echo(f"published: {page.RESULTS.relative_to(ROOT)}, {page.PAGE.relative_to(ROOT)}", err=True)


def _steps(
    plan: Plan, results: dict[str, Any], before_program: str, peer: str
) -> list[tuple[str, Callable[[], object]]]:
    """The parts in order, each with a function that measures and puts its results in their place."""

    def put(name: str, measure: Callable[[], Any], into: dict[str, Any] = results) -> Callable[[], object]:
        return lambda: into.update({name: measure()})

    programs = {"now": PROGRAM, **({"before": before_program} if before_program else {})}
    steps = [("forwarding", put("forwarding", lambda: measure_forwarding(plan)))]
    if before_program:
        steps.append(("forwarding", put("relays", lambda: measure_before(plan, before_program), results["before"])))
    steps.append(("program", put("program", lambda: measure_walks(plan, programs))))
    steps.append(("recorded", put("recorded", lambda: measure_recorded(plan))))
    steps.append(("watched", put("watched", lambda: measure_watched(plan))))
    steps.append(("reported", put("reported", lambda: measure_reported(plan))))
    steps.append(("userspace", put("userspace", lambda: measure_userspace(plan))))
    if peer:
        steps.append(("userspace", put("peer", lambda: measure_peer(plan, peer))))
    steps.append(("control", put("control", lambda: measure_control(plan, peer))))
    steps.append(("loaded", put("loaded", lambda: measure_media_under_commands(plan))))
    steps.append(("playback", put("playback", lambda: measure_playback(plan))))
    steps.append(("churn", put("churn", lambda: measure_churn(plan))))
    steps.append(("resources", put("idle_check", lambda: measure_idle_check(plan))))
    steps.append(("resources", put("memory", lambda: measure_memory(plan))))
    return steps


def _describe(plan: Plan, quick: bool) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit_of(ROOT),
        "is_quick": quick,
        "machine": describe_machine(),
        "options": asdict(plan),
    }


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise click.ClickException("needs root: it makes network namespaces and loads BPF programs")
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise click.ClickException(f"missing commands: {', '.join(missing)}")
    if len(os.sched_getaffinity(0)) < 2:
        raise click.ClickException("needs two cores: one for the media, one for the controller")


def _program_of(checkout: Path) -> str:
    program = checkout.resolve() / ".venv" / "bin" / "rtpproxy"
    if not program.is_file():
        raise click.ClickException(f"{program} is missing: run `make .venv/run.ok` in that checkout")
    return str(program)


def _as_json(results: dict[str, Any]) -> str:
    return json.dumps(results, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
