"""Replays recorded dialogues of the C RTPproxy against the real daemon.

Rows and groups that need a feature that is not built yet are listed here with the feature, and rows that are answered
better on purpose with the reason. A listed row must really be answered differently: a new feature takes its rows away.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.transcript import Outcome, client, fill, load, replay
from tests.waiting import DEADLINE_S, wait_for

pytestmark = pytest.mark.xdist_group("ports of the transcripts")

ROOT = Path(__file__).parents[2]
GROUPS = load()

MISSING_GROUPS: dict[str, str] = {}
"""Groups that are not replayed at all, with the reason."""

MISSING_ROWS: dict[str, dict[str, str]] = {}
"""By group: requests that are answered differently today, and the feature that they need."""

IMPROVED: dict[str, dict[str, tuple[str, str]]] = {
    "ports_tiny": {"U a x 5 f": ("20000 127.0.0.1\n", "a range of one pair can be used")},
    "one_sequence": {"U6 d ::1 5 f && S tos=4": ("20002 ::1 6\n", "IPv6 has a TOS byte, too")},
    "null_address": {"U6 d ::1 5 f #2": ("E36\n", "a command that fails changes nothing")},
}
"""By group: requests that are answered differently on purpose, our answer, and the reason (protocol.md 16)."""


def other_answers(name: str) -> set[str]:
    """Return the rows of a group that must be answered differently from the C RTPproxy."""
    return MISSING_ROWS.get(name, {}).keys() | IMPROVED.get(name, {}).keys()


@pytest.fixture(scope="module", params=["bound", pytest.param("steered", marks=pytest.mark.kernel)])
def ports(request: pytest.FixtureRequest) -> str:
    """The way in which the relay owns its ports."""
    return str(request.param)


@pytest.fixture(scope="module", params=[name for name in GROUPS if name not in MISSING_GROUPS])
def replayed(
    request: pytest.FixtureRequest, ports: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[Outcome]]:
    """Return a group's name and its outcomes on a fresh daemon."""
    group = GROUPS[request.param]
    directory = tmp_path_factory.mktemp(group.name)
    for codec in (0, 8):
        (directory / f"prompt.{codec}").write_bytes(bytes(800))
    kind = socket.SOCK_DGRAM if group.transport == "udp" else socket.SOCK_STREAM
    port = free_port("127.0.0.1", kind)
    recordings = directory / "recordings"
    recordings.mkdir()
    places = {
        "RECDIR": str(recordings),
        "SOCK": str(directory / "sock"),
        "PORT": str(port),
        "NOTIFY": str(directory / "notify"),
        "PROMPT": str(directory / "prompt"),
        "NOPROMPT": str(directory / "no_prompt"),
    }
    flags = [fill(flag, places) for flag in group.setup]
    with (
        daemon(directory, [*flags, "--ports", ports, "--offload", "off"], group.transport, port),
        client(group.transport, places["SOCK"], port) as ask,
    ):
        return group.name, replay(group.rows, ask, places)


@contextlib.contextmanager
def daemon(directory: Path, flags: list[str], transport: str, port: int) -> Iterator[None]:
    """Run the real daemon until it takes commands; end it by SIGTERM, which must be a clean exit."""
    log = directory / "log"
    command = [sys.executable, "-m", "rtpproxy", *flags, "-p", str(directory / "pid")]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_for(
            lambda: process.poll() is not None or is_listening(transport, directory / "sock", port),
            DEADLINE_S,
            "the control socket",
        )
        assert process.poll() is None, f"{' '.join(command)}: {log.read_text()}"
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_S) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def is_listening(transport: str, path: Path, port: int) -> bool:
    """Tell if commands would be received, without sending one: some groups count them."""
    if transport in ("udp", "tcp"):
        bound = f":{port:04X} "
        return any(bound in line for line in Path(f"/proc/net/{transport}").read_text().splitlines())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(os.fspath(path)) == 0


def test_answers_like_the_reference(replayed: tuple[str, list[Outcome]]) -> None:
    name, outcomes = replayed
    others = other_answers(name)
    wrong = [str(outcome) for outcome in outcomes if not outcome.is_same and outcome.row.name not in others]
    assert wrong == []


def test_what_is_listed_as_missing_is_missing(replayed: tuple[str, list[Outcome]]) -> None:
    name, outcomes = replayed
    missing = MISSING_ROWS.get(name, {})
    built = [outcome.row.name for outcome in outcomes if outcome.is_same and outcome.row.name in missing]
    assert built == [], "answered like the reference by now: take these out of MISSING_ROWS"


def test_what_is_improved_is_answered_as_promised(replayed: tuple[str, list[Outcome]]) -> None:
    name, outcomes = replayed
    improved = IMPROVED.get(name, {})
    for outcome in outcomes:
        if outcome.row.name in improved:
            promised, _ = improved[outcome.row.name]
            assert outcome.reply.decode("latin-1") == promised
            assert not outcome.is_same


def test_lists_name_what_exists() -> None:
    assert MISSING_GROUPS.keys() < GROUPS.keys()
    assert not MISSING_GROUPS.keys() & (MISSING_ROWS.keys() | IMPROVED.keys())
    for name in MISSING_ROWS.keys() | IMPROVED.keys():
        assert other_answers(name) <= {row.name for row in GROUPS[name].rows}
        assert not MISSING_ROWS.get(name, {}).keys() & IMPROVED.get(name, {}).keys()


def test_rows_of_a_group_have_names_of_their_own() -> None:
    for group in GROUPS.values():
        assert len({row.name for row in group.rows}) == len(group.rows)


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """Print how much is replayed and what is still missing, even if output is captured."""
    missing = Counter(reason for rows in MISSING_ROWS.values() for reason in rows.values())
    improved = Counter(reason for rows in IMPROVED.values() for _, reason in rows.values())
    group_rows_missing = sum(len(GROUPS[name].rows) for name in MISSING_GROUPS)
    total = sum(len(group.rows) for group in GROUPS.values())
    same = total - group_rows_missing - missing.total() - improved.total()
    groups = ", ".join(f"{name} ({reason}) {len(GROUPS[name].rows)}" for name, reason in MISSING_GROUPS.items())
    with capsys.disabled():
        print(f"\ntranscript: {same} of {total} rows answered like the reference")
        print(f"  rows missing: {', '.join(f'{reason} {count}' for reason, count in missing.most_common())}")
        print(f"  rows answered better: {', '.join(f'{reason} {count}' for reason, count in improved.items())}")
        print(f"  groups missing: {groups}")
    assert same > 0
