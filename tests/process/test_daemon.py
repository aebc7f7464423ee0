"""The installed program as a process: start and end, foreground and daemon, signals, pid file, log (protocol.md 12).

As root everything runs in a network namespace of the test. Each test ends every process whose command line names its
directory.
"""

import contextlib
import itertools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rtpproxy.config import (
    NOTES_DIRECTORY,
    CdrSettings,
    Config,
    ControlAddress,
    ControlKind,
    DtmfSettings,
    HepSettings,
    NotifyTarget,
)
from rtpproxy.errors import ConfigError
from rtpproxy.notes.contents import parse
from rtpproxy.process import daemon
from tests.activation import activating, descriptors
from tests.running import PROGRAM, RunningRelay, expect_refusal, own_namespace
from tests.waiting import DEADLINE_S, wait_for

BOUND = ("--ports", "bound", "--offload", "off")
"""Options for a relay that starts sooner and needs no privilege."""
UNLOGGED = "rtpproxy: warning: no /dev/log: log lines are lost until there is one\n"
REMARK = "" if os.path.exists("/dev/log") else UNLOGGED
"""Printed on this host by the command that starts a daemon."""
LOG_LINE = re.compile(r"(DBUG|INFO|WARN|ERR|CRIT):GLOBAL:\w+:\d+: .+")


@pytest.fixture(autouse=True)
def namespace():
    """Enters a network namespace of the test, if it runs as root."""
    with own_namespace() if os.geteuid() == 0 else contextlib.nullcontext():
        yield


@pytest.fixture(autouse=True)
def nothing_left(tmp_path):
    """Ends what a test left running."""
    yield
    for pid in processes_of(tmp_path):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for core in tmp_path.glob("core*"):
        core.unlink()


@pytest.fixture
def relay(tmp_path):
    """A relay in the foreground."""
    with RunningRelay(tmp_path, *BOUND) as relay:
        yield relay


@pytest.fixture
def run(tmp_path):
    """Runs the program until it returns, by default as a daemon with its control socket and pid file in place."""

    def run(*options, prefix=(), environment=None):
        return subprocess.run(
            [*prefix, PROGRAM, "-s", f"unix:{tmp_path}/sock", "-p", f"{tmp_path}/pid", *BOUND, *options],
            cwd=tmp_path,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    return run


@pytest.fixture
def slow_bcc(tmp_path):
    """Makes an environment in which importing bcc takes until `slow_bcc.release` is called, and then fails."""
    return SlowPackage(tmp_path / "shadow", "bcc")


class SlowPackage:
    """A package in place of another that waits at its import, and then fails."""

    def __init__(self, directory, name):
        self._parent = directory / "parent"
        self._gate = directory / "gate"
        (directory / name).mkdir(parents=True)
        os.mkfifo(self._gate)
        (directory / name / "__init__.py").write_text(
            "import os, pathlib\n"
            f"pathlib.Path({str(self._parent) + '.new'!r}).write_text(str(os.getppid()))\n"
            f"os.rename({str(self._parent) + '.new'!r}, {str(self._parent)!r})\n"
            f"open({str(self._gate)!r}).read()\n"
            "raise ImportError('too slow')\n"
        )
        self.environment = {"PYTHONPATH": str(directory)}

    def wait(self):
        """Wait until the import has begun; return the number of the parent of the process that imports."""
        return int(wait_for(lambda: self._parent.exists() and self._parent.read_text(), DEADLINE_S, "the loader"))

    def release(self):
        """Let the import go on."""
        with self._gate.open("w"):
            pass


def processes_of(directory):
    """List the living processes whose command line names the directory, without this one."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if str(directory) in command_line(pid)]


def command_line(pid):
    """Read the command line of a process; empty for this process, and for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace") if pid != os.getpid() else ""
    except (FileNotFoundError, ProcessLookupError):
        return ""


def daemon_of(directory):
    """Read the pid file; it must hold the number of a process that was started here."""
    text = (directory / "pid").read_text()
    assert re.fullmatch(r"[1-9]\d*\n", text)
    assert int(text) in processes_of(directory)
    return int(text)


def ask(path, command="V"):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        client.sendall(command.encode())
        return client.recv(4096).decode()


def end(pid, directory, number=signal.SIGTERM):
    """Send a signal to a daemon and wait until it is gone."""
    os.kill(pid, number)
    wait_for(lambda: pid not in processes_of(directory), DEADLINE_S, "the daemon to end")


# Daemon


def test_parent_returns_when_the_daemon_serves(run, tmp_path):
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", REMARK)
    assert ask(tmp_path / "sock") == "20040107\n"
    pid = daemon_of(tmp_path)
    end(pid, tmp_path)
    assert not (tmp_path / "sock").exists()
    assert not (tmp_path / "pid").exists()


def test_daemon_is_cut_off_from_where_it_was_started(run, tmp_path):
    assert run().returncode == 0
    pid = daemon_of(tmp_path)
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)] == ["/dev/null"] * 3
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) not in (os.getsid(0), pid), "it could get a controlling terminal"
    end(pid, tmp_path)


def test_daemon_stays_where_it_was_started_if_told(run, tmp_path):
    with (tmp_path / "output").open("w") as output:
        options = ("-s", f"unix:{tmp_path}/sock", "-p", f"{tmp_path}/pid", *BOUND, "-D", "--no_redirect")
        subprocess.run([PROGRAM, *options], cwd=tmp_path, stdout=output, stderr=output, timeout=DEADLINE_S, check=True)
    pid = daemon_of(tmp_path)
    assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (1, 2)] == [str(tmp_path / "output")] * 2
    end(pid, tmp_path)


CLOSED = [numbers for count in (1, 2, 3) for numbers in itertools.combinations((0, 1, 2), count)]


@pytest.mark.parametrize("numbers", CLOSED)
def test_daemon_that_is_started_with_closed_descriptors(run, tmp_path, numbers):
    closing = " ".join(f"{number}>&-" for number in numbers)
    assert run(prefix=("sh", "-c", f'exec "$0" "$@" {closing}')).returncode == 0
    assert ask(tmp_path / "sock") == "20040107\n"
    pid = daemon_of(tmp_path)
    assert [os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)] == ["/dev/null"] * 3
    end(pid, tmp_path)


@pytest.mark.root
def test_daemon_that_anybody_may_command(run, tmp_path):
    """The command that starts it says so."""
    done = run("-u", "nobody", "-s", "udp:*:27007")
    assert done.returncode == 0
    warning, _, rest = done.stderr.partition("\n")
    assert warning.startswith("rtpproxy: warning: commands on udp:*:27007 are taken from anybody: ")
    assert rest == REMARK
    end(daemon_of(tmp_path), tmp_path)
    done = run("-u", "nobody", "-s", "udp:*:27007", "--control-allow", "192.0.2.0/24")
    assert (done.returncode, done.stderr) == (0, REMARK)
    end(daemon_of(tmp_path), tmp_path)


@pytest.mark.root
def test_daemon_of_another_user(run, tmp_path):
    """The command returns once the daemon has become that user. Scheduling and limits are as asked."""
    done = run("-u", "nobody", "-L", "5000", "--nice", "3")
    assert (done.returncode, done.stderr) == (0, REMARK)
    pid = daemon_of(tmp_path)
    assert "Uid:\t65534\t65534\t65534\t65534\n" in Path(f"/proc/{pid}/status").read_text()
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"Max open files +5000 +5000 ", limits)
    assert re.search(r"Max core file size +unlimited +unlimited ", limits)
    assert os.getpriority(os.PRIO_PROCESS, pid) == 3
    end(pid, tmp_path)


@pytest.mark.root
def test_parent_says_why_the_daemon_cannot_become_a_user(run, tmp_path):
    done = run("-u", "nobody", prefix=("setpriv", "--bounding-set=-setuid"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rtpproxy: -u nobody: cannot become that user: Operation not permitted\n"
    assert not (tmp_path / "sock").exists()
    assert not (tmp_path / "pid").exists()
    wait_for(lambda: processes_of(tmp_path) == [], DEADLINE_S, "the daemon to end")


def test_usage_is_refused_before_there_is_a_daemon(run, tmp_path):
    done = run("-T", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rtpproxy: -T 0: argument is out of range: 1 to 2147483648 is allowed\n"


def test_warnings_are_said_by_the_command_that_starts_the_daemon(run, tmp_path):
    done = run("-a")
    warning = "rtpproxy: warning: -a records nothing without a directory for recordings, -r\n"
    assert (done.returncode, done.stderr) == (0, f"{warning}{REMARK}")
    end(daemon_of(tmp_path), tmp_path)


def test_paths_mean_the_directory_that_it_is_started_from(run, tmp_path):
    try:
        done = run("-s", "unix:relative.sock", "-p", "relative.pid")
        assert (done.returncode, done.stderr) == (0, REMARK)
        assert (tmp_path / "relative.sock").exists()
        assert (tmp_path / "relative.pid").exists()
    finally:
        for pid in processes_of(tmp_path):
            end(pid, tmp_path)


def test_parent_says_why_the_daemon_cannot_start(run, tmp_path):
    done = run("-s", f"unix:{tmp_path}/missing/sock")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"rtpproxy: control socket unix:{tmp_path}/missing/sock: the directory does not exist\n"
    assert not (tmp_path / "sock").exists()
    assert not (tmp_path / "pid").exists()
    wait_for(lambda: processes_of(tmp_path) == [], DEADLINE_S, "the daemon to end")


def test_second_daemon_does_not_disturb_the_first(run, tmp_path):
    assert run().returncode == 0
    pid = daemon_of(tmp_path)
    done = run()
    assert done.returncode == 1
    assert done.stderr == f"rtpproxy: control socket unix:{tmp_path}/sock: in use by another process\n"
    assert daemon_of(tmp_path) == pid
    assert ask(tmp_path / "sock") == "20040107\n"
    end(pid, tmp_path)


def test_parent_says_that_the_daemon_died(tmp_path, slow_bcc):
    started = subprocess.Popen(
        [PROGRAM, "-s", f"unix:{tmp_path}/sock", "-p", f"{tmp_path}/pid"],
        env={**os.environ, **slow_bcc.environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    pid = slow_bcc.wait()
    assert pid in processes_of(tmp_path)
    os.kill(pid, signal.SIGKILL)
    assert started.communicate(timeout=DEADLINE_S) == (None, "rtpproxy: the daemon died at start\n")
    assert started.returncode == 1
    slow_bcc.release()


DEVICES = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9"
WITHOUT_SYSLOG = ("unshare", "--mount", "sh", "-c", f'{DEVICES} && exec "$0" "$@"')
"""Runs a command with a /dev that has only the devices it needs."""


@pytest.fixture
def syslog(tmp_path):
    """Opens a log socket of the test; `with_syslog` mounts it as /dev/log."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as opened:
        opened.bind(str(tmp_path / "log"))
        opened.settimeout(DEADLINE_S)
        yield opened


def with_syslog(directory):
    mount = f'{DEVICES} && touch /dev/log && mount --bind "$0" /dev/log && exec "$@"'
    return ("unshare", "--mount", "sh", "-c", mount, str(directory / "log"))


@pytest.mark.root
def test_daemon_logs_to_syslog(run, syslog, tmp_path):
    done = run("-d", "INFO:LOCAL0", prefix=with_syslog(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    pid = daemon_of(tmp_path)
    lines = []
    while not lines or "rtpproxy started" not in lines[-1]:
        lines.append(syslog.recv(4096).decode().rstrip("\0"))
    assert all(re.fullmatch(rf"<134>rtpproxy\[{pid}\]: {LOG_LINE.pattern}", line) for line in lines)
    end(pid, tmp_path)


@pytest.mark.root
def test_syslog_that_stands_still_stops_nothing(run, syslog, tmp_path):
    assert run("-d", "DBUG", prefix=with_syslog(tmp_path)).returncode == 0
    pid = daemon_of(tmp_path)
    for _ in range(1000):
        assert ask(tmp_path / "sock") == "20040107\n"
    syslog.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            syslog.recv(4096)
    ask(tmp_path / "sock")
    assert re.search(rb"WARN:GLOBAL:emit:0: lines that syslog did not take: [1-9]", syslog.recv(4096))
    end(pid, tmp_path)


@pytest.mark.root
def test_daemon_without_syslog_says_so(run, tmp_path):
    done = run(prefix=WITHOUT_SYSLOG)
    assert (done.returncode, done.stderr) == (0, UNLOGGED)
    end(daemon_of(tmp_path), tmp_path)
    done = run("-d", "INFO", "--no_redirect", "-s", "unix:/nonexistent/sock", prefix=WITHOUT_SYSLOG)
    assert done.returncode == 1
    assert UNLOGGED not in done.stderr
    assert "ERR:GLOBAL:" in done.stderr


FAILING = """
import logging

class Failing(logging.Handler):
    def emit(self, record):
        if "media ports" in record.getMessage():
            raise RuntimeError("a mistake")

logging.getLogger("rtpproxy.instance").addHandler(Failing())
"""
"""A sitecustomize.py that makes the start fail in an unexpected way."""


@pytest.mark.root
def test_unexpected_failure_is_told_and_logged(run, syslog, tmp_path):
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "sitecustomize.py").write_text(FAILING)
    environment = {"PYTHONPATH": str(tmp_path / "shadow")}
    done = run("-d", "INFO", prefix=with_syslog(tmp_path), environment=environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rtpproxy: the daemon failed at start: RuntimeError('a mistake')\n"
    line = ""
    while "CRIT:GLOBAL:_be_daemon" not in line:
        line = syslog.recv(1 << 16).decode()
    assert "Traceback" in line
    assert "RuntimeError: a mistake" in line
    assert not (tmp_path / "sock").exists()
    wait_for(lambda: processes_of(tmp_path) == [], DEADLINE_S, "the daemon to end")


# The end


@pytest.mark.parametrize("name", ["TERM", "INT", "USR1", "USR2", "XCPU", "XFSZ", "VTALRM", "PROF"])
def test_signal_ends_it_in_order(relay, name):
    relay.port("U call 127.0.0.1 4000 f")
    number = signal.Signals[f"SIG{name}"]
    relay.process.send_signal(number)
    assert relay.process.wait(DEADLINE_S) == 0
    assert not relay.socket_path.exists()
    assert not relay.pid_path.exists()
    assert relay.log.splitlines()[-2:] == [
        line for line in relay.log.splitlines() if f"stopping on signal {number}" in line or "rtpproxy stopped" in line
    ]


def test_second_signal_ends_it_at_once(relay):
    # The stopped process gets both when it continues; the kernel chooses which one comes first.
    for name in ("STOP", "TERM", "INT", "CONT"):
        relay.process.send_signal(signal.Signals[f"SIG{name}"])
    assert relay.process.wait(DEADLINE_S) in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@pytest.mark.parametrize("name", ["QUIT", "ALRM", "KILL"])
def test_deadly_signals_leave_the_files_and_a_successor_replaces_them(relay, name):
    relay.process.send_signal(signal.Signals[f"SIG{name}"])
    assert relay.process.wait(DEADLINE_S) == -signal.Signals[f"SIG{name}"]
    assert relay.socket_path.exists()
    assert relay.pid_path.exists()
    relay.start()
    assert relay.ask("V") == "20040107"
    assert relay.pid_path.read_text() == f"{relay.process.pid}\n"
    assert relay.stop() == 0
    assert not relay.socket_path.exists()
    assert not relay.pid_path.exists()


def test_broken_pipe_is_ignored(relay):
    relay.process.send_signal(signal.SIGPIPE)
    assert relay.ask("V") == "20040107"
    assert relay.stop() == 0


def test_slow_stop_waits_for_the_last_session(relay):
    port = relay.port("U call 127.0.0.1 4000 f")
    relay.port("U other 127.0.0.1 4000 f")
    relay.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "stopping slowly" in relay.log, DEADLINE_S, "the signal to arrive")
    assert relay.ask("U next 127.0.0.1 4000 f") == "E99"
    assert relay.port("U call 127.0.0.1 4000 f t") == port
    relay.port("L call 127.0.0.1 5000 f t")
    assert relay.ask("D other f") == "0"
    assert relay.ask("I").splitlines()[1] == "active sessions: 1"
    assert relay.process.poll() is None
    assert relay.ask("D call f t") == "0"
    assert relay.process.wait(DEADLINE_S) == 0
    assert not relay.socket_path.exists()
    assert not relay.pid_path.exists()
    assert "the last session of a slow stop has ended" in relay.log


def test_slow_stop_without_sessions_ends_soon(relay):
    relay.process.send_signal(signal.SIGHUP)
    assert relay.process.wait(DEADLINE_S) == 0


def test_slow_stop_can_be_cut_short(relay):
    relay.port("U call 127.0.0.1 4000 f")
    relay.process.send_signal(signal.SIGHUP)
    wait_for(lambda: "stopping slowly" in relay.log, DEADLINE_S, "the signal to arrive")
    assert relay.stop() == 0


def test_sessions_end_by_the_clock(tmp_path):
    with RunningRelay(tmp_path, *BOUND, "-T", "1") as relay:
        relay.port("U call 127.0.0.1 4000 f")
        wait_for(lambda: relay.ask("Q call f") == "E50", DEADLINE_S, "the session to be idle")
        assert "call: session ended: idle for 1 s" in relay.log


def test_media_never_get_the_control_port(tmp_path):
    """The port is left out although it is free on the media address."""
    options = (*BOUND, "-F", "-s", "udp:127.0.0.1:27000", "-l", "127.0.0.2", "-b", "-m", "27000", "-M", "27003")
    with RunningRelay(tmp_path, *options) as relay:
        assert relay.port("U call 192.0.2.1 5000 f") == 27002
        assert relay.ask("L call 192.0.2.2 5000 f t") == "E71"


# Control


CONTROL = ("127.0.0.1", 27005)
SENDERS, CALLS = 4, 840
SO_RCVBUFFORCE = 33


@pytest.fixture
def controllers(tmp_path):
    """Several UDP clients of a stopped relay, so that their commands wait. The test lets `relay.process` continue."""
    with RunningRelay(tmp_path, *BOUND, "-F", "-s", "udp:127.0.0.1:27005") as relay, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(SENDERS)]
        for client in clients:
            client.connect(CONTROL)
        relay.process.send_signal(signal.SIGSTOP)
        yield relay, clients
        assert relay.stop() == 0


def calls_of(sender):
    """List commands by cookie, each with the pattern of its reply. Each command needs the one before it."""
    wanted = {}
    for number in range(CALLS):
        call = f"s{sender}c{number}"
        wanted[f"{number}u"] = f"U {call} 192.0.2.1 4000 f", r"\d+"
        wanted[f"{number}l"] = f"L {call} 192.0.2.2 5000 f t", r"\d+"
        wanted[f"{number}d"] = f"D {call} f t", "0"
    return wanted


def is_answered(datagram, cookie, answer):
    return re.fullmatch(rf"{cookie} {answer}( 127\.0\.0\.1)?\n", datagram.decode())


@pytest.mark.root
def test_ten_thousand_commands_in_flight(controllers):
    """All fit into the buffers: each command is answered once, in order."""
    relay, clients = controllers
    for sender, client in enumerate(clients):
        client.settimeout(DEADLINE_S)
        client.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        for cookie, (command, _) in calls_of(sender).items():
            client.send(f"{cookie} {command}".encode())
    relay.process.send_signal(signal.SIGCONT)
    for sender, client in enumerate(clients):
        for cookie, (_, answer) in calls_of(sender).items():
            assert is_answered(client.recv(100), cookie, answer)
    for client in clients:
        client.send(b"last V")
        assert client.recv(100) == b"last 20040107\n", "answered twice"
    totals = relay.totals()
    assert (totals["sessions created"], totals["active sessions"]) == (SENDERS * CALLS, 0)


@pytest.mark.root
def test_ten_thousand_commands_whose_replies_are_lost(controllers):
    """Commands are repeated until they are answered, and each is executed once: the reply is the first one."""
    relay, clients = controllers
    for sender, client in enumerate(clients):
        client.settimeout(0.2)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        for cookie, (command, _) in calls_of(sender).items():
            client.send(f"{cookie} {command}".encode())
    relay.process.send_signal(signal.SIGCONT)
    wait_for(lambda: relay.totals()["sessions created"] == SENDERS * CALLS, DEADLINE_S, "all of them to be executed")
    for sender, client in enumerate(clients):
        assert repeat_until_answered(client, calls_of(sender)) > 0
    totals = relay.totals()
    assert (totals["sessions created"], totals["active sessions"]) == (SENDERS * CALLS, 0)


def repeat_until_answered(client, wanted):
    """Repeat all unanswered commands until none is left; return how many rounds it took."""
    repeated = 0
    while wanted:
        try:
            reply = client.recv(100)
        except TimeoutError:
            repeated += 1
            assert repeated < 1000
            for cookie, (command, _) in wanted.items():
                client.send(f"{cookie} {command}".encode())
            continue
        cookie = reply.decode().split()[0]
        if cookie in wanted:
            assert is_answered(reply, cookie, wanted.pop(cookie)[1])
    return repeated


@pytest.fixture(params=["unix", "tcp"])
def passed(request, tmp_path):
    """Opens a socket as a service manager would, to be passed on."""
    family = socket.AF_UNIX if request.param == "unix" else socket.AF_INET
    with socket.socket(family) as listening:
        listening.bind(str(tmp_path / "passed") if request.param == "unix" else ("127.0.0.1", 0))
        listening.listen()
        yield listening


def start_activated(passed, directory, *options):
    command = [*activating([passed]), PROGRAM, "-s", "systemd:", "-p", f"{directory}/pid", *BOUND, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, pass_fds=descriptors([passed]))


def ask_passed(passed, command):
    with socket.socket(passed.family) as client:
        client.settimeout(DEADLINE_S)
        client.connect(passed.getsockname())
        client.sendall(command.encode())
        return client.recv(4096).decode()


def test_socket_of_a_service_manager(passed, tmp_path):
    """It takes one command per connection and outlives the relay."""
    with start_activated(passed, tmp_path, "-f") as started:
        try:
            assert ask_passed(passed, "V") == "20040107\n"
            assert re.fullmatch(r"\d+( 127\.0\.0\.1)?\n", ask_passed(passed, "U call 127.0.0.1 4000 f"))
            assert ask_passed(passed, "D call f") == "0\n"
            wait_for(lambda: (tmp_path / "pid").exists(), DEADLINE_S, "the pid file")
            assert (tmp_path / "pid").read_text() == f"{started.pid}\n"
            started.terminate()
            assert (started.wait(DEADLINE_S), started.stderr.read()) == (0, b"")
        finally:
            started.kill()
    with start_activated(passed, tmp_path, "-f") as started:
        assert ask_passed(passed, "V") == "20040107\n"
        started.kill()


@pytest.fixture
def passed_datagrams():
    """Opens a UDP socket as a service manager would, to be passed on, with a client."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        opened.bind(("127.0.0.1", 27000))
        client.connect(opened.getsockname())
        client.settimeout(DEADLINE_S)
        yield opened, client


def test_datagram_socket_of_a_service_manager(passed_datagrams, tmp_path):
    """It is like one of `udp:`: media never get its port. It outlives the relay."""
    passed, client = passed_datagrams
    options = (*BOUND, "-F", "-s", "systemd:", "-l", "127.0.0.2", "-b", "-m", "27000", "-M", "27003")
    with RunningRelay(tmp_path, *options, passed=[passed]) as relay:
        assert "control socket udp:127.0.0.1:27000\n" in relay.log
        client.send(b"c1 U call 192.0.2.1 5000 f")
        assert client.recv(100) == b"c1 27002 127.0.0.2\n"
        client.send(b"c2 L call 192.0.2.2 5000 f t")
        assert client.recv(100) == b"c2 E71\n"
        assert relay.stop() == 0
        client.send(b"c3 V")
        relay.start()
        assert client.recv(100) == b"c3 20040107\n"


class Asking(threading.Thread):
    """Sends commands one after another, each once, until it is told to stop; notes those that have no right answer."""

    def __init__(self, ask):
        """`ask` sends a `V` with a number that is not used again, and returns the reply."""
        super().__init__()
        self._ask = ask
        self._is_over = threading.Event()
        self.asked = 0
        self.wrong = []

    def run(self):
        while not self._is_over.is_set():
            self.asked += 1
            try:
                reply = self._ask(self.asked)
            except OSError as error:
                reply = str(error)
            if reply != "20040107\n":
                self.wrong.append((self.asked, reply))

    def stop(self):
        self._is_over.set()
        self.join(2 * DEADLINE_S)
        assert not self.is_alive()


def test_no_command_is_lost_while_it_restarts(passed, passed_datagrams, tmp_path):
    """With sockets of a service manager, none is refused and none must be repeated."""
    datagrams, client = passed_datagrams

    def ask_datagram(number):
        client.send(f"c{number} V".encode())
        return client.recv(100).decode().removeprefix(f"c{number} ")

    with RunningRelay(tmp_path, *BOUND, "-F", "-s", "systemd:", passed=[passed, datagrams]) as relay:
        askers = [Asking(lambda _: ask_passed(passed, "V")), Asking(ask_datagram)]
        for asking in askers:
            asking.start()
        try:
            for _ in range(3):
                before = [asking.asked for asking in askers]
                assert relay.stop() == 0
                relay.start()
                for asking, asked in zip(askers, before, strict=True):
                    wait_for(lambda asking=asking, asked=asked: asking.asked > asked + 20, DEADLINE_S, "more commands")
        finally:
            for asking in askers:
                asking.stop()
    assert [asking.wrong for asking in askers] == [[], []]


@pytest.mark.root
def test_root_is_refused_with_a_datagram_socket_of_a_service_manager(passed_datagrams, tmp_path):
    passed, client = passed_datagrams
    client.send(b"c1 V")
    with start_activated(passed, tmp_path, "-f") as started:
        assert started.wait(DEADLINE_S) == 1
        assert started.stderr.read() == (
            b"rtpproxy: running as root with a UDP control socket is refused: name a user with -u, "
            b"or say -F if only you can reach it\n"
        )
    with start_activated(passed, tmp_path, "-f", "-u", "nobody") as started:
        assert client.recv(100) == b"c1 20040107\n"
        started.terminate()


def test_socket_of_a_service_manager_is_not_for_a_daemon(passed, tmp_path):
    with start_activated(passed, tmp_path) as started:
        assert started.wait(DEADLINE_S) == 1
        assert started.stderr.read() == (
            b"rtpproxy: control socket systemd:: the socket was passed to another process (LISTEN_PID); "
            b"a daemon needs -f here\n"
        )


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_signal_while_starting(tmp_path, slow_bcc, name):
    """The relay ends quietly and leaves nothing, although not all of it is built yet."""
    number = signal.Signals[f"SIG{name}"]
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(
            [PROGRAM, "-f", "-d", "INFO", "-s", f"unix:{tmp_path}/sock", "-p", f"{tmp_path}/pid"],
            env={**os.environ, **slow_bcc.environment},
            stdout=log,
            stderr=log,
        )
    slow_bcc.wait()
    started.send_signal(number)
    slow_bcc.release()
    assert started.wait(DEADLINE_S) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
    assert not (tmp_path / "sock").exists()
    assert not (tmp_path / "pid").exists()


@contextlib.contextmanager
def starting(directory, slow_bcc, *options, is_released=True):
    """A relay that has not started yet, with a datagram and a stream that bring it a command; the port is free here."""
    control = "-s", "udp:127.0.0.1:22222", "-s", f"unix:{directory}/sock"
    command = [PROGRAM, "-f", "-F", *control, "-p", f"{directory}/pid"]
    with contextlib.ExitStack() as stack:
        started = subprocess.Popen([*command, *options], env={**os.environ, **slow_bcc.environment})
        stack.callback(started.wait)
        slow_bcc.wait()
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.connect(("127.0.0.1", 22222))
        datagrams.send(b"c1 V")
        stream = stack.enter_context(socket.socket(socket.AF_UNIX))
        stream.connect(f"{directory}/sock")
        stream.send(b"V\n")
        for client in (datagrams, stream):
            with pytest.raises(BlockingIOError):
                client.recv(100, socket.MSG_DONTWAIT)
            client.settimeout(DEADLINE_S)
        if is_released:
            slow_bcc.release()
        yield started, datagrams, stream


@pytest.mark.root
def test_commands_wait_while_the_relay_starts(tmp_path, slow_bcc):
    """A SIP proxy that is refused uses the relay no more for a minute."""
    with starting(tmp_path, slow_bcc) as (started, datagrams, stream):
        assert datagrams.recv(100) == b"c1 20040107\n"
        assert stream.recv(100) == b"20040107\n"
        started.terminate()
    assert started.returncode == 0


@pytest.mark.root
def test_a_start_that_fails_closes_the_control_sockets(tmp_path, slow_bcc):
    with starting(tmp_path, slow_bcc, "--ports", "steered") as (started, datagrams, stream):
        assert started.wait(DEADLINE_S) == 1
        expect_refusal(datagrams)
        with contextlib.suppress(ConnectionResetError):
            assert stream.recv(100) == b""
        assert not (tmp_path / "sock").exists()


def expect_no_refusal(client):
    """Send a datagram, which nobody answers."""
    client.setblocking(False)
    client.send(b"c1 V")
    with pytest.raises(BlockingIOError):
        client.recv(100)


def test_udp_control_sockets_are_bound_before_all_else(passed_datagrams, tmp_path):
    """Before the program is imported, of which the command line is the first part."""
    opened, client = passed_datagrams
    opened.close()
    slow = SlowPackage(tmp_path / "shadow", "click")
    options = ("-f", "-F", "-s", "udp:127.0.0.1:27000", "-p", f"{tmp_path}/pid")
    started = subprocess.Popen([PROGRAM, *options], env={**os.environ, **slow.environment}, stderr=subprocess.DEVNULL)
    slow.wait()
    expect_no_refusal(client)
    slow.release()
    assert started.wait(DEADLINE_S) == 1
    expect_refusal(client)


AT_THE_END = """
import atexit

def wait():
    open("{directory}/waits", "w").close()
    open("{directory}/gate").read()

atexit.register(wait)
"""
"""A sitecustomize.py that lets the process end only when a pipe is opened."""

WHILE_STOPPING = """
import logging

class Waiting(logging.Handler):
    def emit(self, record):
        if "frames by verdict" in record.getMessage():
            open("{directory}/waits", "w").close()
            open("{directory}/gate").read()

logging.getLogger("rtpproxy.instance").addHandler(Waiting())
"""
"""A sitecustomize.py that holds a relay that stops, when its programs are detached, until a pipe is opened."""


@pytest.fixture
def held(tmp_path):
    """Returns a function that starts a relay, lets it stop, and returns it where the code given holds it.

    What the test writes to `gate` lets it go on.
    """
    os.mkfifo(tmp_path / "gate")
    (tmp_path / "shadow").mkdir()

    def held(code, *options):
        (tmp_path / "shadow" / "sitecustomize.py").write_text(code.format(directory=tmp_path))
        relay = RunningRelay(tmp_path, *options, environment={"PYTHONPATH": f"{tmp_path}/shadow"})
        relay.start()
        relay.process.terminate()
        wait_for((tmp_path / "waits").exists, DEADLINE_S, "the relay to stop")
        return relay

    return held


@pytest.mark.root
@pytest.mark.kernel
def test_nobody_is_refused_while_it_stops(held, tmp_path):
    """Commands are read no more, but the socket is closed last."""
    relay = held(WHILE_STOPPING)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(relay.socket_path))
        client.send(b"V")
        with pytest.raises(BlockingIOError):
            client.recv(100, socket.MSG_DONTWAIT)
        (tmp_path / "gate").write_text("")
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    assert relay.process.wait(DEADLINE_S) == 0
    assert not relay.socket_path.exists()


def test_udp_control_sockets_are_bound_until_the_process_ends(held, passed_datagrams, tmp_path):
    """Its successor may start at once then."""
    opened, client = passed_datagrams
    opened.close()
    relay = held(AT_THE_END, *BOUND, "-F", "-s", "udp:127.0.0.1:27000")
    assert "rtpproxy stopped" in relay.log
    expect_no_refusal(client)
    (tmp_path / "gate").write_text("")
    assert relay.process.wait(DEADLINE_S) == 0
    expect_refusal(client)


@pytest.mark.root
def test_killed_while_it_starts(tmp_path, slow_bcc):
    """Its note tells of its socket already: so a successor that may not remove every file knows whose it is."""
    before = set(Path(NOTES_DIRECTORY).glob("*.note"))
    with starting(tmp_path, slow_bcc, is_released=False) as (started, _, _):
        started.kill()
    (note,) = set(Path(NOTES_DIRECTORY).glob("*.note")) - before
    status = (tmp_path / "sock").stat()
    assert parse(note.read_text()).sockets == {(status.st_dev, status.st_ino, status.st_ctime_ns)}
    slow_bcc.release()
    with RunningRelay(tmp_path, *BOUND) as relay:
        assert relay.ask("V") == "20040107"
    assert not note.exists()


KILLED_AT = """
import logging, os, signal

class SignalAt(logging.Handler):
    def emit(self, record):
        if "media ports" in record.getMessage():
            os.kill(os.getpid(), signal.SIGTERM)

logging.getLogger("rtpproxy.instance").addHandler(SignalAt())
"""
"""A sitecustomize.py that sends SIGTERM when control sockets are open and the rest is not started."""


def test_signal_between_opening_and_serving(tmp_path):
    """As soon as something exists that outlives the process, a signal must end it in order."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "sitecustomize.py").write_text(KILLED_AT)
    with (tmp_path / "log").open("wb") as log:
        options = ("-f", "-d", "INFO", "-s", f"unix:{tmp_path}/sock", "-p", f"{tmp_path}/pid", *BOUND)
        environment = {**os.environ, "PYTHONPATH": str(tmp_path / "shadow")}
        subprocess.run([PROGRAM, *options], env=environment, stderr=log, timeout=DEADLINE_S, check=False)
    assert "control socket" in (tmp_path / "log").read_text()
    assert not (tmp_path / "sock").exists()
    assert not (tmp_path / "pid").exists()


@pytest.mark.root
@pytest.mark.kernel
def test_ports_are_reserved_while_it_runs_even_when_a_predecessor_was_killed(tmp_path):
    reserved = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")
    with RunningRelay(tmp_path, "--offload", "off", "-m", "35000", "-M", "35999") as relay:
        assert reserved.read_text() == "35000-35999\n"
        relay.kill()
        assert reserved.read_text() == "35000-35999\n"
        relay.start()
        assert reserved.read_text() == "35000-35999\n"
        assert relay.stop() == 0
    assert reserved.read_text() == "\n"


# Pid file


def test_pid_file_of_a_successor_is_left_alone(relay):
    assert relay.pid_path.read_text() == f"{relay.process.pid}\n"
    relay.pid_path.write_text("1\n")
    assert relay.stop() == 0
    assert relay.pid_path.read_text() == "1\n"


def test_pid_file_that_is_gone_is_a_line_in_the_log(relay):
    relay.pid_path.unlink()
    assert relay.stop() == 0
    assert f"pid file {relay.pid_path}: No such file or directory" in relay.log


def make_pipe(path, target):
    os.mkfifo(path)


def make_link(path, target):
    path.symlink_to(target)


@pytest.mark.parametrize("make", [make_pipe, make_link])
def test_what_took_the_place_of_the_pid_file_is_left_alone(relay, tmp_path, make):
    target = tmp_path / "target"
    target.write_text(f"{relay.process.pid}\n")
    relay.pid_path.unlink()
    make(relay.pid_path, target)
    assert relay.stop() == 0
    assert f"pid file {relay.pid_path}: " in relay.log
    assert os.path.lexists(relay.pid_path)
    relay.pid_path.unlink()


def test_pid_file_that_is_there_is_written_over(run, tmp_path):
    (tmp_path / "pid").write_text("1234567890123\n")
    assert run().returncode == 0
    end(daemon_of(tmp_path), tmp_path)


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = daemon.with_absolute_paths(
        Config(
            control=(ControlAddress(ControlKind.UNIX, "a"), ControlAddress(ControlKind.UDP, port=9)),
            notify=(NotifyTarget("b"), NotifyTarget(port=9)),
            pid_file="c",
            record_directory="d",
            prompt_directory="e/../e",
            modules=(CdrSettings("d"), HepSettings(), DtmfSettings(NotifyTarget("e")), DtmfSettings()),
        )
    )
    assert (made.record_directory, made.spool_directory, made.prompt_directory) == (
        f"{tmp_path}/d",
        "",
        f"{tmp_path}/e",
    )
    dtmf = DtmfSettings(NotifyTarget(f"{tmp_path}/e")), DtmfSettings()
    assert made.modules == (CdrSettings(f"{tmp_path}/d"), HepSettings(), *dtmf)
    assert [address.path for address in made.control] == [f"{tmp_path}/a", ""]
    assert made.notify == (NotifyTarget(f"{tmp_path}/b"), NotifyTarget(port=9))
    assert made.pid_file == f"{tmp_path}/c"


@pytest.mark.parametrize(("before", "more"), [("", 0), ("y/../" * 30, 0), ("", 1)])
def test_paths_are_measured_once_they_are_absolute(tmp_path, monkeypatch, before, more):
    monkeypatch.chdir(tmp_path)
    name = "x" * (107 - len(f"{tmp_path}/") + more)
    config = Config(notify=(NotifyTarget(before + name),))
    if more:
        with pytest.raises(ConfigError, match=f"option -n {tmp_path}/{name}: the path is longer than 107 bytes"):
            daemon.with_absolute_paths(config)
    else:
        assert daemon.with_absolute_paths(config).notify == (NotifyTarget(f"{tmp_path}/{name}"),)


# Log


def test_every_line_of_the_log_has_its_form(relay):
    relay.port("U call 127.0.0.1 4000 f")
    relay.ask("D call f")
    assert relay.stop() == 0
    lines = relay.log.splitlines()
    assert all(LOG_LINE.fullmatch(line) for line in lines)
    for text in (
        f"control socket unix:{relay.socket_path}",
        "media ports 35000-64999 on all local addresses, bound",
        "all interfaces: userspace (--offload off)",
        "rtpproxy started",
        "call: session created, port ",
        "call: session ended: deleted",
        "rtpproxy stopped",
    ):
        assert sum(text in line for line in lines) == 1, text


def test_level_of_the_log(tmp_path):
    with RunningRelay(tmp_path, *BOUND, "-d", "DBUG") as relay:
        relay.ask("V")
        assert 'received command "V"' in relay.log
        assert 'sending reply "20040107"' in relay.log


def test_log_says_nothing_by_default(run, tmp_path):
    with (tmp_path / "log").open("wb") as log:
        options = ("-f", "-s", f"unix:{tmp_path}/sock", "-p", f"{tmp_path}/pid", *BOUND)
        started = subprocess.Popen([sys.executable, "-m", "rtpproxy", *options], stderr=log, cwd="/")
    wait_for(lambda: (tmp_path / "pid").exists(), DEADLINE_S, "the pid file")
    assert ask(tmp_path / "sock") == "20040107\n"
    started.terminate()
    assert started.wait(DEADLINE_S) == 0
    assert (tmp_path / "log").read_text() == ""


@pytest.fixture
def kept_log():
    """Restores the log of this process after the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    names = {number: logging.getLevelName(number) for number in (10, 20, 30, 40, 50)}
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)
    for number, name in names.items():
        logging.addLevelName(number, name)


@pytest.mark.parametrize(
    ("level", "number"), [("DBUG", 10), ("INFO", 20), ("WARN:DAEMON", 30), ("ERR", 40), ("CRIT", 50)]
)
def test_levels_have_the_protocols_names(kept_log, capsys, level, number):
    daemon.start_log(Config(is_foreground=True, log_level=level))
    for at in (number - 1, number):
        logging.getLogger("test").log(at, "text")
    name = level.split(":")[0]
    assert re.fullmatch(rf"{name}:GLOBAL:\w+:\d+: text\n", capsys.readouterr().err)
