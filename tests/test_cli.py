"""The command line, in this process: what reaches `daemon.run`, and what is refused before."""

import re
import socket
import sys

import pytest
from click.testing import CliRunner

from rtpproxy import cli, daemon
from rtpproxy.config import ControlAddress, ControlKind, OffloadMode, PortsMode
from rtpproxy.control.messages import SUPPORTED_EXTENSIONS
from rtpproxy.errors import ConfigError, StartError

# What --help must name; further options of the C program come later.
OPTIONS = ["-f", "-F", "-v", "-V", "-l", "-s", "-m", "-M", "-b", "-T", "-W", "-d", "-p", "--offload", "--interface"]
OPTIONS += ["--ports", "--help"]


class Started:
    """Stands in for the process that would start; keeps its configuration."""

    def __init__(self):
        self.config = None
        self.error = None

    def run(self, config):
        self.config = config
        if self.error is not None:
            raise self.error
        return 0


@pytest.fixture
def started(monkeypatch):
    started = Started()
    monkeypatch.setattr(daemon, "run", started.run)
    return started


@pytest.fixture
def config(started):
    """The configuration that options make."""

    def make(*options):
        result = CliRunner().invoke(cli.rtpproxy, options, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return started.config

    return make


@pytest.fixture
def refused(started, monkeypatch, capsys):
    """The one line that a mistake is answered with; the status is checked."""

    def run(*options, status=2):
        monkeypatch.setattr(sys, "argv", ["rtpproxy", *options])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert caught.value.code == status
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        assert line.startswith("rtpproxy: ")
        return line

    return run


def test_defaults(config):
    made = config()
    assert made.control == (ControlAddress(ControlKind.UNIX, path="/var/run/rtpproxy.sock"),)
    assert (made.listen_host, made.port_min, made.port_max, made.is_sequential) == ("", 35000, 64998, False)
    assert (made.idle_timeout_s, made.setup_timeout_s) == (60, 60)
    assert (made.is_foreground, made.is_root_allowed, made.log_level) == (False, False, "ERR")
    assert made.pid_file == "/var/run/rtpproxy.pid"
    assert (made.offload, made.ports, made.interfaces) == (OffloadMode.AUTO, PortsMode.AUTO, ())


def test_every_option(config):
    made = config(
        *("-f", "-F", "-b", "-l", "192.0.2.1", "-s", "unix:/a", "-s", "udp:*:9000", "-m", "20000", "-M", "20999"),
        *("-T", "30", "-W", "15", "-d", "dbug:log_local0", "-p", "/p", "--offload", "xdp", "--ports", "steered"),
        *("--interface", "eth0", "--interface", "eth1"),
    )
    assert [str(address) for address in made.control] == ["unix:/a", "udp:*:9000"]
    assert (made.listen_host, made.port_min, made.port_max, made.is_sequential) == ("192.0.2.1", 20000, 20998, True)
    assert (made.idle_timeout_s, made.setup_timeout_s) == (30, 15)
    assert (made.is_foreground, made.is_root_allowed, made.log_level) == (True, True, "DBUG:LOCAL0")
    assert (made.pid_file, made.interfaces) == ("/p", ("eth0", "eth1"))
    assert (made.offload, made.ports) == (OffloadMode.XDP, PortsMode.STEERED)


def test_setup_timeout_is_the_idle_timeout_unless_given(config):
    made = config("-T", "30")
    assert (made.idle_timeout_s, made.setup_timeout_s) == (30, 30)


@pytest.mark.parametrize("address", ["*", "0.0.0.0"])
def test_any_address(config, address):
    assert config("-l", address).listen_host == ""


def test_host_name_is_resolved(config):
    assert config("-l", "localhost").listen_host == "127.0.0.1"


@pytest.mark.parametrize(
    ("level", "expected"),
    [("info", "INFO"), ("WARN:daemon", "WARN:DAEMON"), ("Crit:LOG_MAIL", "CRIT:MAIL"), ("err:", "ERR")],
)
def test_levels(config, level, expected):
    assert config("-d", level).log_level == expected


@pytest.mark.parametrize("pair", [("-m", "1"), ("-M", "65535"), ("-T", "1"), ("-W", "1")])
def test_limits_are_allowed(config, pair):
    config(*pair)


def test_help_names_every_option():
    result = CliRunner().invoke(cli.rtpproxy, ["--help"])
    assert result.exit_code == 0
    named = re.findall(r"^  (-{1,2}[a-zA-Z]+)", result.output, re.MULTILINE)
    assert sorted(named) == sorted(OPTIONS)
    # Each with a text, which ends in a full stop but for the remarks that are added.
    assert sorted(names for option in cli.rtpproxy.params for names in option.opts) == sorted(OPTIONS[:-1])
    for option in cli.rtpproxy.params:
        assert option.help
        assert option.help.endswith("."), option.opts
    for default in ("35000", "65000", "60", "ERR", "/var/run/rtpproxy.pid", "unix:/var/run/rtpproxy.sock"):
        assert default in result.output


def test_versions():
    protocol = CliRunner().invoke(cli.rtpproxy, ["-v"])
    assert protocol.exit_code == 0
    lines = protocol.output.splitlines()
    assert lines[0] == "Basic version: 20040107"
    assert len(lines) == len(SUPPORTED_EXTENSIONS)
    assert all(re.fullmatch(r"Extension \d{8}: .+", line) for line in lines[1:])
    software = CliRunner().invoke(cli.rtpproxy, ["-V"])
    assert (software.exit_code, bool(re.fullmatch(r"[\d.]+\n", software.output))) == (0, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bogus"], "No such option"),
        (["-x"], "No such option '-x'"),
        (["left", "over"], "unexpected extra argument"),
        (["-s"], "requires an argument"),
        (["-m", "0"], "0 is not in the range"),
        (["-M", "65536"], "65536 is not in the range"),
        (["-m", "35000x"], "'35000x' is not a valid integer"),
        (["-T", "0"], "0 is not in the range"),
        (["-T", "-1"], "-1 is not in the range"),
        (["-W", "0"], "0 is not in the range"),
        (["-W", "1.5"], "'1.5' is not a valid integer"),
        (["-d", "FATAL"], "'FATAL' is not a level; use one of DBUG, INFO"),
        (["-d", ""], "'' is not a level"),
        (["-d", "INFO:nowhere"], "'NOWHERE' is not a syslog facility"),
        (["--offload", "tc"], "'tc' is not one of 'auto', 'xdp', 'off'"),
        (["--ports", "none"], "'none' is not one of 'auto', 'steered', 'bound'"),
        (["-m", "40000", "-M", "40000"], "ports 40000 to 40000: no room for a pair"),
        (["-m", "50000", "-M", "40000"], "ports 50000 to 40000: no room for a pair"),
        (["-s", "udp:127.0.0.1:99999"], "port '99999' is not a number"),
        (["-s", "unix:"], "the path is empty"),
        (["-s", "unix:/a", "-s", "/a"], "the same control socket is given twice"),
        (["-l", "127.0.0.1", "-l", "127.0.0.2"], "only one listen address"),
        (["-l", "192.0.2.1/192.0.2.2"], "not supported so far"),
        (["-l", "x@192.0.2.1"], "not supported so far"),
        (["-l", "192.0.2.1=192.0.2.2"], "not supported so far"),
        (["-l", "::1"], "not supported so far"),
        (["--offload", "xdp", "--ports", "bound"], "--offload xdp needs steered ports"),
        (["--offload", "off", "--interface", "eth0"], "--offload off"),
    ],
)
def test_mistakes_are_one_line_and_status_2(refused, started, options, words):
    assert words in refused(*options)
    assert started.config is None


def test_name_that_is_not_found(refused, monkeypatch):
    def find_nothing(*_):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", find_nothing)
    assert "-l nobody.example: not an IPv4 address, and not found" in refused("-l", "nobody.example")


@pytest.mark.parametrize("name", [".example", 64 * "a", "a..b"])
def test_name_that_cannot_be_one(refused, name):
    assert f"-l {name}: not an IPv4 address" in refused("-l", name)


def test_interface_without_anyone_to_forward_on_it(refused):
    """As with `--offload off`: bound ports are relayed in userspace, whatever the interface."""
    assert "--interface" in refused("--ports", "bound", "--interface", "eth0")


def test_start_errors_are_one_line_and_status_1(refused, started):
    started.error = StartError("cannot do it")
    assert refused(status=1) == "rtpproxy: cannot do it"
    started.error = ConfigError("say it otherwise")
    assert refused(status=2) == "rtpproxy: say it otherwise"


def test_interrupted_start_is_quiet(started, monkeypatch, capsys):
    started.error = KeyboardInterrupt()
    monkeypatch.setattr(sys, "argv", ["rtpproxy"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err.strip() == ""


def test_status_of_the_daemon_is_that_of_the_program(monkeypatch):
    monkeypatch.setattr(daemon, "run", lambda _: 1)
    monkeypatch.setattr(sys, "argv", ["rtpproxy"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
