"""The command line, where nothing is opened yet: mistakes are told, and help shows the three uses."""

import json

import pytest
from click.testing import CliRunner
from generator.command import main

SIDES = ["--caller", "a", "--caller-address", "10.0.1.10", "--callee", "b", "--callee-address", "10.0.2.10"]
COMPLETE = ["--control", "unix:/nowhere/at.all", *SIDES]


def run(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--control"),
        (["--control", "unix:/a"], "--caller"),
        (["--control", "somewhere", *SIDES], "is no control socket"),
        ([*COMPLETE, "--caller-address", "phone"], "does not appear to be an IPv4 or IPv6 address"),
        ([*COMPLETE, "--caller-vlan", "9999"], "is no VLAN"),
        ([*COMPLETE, "--codec", "mp3"], "'mp3' is not one of"),
        ([*COMPLETE, "--calls", "0"], "--calls 0: 1 to 8192 are possible"),
        ([*COMPLETE, "--calls", "8000", "--caller-port", "50000"], "give more addresses"),
        ([*COMPLETE, "--duration", "0"], "--duration 0"),
        ([*COMPLETE, "--duration", "20000"], "--duration 20000"),
        ([*COMPLETE, "--size", "11"], "--size 11: 12 to 1400 bytes"),
        ([*COMPLETE, "--rate", "0"], "--rate"),
        ([*COMPLETE, "--loss", "101"], "--loss 101: 0 to 100 percent"),
        ([*COMPLETE, "--jitter", "-1"], "--jitter -1"),
        ([*COMPLETE, "--caller-port", "4001"], "RTP ports are even"),
        ([*COMPLETE, "--caller-relay", "1.2.3.4", "--caller-relay", "1.2.3.5"], "one for each --control"),
        ([*COMPLETE, "--hold", "1:1", "--strays", "5"], "make two runs"),
        ([*COMPLETE, "--rebind", "caller:20", "--duration", "10"], "--rebind: 20 s is after the end"),
        ([*COMPLETE, "--strays", "5", "--duration", "1"], "--strays: they begin after 1.5 s"),
        ([*COMPLETE, "--flood", "5:20:1", "--duration", "10"], "--flood: 20 s is after the end"),
        ([*COMPLETE, "--hold", "20:1", "--duration", "10"], "--hold: 20 s is after the end"),
        ([*COMPLETE, "--rtcp", "--rtcp-interval", "0"], "--rtcp-interval"),
        ([*COMPLETE, "--compare", "/dev/null"], "is no result of an earlier run"),
        ([*COMPLETE, "--json", "/nowhere/at/all.json"], "--json"),
    ],
)
def test_mistakes(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())


def test_a_relay_that_is_not_there_is_a_fault():
    done = run(*COMPLETE)
    assert done.exit_code == 1
    assert "WRONG: unix:/nowhere/at.all: 'V' could not be sent: No such file or directory" in done.output


def test_json_instead_of_the_table():
    done = run(*COMPLETE, "--json", "-", "--name", "mine")
    result = json.loads(done.stdout)
    assert (result["name"], result["is_right"], result["totals"], len(result["faults"])) == ("mine", False, [], 1)


def test_json_beside_the_table(tmp_path):
    path = tmp_path / "result.json"
    done = run(*COMPLETE, "--json", str(path))
    assert "WRONG" in done.output
    assert json.loads(path.read_text())["relays"] == ["unix:/nowhere/at.all"]


def test_help_shows_three_uses():
    text = run("--help").output
    for use in ("My relay", "SIP proxy's set", "comparison of two relays", "Exit status"):
        assert use in text
