"""The recorded dialogues of the reference, replayed against the real daemon.

What is not built yet is named here, row by row or as a whole group, each with what it waits for. A row that is named
must really be answered differently: whoever builds the feature takes it out.
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

from tests.transcript import Outcome, client, fill, load, replay
from tests.waiting import wait_for

DEADLINE_S = 20.0
ROOT = Path(__file__).parents[2]
GROUPS = load()

MISSING_GROUPS = {
    "version_notify": "timeout notification",
    "modifiers": "repacketization, new port, IPv6",
    "v6": "IPv6",
    "adv_single": "advertised address",
    "bridge": "bridge mode",
    "bridge_adv": "bridge mode",
    "subcommands": "sub-commands",
    "notify": "timeout notification",
    "record_adhoc": "recording",
    "playback": "playback",
    "tcp": "TCP control socket",
}
"""Groups that are not replayed at all, and why."""

MISSING_ROWS: dict[str, dict[str, str]] = {
    "version": {
        "vf 20071218": "copying",
        "VF 20260309": "sub-commands",
        "VF 20071116": "repacketization",
        "VF 20081102": "playback",
        "VF 20090810": "bridge mode",
        "VF 20140323": "load",
        "VF 20140617": "connect time",
        "VF 20141004": "G",
        "VF 20150330": "new port",
        "VF 20150420": "G",
        "VF 20150617": "timeout notification",
        "VF 20191015": "sub-commands",
        "VF 20200226": "recording",
        "VF 20230205": "G",
        "VF 20230314": "sub-commands",
        "VF 20230424": "G",
        "VF 20250523": "copying",
        "VF 20251015": "sub-commands",
        "VF 20260306": "address labels",
        "VF 20260308": "sub-commands",
    },
    "syntax": {
        "G && D": "G",
        "G nosuch": "G",
        "Gx nsess_created": "G",
        "P c x 0 f && D": "playback",
        "P c p 0": "playback",
        "P c p 0 f t x": "playback",
        "Px c p 0 f": "playback",
        "P1x c p 0 f": "playback",
        "S c f && D": "playback",
        "S c": "playback",
        "Sx c f": "playback",
        "S c f t x": "playback",
        "R c f && D": "recording",
        "R c": "recording",
        "R c f t x": "recording",
        "Rx c f": "recording",
        "Rp c f": "recording",
        "N c f && D": "recording",
        "N c": "recording",
        "Nx c f": "recording",
        "Nax c f": "recording",
        "C c x f && D": "copying",
        "C c n": "copying",
        "C c n f t x": "copying",
        "Cx c n f": "copying",
    },
    "unknown_session": {
        "S no f t": "playback",
        "P no /x 0 f t": "playback",
        "R no f t": "recording",
        "N no f t": "recording",
        "Na no f t": "recording",
        "C no name f t": "copying",
        "L no 127.0.0.1 5 f t && S ttl=3": "sub-commands",
        "Q no f t && D": "sub-commands",
    },
    "basic_call": {
        "S call1 ftag ttag": "playback",
        "P call1 $NOPROMPT 0,8 ftag ttag": "playback",
        "P call1 $NOPROMPT session ftag ttag": "playback",
        "P0 call1 $NOPROMPT 0 ftag ttag": "playback",
        "R call1 ftag ttag": "recording",
        "N call1 ftag ttag": "recording",
        "N call1 ttag ftag": "recording",
        "Na call1 ftag ttag": "recording",
        "C call1 name ftag ttag": "copying",
        "Cp call1 name ftag ttag": "copying",
        "C call1 udp:127.0.0.1 ftag ttag": "copying",
        "C call1 udp:127.0.0.1:20995 ftag ttag": "copying",
        "Cp call1 udp:127.0.0.1:20995 ttag ftag": "copying",
        "Gv nsess_created nsess_complete nsess_destroyed nsess_timeout": "G",
        "G nsess_created nsess_complete": "G",
        "G": "G",
        "Gv total_duration pps_in": "G",
        "Gv nsess_created nsess_complete nsess_destroyed nsess_nortp nsess_owrtp nsess_nortcp nsess_owrtcp": "G",
    },
    "udp": {
        "g1 Gv ncmds_rcvd ncmds_rcvd_ndups ncmds_succd ncmds_errs ncmds_repld": "G",
    },
}
"""By group: the requests that are answered differently today, and why."""


@pytest.fixture(scope="module", params=[name for name in GROUPS if name not in MISSING_GROUPS])
def replayed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[Outcome]]:
    """A group's name and its outcomes on a fresh daemon."""
    group = GROUPS[request.param]
    directory = tmp_path_factory.mktemp(group.name)
    port = free_udp_port()
    places = {
        "SOCK": str(directory / "sock"),
        "PORT": str(port),
        "NOPROMPT": str(directory / "no_prompt"),
    }
    flags = [fill(flag, places) for flag in group.setup]
    with (
        daemon(directory, [*flags, "--ports", "bound", "--offload", "off"], group.transport, port),
        client(group.transport, places["SOCK"], port) as ask,
    ):
        return group.name, replay(group.rows, ask, places)


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def daemon(directory: Path, flags: list[str], transport: str, port: int) -> Iterator[None]:
    """The real daemon, ready for commands; SIGTERM and a clean exit at the end."""
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
    """Whether commands would be received, found out without sending one: some groups count them."""
    if transport == "udp":
        bound = f":{port:04X} "
        return any(bound in line for line in Path("/proc/net/udp").read_text().splitlines())
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(os.fspath(path)) == 0


def test_answers_like_the_reference(replayed: tuple[str, list[Outcome]]) -> None:
    name, outcomes = replayed
    missing = MISSING_ROWS.get(name, {})
    wrong = [str(outcome) for outcome in outcomes if not outcome.is_same and outcome.row.name not in missing]
    assert wrong == []


def test_what_is_listed_as_missing_is_missing(replayed: tuple[str, list[Outcome]]) -> None:
    name, outcomes = replayed
    missing = MISSING_ROWS.get(name, {})
    built = [outcome.row.name for outcome in outcomes if outcome.is_same and outcome.row.name in missing]
    assert built == [], "answered like the reference by now: take these out of MISSING_ROWS"


def test_lists_name_what_exists() -> None:
    assert MISSING_GROUPS.keys() < GROUPS.keys()
    assert not MISSING_GROUPS.keys() & MISSING_ROWS.keys()
    for name, rows in MISSING_ROWS.items():
        assert rows.keys() <= {row.name for row in GROUPS[name].rows}


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints, whether or not output is captured, how much is replayed and what is still missing."""
    rows_missing = Counter(
        MISSING_ROWS[group.name][row.name]
        for group in GROUPS.values()
        for row in group.rows
        if row.name in MISSING_ROWS.get(group.name, {})
    )
    group_rows_missing = sum(len(GROUPS[name].rows) for name in MISSING_GROUPS)
    total = sum(len(group.rows) for group in GROUPS.values())
    same = total - group_rows_missing - rows_missing.total()
    by_reason = ", ".join(f"{reason} {count}" for reason, count in rows_missing.most_common())
    groups = ", ".join(f"{name} ({reason}) {len(GROUPS[name].rows)}" for name, reason in MISSING_GROUPS.items())
    with capsys.disabled():
        print(f"\ntranscript: {same} of {total} rows answered like the reference")
        print(f"  rows missing: {by_reason}")
        print(f"  groups missing: {groups}")
    assert same > 0
