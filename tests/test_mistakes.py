"""Mistakes at start, with the installed program: one clear line and the right status, or a good reason in the log.

As root the programs run in a network namespace of the test, so that no port or address of this host matters.
"""

import contextlib
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from rtpproxy.config import ControlAddress, ControlKind
from tests.running import PROGRAM, RunningRelay, own_namespace
from tests.waiting import DEADLINE_S, wait_for

NOBODY = 65534


def as_nobody(*capabilities):
    """Make a command prefix that runs a program as an ordinary user with these capabilities.

    One more lets it read the checkout, which may be in root's home.
    """
    kept = "-all" + "".join(f",+{name}" for name in ("dac_read_search", *capabilities))
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    return (*user, f"--inh-caps={kept}", f"--ambient-caps={kept}")


AS_NOBODY = as_nobody()
BOUND = ("--ports", "bound", "--offload", "off")
"""Options for mistakes that have nothing to do with BPF; the relay starts sooner and needs no privilege."""
NO_BCC = "raise ImportError(\"No module named 'bcc'\")\n"


@pytest.fixture(autouse=True)
def namespace():
    """Enters a network namespace of the test, if it runs as root."""
    with own_namespace() if os.geteuid() == 0 else contextlib.nullcontext():
        yield


@pytest.fixture
def refused(tmp_path, open_directory):
    """Returns a function that runs the program with a mistake until it ends, and returns the one line printed."""
    pid_path = open_directory / "pid"

    def run(*options, status=1, prefix=(), environment=None, directory=tmp_path):
        pid_file = () if "-p" in options else ("-p", str(pid_path))
        done = subprocess.run(
            [*prefix, PROGRAM, "-f", *pid_file, *options],
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert (done.returncode, done.stdout) == (status, ""), done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("rtpproxy: "), line
        assert "Traceback" not in line
        assert not pid_path.exists()
        return line

    return run


@pytest.fixture
def start(tmp_path):
    """Starts relays that end with the test."""
    with contextlib.ExitStack() as stack:

        def run(*options, **keywords):
            keywords = {"directory": tmp_path, **keywords}
            return stack.enter_context(RunningRelay(keywords.pop("directory"), *options, **keywords))

        yield run


@pytest.fixture
def open_directory():
    """Makes a directory that anybody may reach and write to, unlike `tmp_path`."""
    directory = Path(tempfile.mkdtemp(prefix="rtpproxy-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def no_bcc(tmp_path):
    """Makes an environment in which bcc cannot be imported."""
    package = tmp_path / "shadow" / "bcc"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(NO_BCC)
    return {"PYTHONPATH": str(package.parent)}


# Options that make no sense together, or at all


def test_range_without_room(refused):
    assert "ports 40000 to 40000: no room for a pair" in refused("-m", "40000", "-M", "40000", status=2)


def test_unknown_option(refused):
    assert refused("--recording", status=2).startswith("rtpproxy: No such option")


def test_leftover_argument(refused):
    assert "unexpected extra argument (22222)" in refused("-s", "udp:127.0.0.1", "22222", status=2)


def test_mode_that_was_meant_to_be_decimal(refused):
    line = refused("-u", "nobody:daemon", "-w", "511", *BOUND, status=2)
    assert line == (
        "rtpproxy: -w 511: modes are octal here; the C RTPproxy reads decimal 511, which is 0777: "
        "write -w 0777 to mean the same, or -w 0511 for that mode"
    )


def test_recording(refused):
    assert refused("-r", "/nowhere", *BOUND) == "rtpproxy: -r /nowhere: No such file or directory"
    line = refused("-r", "/", "-S", "/proc", *BOUND)
    assert line == (
        "rtpproxy: -S /proc and -r / are on different file systems, or mounts of one: recordings could not be moved; "
        "leave -S out for a hidden spool in the directory of recordings"
    )


def test_help_and_version():
    for option, words in (("-h", "Usage: rtpproxy"), ("--help", "Usage: rtpproxy"), ("--version", "0.")):
        done = subprocess.run([PROGRAM, option], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(words)


# Control sockets


def test_forgotten_prefix_of_a_control_socket(refused, tmp_path):
    line = refused("-s", "127.0.0.1:22222", *BOUND, status=2)
    assert line == (
        "rtpproxy: -s 127.0.0.1:22222: write udp:127.0.0.1:22222, or unix:./127.0.0.1:22222 for a file of that name"
    )
    assert not (tmp_path / "127.0.0.1:22222").exists()


def test_port_without_a_host(refused):
    line = refused("-s", "udp:22222", *BOUND, status=2)
    assert line == (
        "rtpproxy: control socket udp:22222: a port without a host; write udp:*:22222 for all addresses of this host, "
        "or udp:127.0.0.1:22222 for this host only"
    )


@pytest.mark.parametrize("mode", ["0770", "0600"])
def test_mode_of_the_socket_without_a_group(start, mode):
    """-w takes effect although -u names no group."""
    running = start("-w", mode, *BOUND)
    assert stat.S_IMODE(running.socket_path.stat().st_mode) == int(mode, 8)


def test_control_port_in_use(refused):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        line = refused("-F", "-s", f"udp:127.0.0.1:{port}", *BOUND)
    assert line == f"rtpproxy: control socket udp:127.0.0.1:{port}: the port is in use"


def test_control_address_that_is_not_ours(refused):
    line = refused("-F", "-s", "udp:192.0.2.250:9000", *BOUND)
    assert line == "rtpproxy: control socket udp:192.0.2.250:9000: the address is not one of this host"


@pytest.mark.parametrize("name", ["nobody.invalid", "a..b"])
def test_control_host_that_is_not_found(refused, name):
    line = refused("-F", "-s", f"udp:{name}:9000", *BOUND)
    assert line == f"rtpproxy: control socket udp:{name}:9000: the host cannot be resolved to an IPv4 address"


def test_socket_of_a_live_instance(refused, start):
    running = start("-m", "26000", "-M", "26100", *BOUND)
    line = refused("-s", f"unix:{running.socket_path}", "-m", "26200", "-M", "26300", *BOUND)
    assert line == f"rtpproxy: control socket unix:{running.socket_path}: in use by another process"
    assert running.ask("V") == "20040107"


def test_path_that_is_no_socket(refused, tmp_path):
    path = tmp_path / "notes"
    path.write_text("precious")
    line = refused("-s", f"unix:{path}", *BOUND)
    assert line == f"rtpproxy: control socket unix:{path}: the path exists and is neither a socket nor an empty file"
    assert path.read_text() == "precious"


def test_directory_that_does_not_exist(refused, tmp_path):
    path = tmp_path / "missing" / "sock"
    line = refused("-s", f"unix:{path}", *BOUND)
    assert line == f"rtpproxy: control socket unix:{path}: the directory does not exist"


def test_path_through_a_file(refused, tmp_path):
    (tmp_path / "file").touch()
    line = refused("-s", f"unix:{tmp_path}/file/sock", *BOUND)
    assert line.endswith("part of the path is not a directory")


def test_path_that_is_too_long(refused):
    line = refused("-s", f"cunix:/tmp/{'x' * 103}", *BOUND)
    assert line.endswith("the path is longer than 107 bytes")


def test_second_socket_that_fails_takes_the_first_along(refused, tmp_path):
    good = tmp_path / "good"
    refused("-s", f"unix:{good}", "-s", f"unix:{tmp_path}/missing/sock", *BOUND)
    assert not good.exists()


# Addresses and interfaces


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-l", "lo"), "-l lo: not an IPv4 address, but lo is an interface; its addresses are 127.0.0.1"),
        (("-l", "a@lo=b"), "-l a@lo=b: not an IPv4 address, but lo is an interface; its addresses are 127.0.0.1"),
        (("-l", "127.0.0.1/lo"), "-l 127.0.0.1/lo: not an IPv4 address, but lo is an interface; its addresses are"),
        (("-6", "lo"), "-6 lo: not an IPv6 address, but lo is an interface"),
        (("-n", "tcp:lo:9"), "-n tcp:lo:9: not an address, but lo is an interface; its addresses are 127.0.0.1"),
        (("-s", "udp:lo:9"), "-s udp:lo:9: not an address, but lo is an interface; its addresses are 127.0.0.1"),
        (("--no_resolve", "-l", "lo"), "-l lo: not an IPv4 address, but lo is an interface"),
    ],
)
def test_interface_in_place_of_an_address(refused, options, words):
    assert refused(*options, status=2).startswith(f"rtpproxy: {words}")


def test_listen_address_that_is_not_ours(refused, tmp_path):
    line = refused("-l", "192.0.2.250", "-s", f"unix:{tmp_path}/sock", *BOUND)
    assert line == "rtpproxy: listen address 192.0.2.250 cannot be used: Cannot assign requested address"


def test_listen_name_that_is_not_found(refused):
    assert "-l nobody.invalid: not an IPv4 address, and not found as a name" in refused(
        "-l", "nobody.invalid", status=2
    )


@pytest.mark.root
@pytest.mark.kernel
def test_unknown_interface(refused, tmp_path):
    path = tmp_path / "sock"
    line = refused("--interface", "nosuch0", "-s", f"unix:{path}")
    assert line == "rtpproxy: --interface nosuch0: there is no such interface"
    assert not path.exists()


@pytest.mark.root
@pytest.mark.kernel
@pytest.mark.parametrize("options", [("-l", "127.0.0.1"), (), ("--interface", "lo")])
def test_xdp_on_loopback_only(refused, tmp_path, options):
    """If loopback is the only interface, the line says what is wrong with it, not that there is none."""
    line = refused("--offload", "xdp", *options, "-s", f"unix:{tmp_path}/sock")
    assert line.startswith("rtpproxy: --offload xdp cannot be had: ")
    assert "lo: userspace (not an Ethernet interface)" in line


@pytest.mark.root
@pytest.mark.kernel
def test_xdp_where_somebody_else_has_it(refused, start, tmp_path):
    subprocess.run(["ip", "link", "add", "v0", "type", "veth", "peer", "name", "v1"], check=True)
    for command in ("addr add 10.7.0.1/24 dev v0", "link set v0 up", "link set v1 up"):
        subprocess.run(["ip", *command.split()], check=True)
    start("-l", "10.7.0.1", "--offload", "xdp", "-m", "20000", "-M", "20100")
    line = refused("-l", "10.7.0.1", "--offload", "xdp", "-m", "21000", "-M", "21100", "-s", f"unix:{tmp_path}/sock2")
    assert line.startswith(
        "rtpproxy: --offload xdp cannot be had: v0: userspace (another rtpproxy instance has it: XDP"
    )


# Privilege


@pytest.mark.root
def test_root_with_a_control_socket_that_others_reach(refused, start):
    for address in ("udp:127.0.0.1:9000", "udp6:::1:9000"):
        line = refused("-s", address, *BOUND)
        assert line == (
            "rtpproxy: running as root with a UDP control socket is refused: name a user with -u, "
            "or say -F if only you can reach it"
        )
    start("-F", "-s", "udp:127.0.0.1:9000", *BOUND)


@pytest.mark.root
def test_other_user_may_have_a_control_socket_that_others_reach(start):
    start("-u", "nobody", "-s", "udp:127.0.0.1:9000", *BOUND)


@pytest.mark.root
@pytest.mark.parametrize("address", ["tcp:127.0.0.1:9000", "tcp6:::1:9000"])
def test_root_with_a_tcp_control_socket_is_warned(start, address):
    warning = "rtpproxy: warning: running as root with a TCP control socket; name a user with -u"
    assert start("-s", address, *BOUND).log.startswith(f"{warning}\n")
    assert warning not in start("-u", "nobody", "-s", address.replace("9000", "9001"), *BOUND, name="b").log


@pytest.mark.root
@pytest.mark.parametrize("level", ["ERR", "WARN"])
def test_commands_from_anybody_are_warned_of(start, level):
    """In one line, whatever the log level is, and only where strangers can send commands."""
    said = re.compile("rtpproxy: warning: .*|WARN:.*")
    options = (*BOUND, "-u", "nobody", "-d", level)
    relay = start(*options, "-s", "udp:*:9000", "-s", "tcp6:*:9000", "-s", "udp:127.0.0.1:9001")
    (line,) = wait_for(lambda: said.findall(relay.log), DEADLINE_S, "the warning")
    prefix = "rtpproxy: warning: " if level == "ERR" else "WARN:GLOBAL:ready:"
    assert line.startswith(prefix)
    assert line.endswith(
        "commands on udp:*:9000, tcp6:*:9000 are taken from anybody: a stranger could delete every call and redirect "
        "its media; name the controllers with --control-allow, or listen on a loopback address or a Unix socket"
    )
    safe = start(*options, "-s", "udp:127.0.0.1:9002", "-s", "tcp6:::1:9002", name="b")
    allowed = start(*options, "-s", "udp:*:9003", "--control-allow", "192.0.2.0/24", name="c")
    for relay in (safe, allowed):
        assert relay.stop() == 0
        assert said.findall(relay.log) == []


@pytest.mark.root
@pytest.mark.parametrize(
    ("user", "line"),
    [
        ("nosuchuser", "rtpproxy: -u: there is no user 'nosuchuser'"),
        ("nobody:nosuchgroup", "rtpproxy: -u: there is no group 'nosuchgroup'"),
    ],
)
def test_unknown_user(refused, tmp_path, user, line):
    assert refused("-u", user, "-s", f"unix:{tmp_path}/sock", *BOUND) == line
    assert not (tmp_path / "sock").exists()


@pytest.mark.root
def test_user_without_being_root(refused):
    line = refused("-u", "daemon", *BOUND, prefix=AS_NOBODY, directory="/")
    assert line == "rtpproxy: -u daemon: only root can become another user"


@pytest.mark.root
def test_user_that_cannot_be_become_once_everything_is_open(refused, tmp_path):
    prefix = ("setpriv", "--bounding-set=-setuid")
    line = refused("-u", "nobody", "-s", f"unix:{tmp_path}/sock", *BOUND, prefix=prefix)
    assert line == "rtpproxy: -u nobody: cannot become that user: Operation not permitted"
    assert not (tmp_path / "sock").exists()


@pytest.mark.root
def test_default_socket_without_privilege(refused):
    line = refused(prefix=AS_NOBODY, directory="/")
    assert line == "rtpproxy: control socket unix:/var/run/rtpproxy.sock: permission denied"


@pytest.mark.root
def test_without_privilege_ports_are_bound_and_the_log_says_why(start, open_directory):
    running = start(prefix=AS_NOBODY, directory=open_directory)
    assert "ERR:GLOBAL:_announce" in running.log
    assert "ports are bound, and userspace relays everything: BPF cannot be used: " in running.log
    assert "no privilege; run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW" in running.log
    assert "on all local addresses, bound" in running.log
    assert running.port("U call 127.0.0.1 4000 f") >= 35000
    assert running.stop() == 0
    assert "Traceback" not in running.log


@pytest.mark.root
@pytest.mark.parametrize("options", [("--ports", "steered"), ("--offload", "xdp")])
def test_without_privilege_what_needs_it_is_refused(refused, open_directory, options):
    line = refused(*options, "-s", f"unix:{open_directory}/sock", prefix=AS_NOBODY, directory="/")
    assert line.startswith("rtpproxy: BPF cannot be used: ")
    assert "no privilege" in line


@pytest.mark.root
@pytest.mark.parametrize("lacking", ["net_raw", "net_admin", "bpf"])
def test_lack_of_one_capability_is_no_reason_not_to_run(start, open_directory, lacking):
    capabilities = {"bpf", "net_admin", "net_raw"} - {lacking}
    prefix = as_nobody(*sorted(capabilities))
    running = start(prefix=prefix, directory=open_directory)
    assert "BPF cannot be used" in running.log
    assert running.ask("V") == "20040107"
    assert running.stop() == 0


# Software


@pytest.mark.parametrize(("offload", "level"), [("auto", "ERR"), ("off", "WARN")])
def test_without_bcc_ports_are_bound_and_the_log_says_why(start, no_bcc, offload, level):
    running = start("-d", level, "--offload", offload, environment=no_bcc)
    (line,) = running.log.splitlines()
    assert line.startswith(f"{level}:GLOBAL:_announce")
    assert "ports are bound, and userspace relays everything: BPF cannot be used: bcc is not installed for " in line
    assert "install Debian's python3-bpfcc" in line
    assert running.port("U call 127.0.0.1 4000 f") >= 35000


@pytest.mark.parametrize("options", [("--ports", "steered"), ("--offload", "xdp")])
def test_without_bcc_what_needs_it_is_refused(refused, no_bcc, tmp_path, options):
    line = refused(*options, "-s", f"unix:{tmp_path}/sock", environment=no_bcc)
    assert line.startswith("rtpproxy: BPF cannot be used: bcc is not installed for ")


@pytest.mark.root
@pytest.mark.kernel
def test_modules_in_the_directory_that_it_is_started_from_are_not_used(start, tmp_path, monkeypatch):
    """Otherwise the owner of that directory could run code as root."""
    for name in ("bcc", "json", "array"):
        (tmp_path / f"{name}.py").write_text(f'raise ImportError("a trap: {name}")\n')
    monkeypatch.chdir(tmp_path)
    running = start("--offload", "off")
    assert "a trap" not in running.log
    assert "BPF cannot be used" not in running.log


# Limits


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("-L", "2000"), "rtpproxy: -L 2000: not permitted; at most 1000 files may be open"),
        (("--nice", "-5"), "rtpproxy: --nice -5: Permission denied"),
        (("-c", "fifo"), "rtpproxy: -c fifo: Operation not permitted"),
    ],
)
def test_limits_that_only_root_may_have(refused, options, line):
    prefix = ("prlimit", "--nofile=500:1000", "--rtprio=0:0", *AS_NOBODY)
    assert refused(*options, *BOUND, prefix=prefix, directory="/") == line


@pytest.mark.parametrize("limit", [8, 10, 12, 16, 24, 36, 63])
def test_too_few_descriptors(refused, limit):
    line = refused(*BOUND, prefix=("prlimit", f"--nofile={limit}"))
    assert line == f"rtpproxy: only {limit} files may be open: allow 64 or more with -L"


INHERIT = "import os, sys; [os.dup2(0, 3 + n) for n in range(int(sys.argv[1]))]; os.execv(sys.argv[2], sys.argv[2:])"


@pytest.mark.parametrize("inherited", [0, 20, 28, 36, 44, 48, 52])
def test_too_few_descriptors_are_left(tmp_path, inherited):
    """Wherever descriptors run out, one line is printed, or the relay runs."""
    log_path, address = tmp_path / "log", ControlAddress(ControlKind.UNIX, path=f"{tmp_path}/sock")
    prefix = ("prlimit", "--nofile=64", sys.executable, "-c", INHERIT, str(inherited))
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*prefix, PROGRAM, "-f", "-s", str(address), "-p", f"{tmp_path}/pid"], stdin=subprocess.DEVNULL, stderr=log
        )
    try:
        wait_for(
            lambda: process.poll() is not None or (tmp_path / "pid").exists(),
            DEADLINE_S,
            "a start or a refusal",
        )
        if process.poll() is None:
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
            assert "Traceback" not in log_path.read_text()
            return
        lines = log_path.read_text().splitlines()
        assert (process.returncode, len(lines)) == (1, 1), lines
        assert lines[0].startswith("rtpproxy: ")
        assert lines[0].endswith("Too many open files; allow more with -L")
    finally:
        process.kill()
        process.wait()


# Ranges


@pytest.mark.root
@pytest.mark.kernel
def test_steered_ports_of_two_relays_overlap(refused, start, tmp_path):
    first = start("--ports", "steered", "--offload", "off", "-m", "20000", "-M", "20999")
    path = tmp_path / "second.sock"
    line = refused("--ports", "steered", "--offload", "off", "-m", "20998", "-M", "21999", "-s", f"unix:{path}")
    assert line == (
        "rtpproxy: media ports 20998-21999 overlap 20000-20999 of the rtpproxy that runs as process "
        f"{first.process.pid}: give each instance a range of its own with -m and -M"
    )
    assert not path.exists()
    assert first.ask("V") == "20040107"
    start("--ports", "steered", "--offload", "off", "-m", "21000", "-M", "21999", name="third")


def test_bound_ports_of_two_relays_may_overlap(start):
    options = (*BOUND, "-b", "-m", "26000", "-M", "26100")
    first, second = start(*options), start(*options, name="second")
    ports = [relay.port(f"U {call} 127.0.0.1 4000 f") for call in ("a", "b") for relay in (first, second)]
    assert len(set(ports)) == 4


# The pid file


@pytest.mark.parametrize("options", [(), ("-f",)], ids=["daemon", "foreground"])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/pid", "the directory does not exist"),
        ("target/pid", "part of the path is not a directory"),
        ("directory", "it is a directory"),
        ("link", "it is a symbolic link"),
        ("pipe", "it is not a regular file"),
    ],
)
def test_pid_file_that_cannot_be_had(tmp_path, name, reason, options):
    """The operator asked for it, so the relay does not start without it. Nothing in its place is touched."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(path.name for path in tmp_path.iterdir())
    path = tmp_path / name
    command = [PROGRAM, *options, *BOUND, "-s", f"unix:{tmp_path}/sock", "-p", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    line = f"rtpproxy: pid file {path}: {reason}; name another file with -p\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert (tmp_path / "target").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.root
def test_pid_file_where_the_user_may_not_write(refused, tmp_path):
    path = tmp_path / "other"
    line = refused("-p", str(path), *BOUND, prefix=AS_NOBODY, directory="/")
    assert line == f"rtpproxy: pid file {path}: permission denied; name another file with -p"


HIDE_RUN = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$0" "$@"'
"""Gives a process a /run of its own that only root may write to."""


@pytest.mark.root
@pytest.mark.parametrize(("prefix", "level"), [(AS_NOBODY, "ERR"), ((), None)], ids=["user", "root"])
def test_default_pid_file(open_directory, prefix, level):
    """An ordinary user can run without it, and one line of the log says so."""
    socket_path, log_path = open_directory / "sock", open_directory / "log"
    command = ["unshare", "--mount", "sh", "-c", HIDE_RUN, *prefix]
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [*command, PROGRAM, "-f", "-d", "INFO", "-s", f"unix:{socket_path}", *BOUND], cwd="/", stderr=log
        ) as process,
    ):
        try:
            wait_for(lambda: "rtpproxy started" in log_path.read_text(), DEADLINE_S, "the relay to start")
        finally:
            process.terminate()
        assert process.wait(DEADLINE_S) == 0
    lines = [line for line in log_path.read_text().splitlines() if "pid file" in line]
    if level is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith(f"{level}:GLOBAL:write:")
        assert line.endswith("pid file /var/run/rtpproxy.pid: Permission denied")
