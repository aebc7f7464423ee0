"""What the module hands to the file; the lines themselves: test_records."""

import logging
import os

import pytest

from rtpproxy.modules.acct_csv import AcctCsv
from rtpproxy.modules.records import COLUMNS
from tests.scenario import Scenario


class Appended:
    """Keeps lines in place of a file."""

    def __init__(self):
        self.lines = []
        self.is_closed = False

    def start(self):
        self.is_started = True

    def append(self, line):
        self.lines.append(line)

    def close(self):
        self.is_closed = True


def column(line, name):
    return line.decode().rstrip("\n").split(",")[COLUMNS.index(name)]


def test_each_session_has_a_number_of_its_own():
    file, wall = Appended(), [5000.0]
    play = Scenario(observers=[AcctCsv("/cdr", file, lambda: play.now, lambda: wall[0])])
    for call in ("a", "b", "c"):
        play.ask(f"U {call} 10.0.1.2 4000 f")
    play.ask("D b f")
    play.at(10.0)
    play.ask("X")
    play.ask("U d 10.0.1.2 4000 f && D")
    assert [(column(line, "call_id"), column(line, "sess_uid")) for line in file.lines] == [
        *(("b", "1"), ("a", "0"), ("c", "2"), ("d", "3")),
    ]
    assert {column(line, "rtpp_pid") for line in file.lines} == {str(os.getpid())}
    assert {column(line, "rtpp_node_id") for line in file.lines} == {os.uname().nodename}


def test_a_clock_that_is_set_does_not_change_how_long_a_call_was():
    file, wall = Appended(), [5000.0]
    play = Scenario(observers=[AcctCsv("/cdr", file, lambda: play.now, lambda: wall[0])])
    play.ask("U a 10.0.1.2 4000 f")
    play.at(10.0)
    wall[0] = 3000.0
    play.ask("D a f")
    assert (column(file.lines[0], "setup_ts"), column(file.lines[0], "teardown_ts")) == ("2990.000000", "3000.000000")


def test_closing_it_closes_the_file():
    file = Appended()
    AcctCsv("/cdr", file, lambda: 0.0, lambda: 0.0).close()
    assert file.is_closed


@pytest.mark.parametrize("is_there", [True, False])
def test_a_directory_that_takes_no_new_file_is_told(tmp_path, caplog, is_there):
    directory = tmp_path if is_there else tmp_path / "gone"
    path = str(directory / "cdr")
    with caplog.at_level(logging.WARNING):
        file = Appended()
        AcctCsv(path, file, lambda: 0.0, lambda: 0.0).start()
    assert file.is_started
    told = (
        f"{path}: this user may not make files in {directory}: once the file is moved away, lines wait for another one"
    )
    assert caplog.messages == ([] if is_there else [told])
