"""The command line, run in this process: the configuration that reaches `daemon.run`, and mistakes that are refused."""

import re
import socket
import subprocess
import sys
from ipaddress import ip_network

import pytest
from click.testing import CliRunner

from rtpproxy.cli import command as cli
from rtpproxy.cli.options import GROUPS
from rtpproxy.config import (
    CdrSettings,
    Config,
    ControlAddress,
    ControlKind,
    DtmfSettings,
    HepSettings,
    HepTransport,
    LatchingMode,
    ListenAddress,
    MediaNetwork,
    NotifyTarget,
    OffloadMode,
    OverloadLimits,
    PortsMode,
    RecordFormat,
)
from rtpproxy.control.messages import SUPPORTED_EXTENSIONS
from rtpproxy.errors import ConfigError, StartError
from rtpproxy.process import daemon

OPTIONS = [option for group in GROUPS for option in group.options]
# Those of the C program (protocol.md 12.1), and ours.
FLAGS = "-2 -6 -A -a -b -C -c -D -d -F -f -i -L -l -M -m -n -P -p -R -r -S -s -T -t -u -V -v -W -w --bridge_symmetric"
FLAGS += " --config --dso --force_asymmetric --nice --no_redirect --no_resolve --overload_prot"
FLAGS += " --offload --interface --ports --latching --control-allow --media-allow --media-deny --max-wait -h --help"
FLAGS += " --record-format --prompt-directory --tee-memory --version --cdr --hep --hep-id --dtmf-notify"


class Started:
    """Takes the place of the relay's process and keeps its configuration."""

    def __init__(self):
        self.config = None
        self.bound = None
        self.error = None

    def run(self, config, bound):
        self.config = config
        self.bound = bound
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
    """Returns a function that makes a configuration of options."""

    def make(*options):
        result = CliRunner().invoke(cli.rtpproxy, options, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return started.config

    return make


@pytest.fixture
def refused(started, monkeypatch, capsys):
    """Returns a function that runs the command with a mistake, checks the status and returns the one line printed."""

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


@pytest.fixture
def warned(started, monkeypatch, capsys):
    """Returns a function that starts the relay and returns the warnings printed before."""

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["rtpproxy", *options])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        assert (caught.value.code, captured.out) == (0, "")
        assert started.config is not None
        return captured.err.splitlines()

    return run


def test_defaults(config):
    assert config() == Config()
    made = config()
    assert made.control == (ControlAddress(ControlKind.UNIX, path="/var/run/rtpproxy.sock"),)
    assert (made.port_min, made.port_max, made.is_sequential) == (35000, 64998, False)
    assert (made.idle_timeout_s, made.half_open_timeout_s) == (60, 60)
    assert (made.is_foreground, made.is_root_allowed, made.log_level) == (False, False, "ERR")
    assert made.pid_file == "/var/run/rtpproxy.pid"
    assert (made.offload, made.ports, made.interfaces) == (OffloadMode.AUTO, PortsMode.AUTO, ())


def test_every_option(config):
    made = config(
        *("-f", "-F", "-b", "-2", "-l", "192.0.2.1", "-s", "unix:/a", "-s", "udp:*:9000", "-m", "20000", "-M", "20999"),
        *("-T", "30", "-W", "15", "-d", "dbug:log_local0", "-p", "/p", "--offload", "xdp", "--ports", "steered"),
        *("--interface", "eth0", "--interface", "eth1", "-i", "-t", "0", "-u", "nobody:daemon", "-w", "0660", "-D"),
        *("-L", "5000", "--nice", "-5", "-c", "rr", "--no_redirect", "--force_asymmetric", "--latching", "strict"),
        *("-n", "unix:/n", "-n", "tcp:%%CC_SELF%%:99", "-n", "tcp:192.0.2.3:98", "--no_resolve", "-6", "x@::1=y"),
        *("--media-allow", "10.1.0.0/16:9-99", "--media-deny", "10.0.0.0/8", "--media-deny", "::/0"),
        *("--max-wait", "150", "--dtmf-notify", "unix:/d", "--hep-id", "7", "--hep", "tcp:[::1]:99", "--cdr", "/c"),
    )
    assert made == Config(
        control=(ControlAddress(ControlKind.UNIX, "/a"), ControlAddress(ControlKind.UDP, port=9000)),
        listen=(ListenAddress("192.0.2.1"), ListenAddress("::1", True, "x", "y")),
        is_asymmetric=True,
        latching=LatchingMode.STRICT,
        media_allow=(MediaNetwork(ip_network("10.1.0.0/16"), 9, 99),),
        media_deny=(MediaNetwork(ip_network("10.0.0.0/8")), MediaNetwork(ip_network("::/0"))),
        lowest_port=20000,
        highest_port=20999,
        is_sequential=True,
        is_doubling=True,
        idle_timeout_s=30,
        setup_timeout_s=15,
        is_independent=True,
        notify=(
            NotifyTarget("/n", text="unix:/n"),
            NotifyTarget(port=99, text="tcp:%%CC_SELF%%:99"),
            NotifyTarget(host="192.0.2.3", port=98, text="tcp:192.0.2.3:98"),
        ),
        max_wait_ms=150,
        tos=0,
        user="nobody",
        group="daemon",
        socket_mode=0o660,
        file_limit=5000,
        nice=-5,
        realtime_policy="rr",
        keeps_directory=True,
        keeps_descriptors=True,
        is_foreground=True,
        log_level="DBUG:LOCAL0",
        pid_file="/p",
        is_pid_file_required=True,
        is_root_allowed=True,
        offload=OffloadMode.XDP,
        ports=PortsMode.STEERED,
        interfaces=("eth0", "eth1"),
        modules=(
            CdrSettings("/c"),
            HepSettings("::1", 99, HepTransport.TCP, 7),
            DtmfSettings(NotifyTarget("/d", text="unix:/d")),
        ),
    )


def test_options_as_getopt_reads_them(config):
    """Flags written together, arguments attached, and the last of two counts."""
    made = config("-fbF", "-m20000", "-T", "5", "-T30", "--nice=7")
    assert (made.is_foreground, made.is_sequential, made.is_root_allowed) == (True, True, True)
    assert (made.port_min, made.idle_timeout_s, made.nice) == (20000, 30, 7)


def test_long_options_may_be_abbreviated(config, refused):
    made = config("--force_asym", "--no_red", "--ni=5", "--int", "eth0")
    assert (made.is_asymmetric, made.keeps_descriptors, made.nice, made.interfaces) == (True, True, 5, ("eth0",))
    assert "No such option" in refused("--no_re")
    assert "No such option" in refused("--=5")


def test_setup_timeout_is_the_idle_timeout_unless_given(config):
    made = config("-T", "30")
    assert (made.idle_timeout_s, made.half_open_timeout_s) == (30, 30)


@pytest.mark.parametrize("address", ["*", "0.0.0.0"])
def test_any_address(config, address):
    assert config("-l", address).listen == (ListenAddress(),)


def test_listen_addresses_keep_their_order(config):
    """The first is the default and needs no label, whichever its family."""
    addresses = config("-6", "::1", "-l", "a@192.0.2.1", "-6", "b@::2", "-lc@192.0.2.2").listen
    assert [(address.label, address.host) for address in addresses] == [
        *(("", "::1"), ("a", "192.0.2.1"), ("b", "::2"), ("c", "192.0.2.2"))
    ]


def test_host_names_are_resolved(config):
    made = config("-l", "localhost", "-n", "tcp:localhost:99")
    assert made.listen == (ListenAddress("127.0.0.1"),)
    (target,) = made.notify
    assert (target.host, target.port) in {("127.0.0.1", 99), ("::1", 99)}
    assert target.text == "tcp:localhost:99"


def test_numeric_addresses_need_no_resolving(config, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", None)
    made = config("-l", "127.0.0.1/127.0.0.2", "-n", "tcp:::1:99", "-n", "tcp:127.0.0.1:98")
    assert [target.host for target in made.notify] == ["::1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("options", "is_bridging", "is_asymmetric"),
    [
        ((), False, False),
        (("--force_asymmetric",), False, True),
        (("-l", "127.0.0.1/127.0.0.2"), True, True),
        (("-l", "127.0.0.1", "-6", "/::1"), True, True),
        (("-l", "127.0.0.1/127.0.0.2", "--bridge_symmetric"), True, False),
        (("-l", "127.0.0.1/127.0.0.2", "--bridge_symmetric", "--force_asymmetric"), True, True),
    ],
)
def test_bridge_mode_is_asymmetric_unless_told(config, options, is_bridging, is_asymmetric):
    made = config(*options)
    assert (made.is_bridging, made.is_asymmetric) == (is_bridging, is_asymmetric)


def test_prompts(config):
    assert config().prompt_directory == ""
    assert config("--prompt-directory", "/prompts").prompt_directory == "/prompts"


def test_recording(config):
    made = config("-r", "/rec", "-S", "/spool", "-a", "-R", "-P")
    assert (made.record_directory, made.spool_directory, made.records_all) == ("/rec", "/spool", True)
    assert (made.leaves_rtcp_out, made.record_format) == (True, RecordFormat.PCAP)
    assert config().record_format is RecordFormat.ADHOC
    assert config("--record-format", "pcapng").record_format is RecordFormat.PCAPNG
    assert config("-P", "--record-format", "pcap").record_format is RecordFormat.PCAP


def test_overload_protection(config):
    assert config().overload is None
    assert config("--overload_prot").overload == OverloadLimits(0.85, 0.90)
    assert config("--overload_prot=").overload == OverloadLimits(0.85, 0.90)
    assert config("--overload_prot=0.5/0.6").overload == OverloadLimits(0.5, 0.6)


def test_mode_of_control_sockets(config):
    """-w also works without a group, unlike in the C RTPproxy."""
    assert config("-u", "nobody").socket_mode is None
    assert config("-w", "0770").socket_mode == 0o770
    assert config("-u", "nobody", "-w", "0770").socket_mode == 0o770
    assert config("-u", "nobody:daemon").socket_mode == 0o755
    assert config("-u", "nobody:daemon", "-w", "0").socket_mode == 0


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), None),
        (("-P", "-R"), None),
        (("-a",), "-a records nothing without a directory for recordings, -r"),
        (("-A", "a"), "-A has no effect outside bridge mode; write ADDR=NAME in -l or -6"),
        (("-A", "a/b", "-l", "127.0.0.1/127.0.0.2"), None),
        (("-w", "0770"), None),
        (("--bridge_symmetric",), "--bridge_symmetric has no effect outside bridge mode"),
        (
            ("--control-allow", "10.0.0.0/8", "-s", "unix:/a", "-s", "cunix:/b"),
            "--control-allow has no effect without a UDP or TCP control socket; -w is for Unix sockets",
        ),
        (("--control-allow", "10.0.0.0/8", "-s", "unix:/a", "-s", "tcp6:::1"), None),
    ],
)
def test_options_without_effect_are_warned_of(warned, options, line):
    assert warned(*options) == ([] if line is None else [f"rtpproxy: warning: {line}"])


@pytest.mark.parametrize(
    "pair",
    [
        *(("-m", "1"), ("-M", "65535"), ("-T", "1"), ("-W", "1"), ("-t", "255")),
        *(("--nice", "-20"), ("--nice", "20"), ("-L", "64")),
    ],
)
def test_limits_are_allowed(config, pair):
    config(*pair)


def test_help_names_every_option_under_its_heading():
    result = CliRunner().invoke(cli.rtpproxy, ["--help"], terminal_width=100)
    assert result.exit_code == 0
    assert re.findall(r"^  (-{1,2}[\w-]+)", result.output, re.MULTILINE) == [option.flag for option in OPTIONS]
    assert sorted(FLAGS.split()) == sorted(flag for option in OPTIONS for flag in option.flags)
    text = " ".join(result.output.split())
    for group in GROUPS:
        assert f"\n{group.title}:\n" in result.output
        for option in group.options:
            assert f"{option.synopsis} {option.text}" in text


def test_help_has_a_short_form():
    assert CliRunner().invoke(cli.rtpproxy, ["-h"]).output == CliRunner().invoke(cli.rtpproxy, ["--help"]).output


def test_help_imports_none_of_the_slow_libraries():
    """Help is quick, because slow libraries are not imported for it."""
    slow = {"numpy", "pyroute2", "asyncio", "uvloop"}
    code = f"import sys; from rtpproxy.cli import command; print(sorted({slow} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_clock():
    result = CliRunner().invoke(cli.rtpproxy, ["-C"])
    assert (result.exit_code, result.output) == (0, "CLOCK_MONOTONIC\n")


def test_versions():
    protocol = CliRunner().invoke(cli.rtpproxy, ["-v"])
    assert protocol.exit_code == 0
    lines = protocol.output.splitlines()
    assert lines[0] == "Basic version: 20040107"
    assert lines[1:] == [f"Extension {date.decode()}: {text}" for date, text in SUPPORTED_EXTENSIONS.items()]
    assert lines[1].startswith("Extension 20040107: ")
    software = CliRunner().invoke(cli.rtpproxy, ["-V"])
    assert (software.exit_code, bool(re.fullmatch(r"[\d.]+\n", software.output))) == (0, True)
    assert CliRunner().invoke(cli.rtpproxy, ["--version"]).output == software.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bogus"], "No such option"),
        (["-x"], "No such option"),
        (["left", "over"], "unexpected extra argument"),
        (["-s"], "requires an argument"),
        (["-m", "0"], "-m 0: argument is out of range: 1 to 65535"),
        (["-M", "65536"], "-M 65536: argument is out of range"),
        (["-m", "35000x"], "-m 35000x: argument is invalid"),
        (["-T", "0"], "-T 0: argument is out of range"),
        (["-T", "-1"], "-T -1: argument is out of range"),
        (["-W", "0"], "-W 0: argument is out of range"),
        (["-W", "1.5"], "-W 1.5: argument is invalid"),
        (["-t", "-1"], "-t -1: argument is out of range: 0 to 255"),
        (["-t", "256"], "-t 256: argument is out of range"),
        (["-t", "0xb8"], "-t 0xb8: argument is invalid"),
        (["-L", "63"], "-L 63: argument is out of range: 64 to 1073741824 is allowed"),
        (["-L", "many"], "-L many: argument is invalid"),
        (["--nice", "21"], "--nice 21: argument is out of range: -20 to 20"),
        (["--nice=x"], "--nice x: argument is invalid"),
        (["-c", "idle"], "-c idle: not one of fifo, rr"),
        (["-w", "511"], "-w 511: modes are octal here; the C RTPproxy reads decimal 511, which is 0777"),
        (["-w", "rw"], "-w rw: argument is invalid"),
        (["-u", ""], "-u: USER or USER:GROUP is needed"),
        (["-u", "nobody:"], "-u nobody:: USER or USER:GROUP is needed"),
        (["-A", ""], "-A : a name, or two"),
        (["-A", "a/"], "-A a/: a name, or two"),
        (["-A", "a", "-l", "127.0.0.1/127.0.0.2"], "-A a: bridge mode needs two advertised names"),
        (["-n", ""], "-n"),
        (["-n", "tcp:127.0.0.1"], "-n tcp:127.0.0.1"),
        (["-n", "tcp:127.0.0.1:x"], "-n tcp:127.0.0.1:x"),
        (["-n", "/n"] * 65, "option -n: 65 targets; at most 64 are allowed"),
        (["-n", "tcp:%%CC_SELF%%:9"] * 3, "option -n: 3 targets with %%CC_SELF%%; at most 2"),
        (["-s", "stdio:"], "-s stdio:: stdio command mode requires -f switch"),
        (["-s", "stdioc:"], "-s stdioc:: stdio command mode requires -f switch"),
        (["--no_resolve", "-l", "localhost"], "-l localhost: not an IPv4 address, and --no_resolve forbids names"),
        (["--no_resolve", "-n", "tcp:localhost:9"], "-n tcp:localhost:9: not an address, and --no_resolve forbids"),
        (["--no_resolve", "-s", "udp:localhost:9"], "-s udp:localhost:9: the host is a name, and --no_resolve is"),
        (["-S", "/tmp"], "-S /tmp: a spool needs the directory that files are moved to, -r"),
        (["-P", "--record-format", "pcapng"], "-P is --record-format pcap, and not pcapng"),
        (["--record-format", "wav"], "--record-format wav: not one of adhoc, pcap, pcapng"),
        (["--config", "/no/where"], "--config /no/where: No such file or directory"),
        (["--config", "/tmp"], "--config /tmp: Is a directory"),
        (["--config", ""], "--config: the name of the file is empty"),
        (["--dso", "x.so"], "--dso x.so: 'x.so' is no module, whose file is named rtpp_NAME.so"),
        (["--dso", "rtpp_dtls_gw.so"], "--dso rtpp_dtls_gw.so: module dtls_gw is not supported"),
        (["--cdr", ""], "--cdr: the name of the file is empty"),
        (["--cdr", "x", "--cdr", "y", "--dso", "rtpp_acct_csv.so", "--dso", "rtpp_acct_csv.so"], "same file twice: "),
        (["--cdr", "./rtpproxy_acct.csv", "--dso", "rtpp_acct_csv.so"], "module acct_csv is to write to the same file"),
        (["--hep", "192.0.2.1"], "--hep 192.0.2.1: not HOST:PORT"),
        (["--hep", "::1:9060"], "--hep ::1:9060: not HOST:PORT; an IPv6 address needs brackets"),
        (["--hep", "[192.0.2.1]:9060"], "--hep [192.0.2.1]:9060: not HOST:PORT"),
        (["--hep", "192.0.2.1:0"], "--hep 192.0.2.1:0: port '0': argument is out of range"),
        (["--hep", "sctp:192.0.2.1:9060"], "--hep sctp:192.0.2.1:9060: not HOST:PORT"),
        (
            ["--hep", "a host:9060"],
            "--hep 'a host': neither an address nor the name of a host",
        ),
        (
            ["--hep", "\udcff:9060"],
            "--hep '\\udcff': neither an address nor the name of a host",
        ),
        (
            ["--hep", f"{'x' * 254}:9060"],
            f"--hep '{'x' * 254}': neither an address nor the name of a host",
        ),
        (
            ["--hep", "localhost:9060", "--no_resolve"],
            "--hep localhost: not an address, and --no_resolve forbids names",
        ),
        (["--hep-id", "4294967296"], "--hep-id 4294967296: argument is out of range"),
        (["--dtmf-notify", "tcp:192.0.2.1"], "option --dtmf-notify tcp:192.0.2.1: port"),
        (["--dtmf-notify", ""], "option --dtmf-notify '': the path is empty"),
        (["--dtmf-notify", "192.0.2.1:99"], "option --dtmf-notify 192.0.2.1:99: write tcp:192.0.2.1:99"),
        (["-d", "FATAL"], "-d FATAL: not a level; use one of DBUG, INFO"),
        (["-d", ""], "-d: not a level"),
        (["-d", "INFO:nowhere"], "NOWHERE is not a syslog facility"),
        (["--media-allow", "here"], "--media-allow here: not an address or a network, such as 192.0.2.7"),
        (["--media-deny", "10.0.0.1/8"], "--media-deny 10.0.0.1/8: the network begins with another address; write"),
        (["--media-deny", "10.0.0.0/8:0"], "--media-deny 10.0.0.0/8:0: ports are numbers from 1 to 65535"),
        (["--max-wait", "-1"], "--max-wait -1: argument is out of range: 0 to 60000 is allowed"),
        (["--max-wait", "0.2"], "--max-wait 0.2: argument is invalid: not a whole number"),
        (["--offload", "no"], "--offload no: not one of auto, xdp, tc, off"),
        (["--ports", "none"], "--ports none: not one of auto, steered, bound"),
        (["--latching", "lax"], "--latching lax: not one of compatible, strict"),
        (["-m", "40000", "-M", "40000"], "ports 40000 to 40000: no room for a pair"),
        (["-m", "50000", "-M", "40000"], "ports 50000 to 40000: no room for a pair"),
        (["-m", "20001", "-M", "20002"], "ports 20001 to 20002: no room for a pair"),
        (["-m", "65535", "-M", "65535"], "ports 65535 to 65535: no room for a pair"),
        (["-m", "1", "-M", "1"], "ports 1 to 1: no room for a pair"),
        (["-s", "udp:127.0.0.1:99999"], "port '99999' is not a number"),
        (["-s", "unix:"], "the path is empty"),
        (["-s", "unix:/a", "-s", "/a"], "the same control socket is given twice"),
        (["-s", "unix:/a", "-s", "cunix:/a"], "the same control socket is given twice"),
        (["-s", "unix:a", "-s", "unix:./a"], "the same control socket is given twice"),
        (["-l", "127.0.0.1", "-l", "127.0.0.2"], "-l 127.0.0.2: address label is missing"),
        (["-l", "127.0.0.1", "-6", "::1"], "-6 ::1: address label is missing"),
        (["-l", "/127.0.0.1"], "-l /127.0.0.1: bridge mode needs one internal and one external address"),
        (["-l", "::1"], "-l ::1: an IPv6 address; give it with -6"),
        (["-6", "127.0.0.1"], "-6 127.0.0.1: an IPv4 address; give it with -l"),
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


@pytest.mark.parametrize("text", ["a\nb", "a\rb\x1b[m", "a\udcffb"])
def test_mistakes_stay_one_line_whatever_is_given(refused, text):
    assert "\\" in refused("-c", text)
    assert "\\" in refused(f"--{text}")


def test_interrupted_start_is_quiet(started, monkeypatch, capsys):
    started.error = KeyboardInterrupt()
    monkeypatch.setattr(sys, "argv", ["rtpproxy"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err.strip() == ""


def test_sockets_that_are_bound_already_reach_the_relay(started, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rtpproxy"])
    for bound in ([], [7, 8]):
        with pytest.raises(SystemExit):
            cli.main(bound)
        assert list(started.bound) == bound


def test_status_of_the_daemon_is_that_of_the_program(monkeypatch):
    monkeypatch.setattr(daemon, "run", lambda *_: 1)
    monkeypatch.setattr(sys, "argv", ["rtpproxy"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1


def test_modules_of_a_configuration_come_first(config, refused, tmp_path):
    """Instances are counted in this order. The name of a collector stays one."""
    file = tmp_path / "modules.conf"
    file.write_text("modules { acct_csv {} acct_rtcp_hep { capt_host = localhost } }\n")
    made = config("--cdr", "/c", "--dso", "/x/rtpp_catch_dtmf.so", "--config", str(file), "--hep", "udp:127.0.0.1:99")
    assert made.modules == (
        CdrSettings("rtpproxy_acct.csv"),
        HepSettings("localhost"),
        DtmfSettings(),
        CdrSettings("/c"),
        HepSettings("127.0.0.1", 99),
    )
    line = refused("--no_resolve", "--config", str(file), status=2)
    assert line == f"rtpproxy: --config {file}: capt_host localhost: not an address, and --no_resolve forbids names"
    file.write_text("modules {\nacct_csv { name = x }\n}")
    line = refused("--config", str(file), status=2)
    assert line == f"rtpproxy: --config {file}: line 2: acct_csv: name: module acct_csv has no such key"


@pytest.mark.parametrize("is_configured", [False, True])
def test_a_target_of_dtmf_is_that_of_a_module_that_is_named_as_well(config, tmp_path, is_configured):
    """Controllers ask for instance 1: it would have no target if the option added another."""
    file = tmp_path / "modules.conf"
    file.write_text("modules { catch_dtmf {} acct_csv {} }\n")
    named = ("--config", str(file)) if is_configured else ("--dso", "rtpp_catch_dtmf.so", "--dso", "rtpp_acct_csv.so")
    made = config(*named, "--dtmf-notify", "unix:/d")
    assert made.modules == (DtmfSettings(NotifyTarget("/d", text="unix:/d")), CdrSettings("rtpproxy_acct.csv"))
