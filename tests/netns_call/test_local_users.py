"""What a user of the host who is not root tries, so that the relay does not start, crashes, or writes elsewhere."""

import ast
import errno
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.netns_call.call import BOUND, KERNEL, Call, is_attached
from tests.offload.unprivileged import NOBODY, with_capabilities
from tests.running import RunningRelay

NOTES = Path("/run/rtpproxy")
PORTS = ("-m", "35000", "-M", "35999")
ASKED_FOR = ("bpf", "perfmon", "net_admin", "net_raw")
TO_BECOME_ANOTHER = ("chown", "setuid", "setgid", "setpcap")


@pytest.fixture(autouse=True)
def notes():
    """Begin and end without the directory of notes."""
    shutil.rmtree(NOTES, ignore_errors=True)
    yield
    if NOTES.is_symlink():
        NOTES.unlink()
    shutil.rmtree(NOTES, ignore_errors=True)


@pytest.fixture
def public():
    """A directory of root's that anybody may look into; the tests' own are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="rtpproxy-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def as_nobody(topology, program, *arguments, ready="ready\n", group=NOBODY):
    """Start a program of an ordinary user in the relay's namespace; wait until it says that it is ready."""
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={group}", "--clear-groups", sys.executable, "-c", program]
    process = topology.relay.popen(
        [*command, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    )
    assert process.stdout.readline() == ready
    return process


BIND_CLAIMS = """
import socket, sys
held = []
for host in ("*", "::", "10.0.1.1"):
    for way in ("steered", "bound"):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        one.bind(f"\\0rtpproxy/media/{host}/1024-65535/{way}/1/1")
        held.append(one)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("way", [KERNEL, BOUND], ids=lambda way: way.name)
def test_bound_abstract_sockets_do_not_keep_it_from_starting(start, topology, way):
    as_nobody(topology, BIND_CLAIMS)
    relay = start(*way.options, *PORTS)
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(way)
    assert relay.stop() == 0


MEDDLE = """
import fcntl, os, struct, sys
directory = "/run/rtpproxy"
said = []
def attempt(what):
    try:
        what()
    except PermissionError:
        return
    said.append(what.__name__)
held = []
def lock(path):
    held.append(os.open(path, os.O_RDONLY))
    whole = struct.pack("@hhqqi0q", fcntl.F_RDLCK, 0, 0, 0, 0)
    for command, argument in ((fcntl.F_OFD_SETLK, whole), (fcntl.F_SETLK, whole)):
        try:
            fcntl.fcntl(held[-1], command, argument)
        except OSError:
            pass  # not for a directory, nor while the relay has it
    try:
        fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass  # another meddler has it
lock(directory)
for name in os.listdir(directory):
    path = f"{directory}/{name}"
    def write(): open(path, "a").write("garbage")
    def remove(): os.unlink(path)
    def rename(): os.rename(path, path + "x")
    for what in (write, remove, rename):
        attempt(what)
    lock(path)
def add(): open(f"{directory}/1-0.note", "x")
def link(): os.symlink("/etc/nowhere", f"{directory}/2-0.note")
for what in (add, link):
    attempt(what)
print("ready" if not said else said, flush=True)
sys.stdin.read()
"""


def test_notes_are_out_of_reach(start, topology):
    """Somebody who takes every lock that can be had on them delays nothing, and revives no dead relay."""
    first = start(*PORTS, name="first")
    meddler = as_nobody(topology, MEDDLE)
    first.kill()
    second_meddler = as_nobody(topology, MEDDLE)
    second = start(*PORTS, name="second")
    assert "to-caller: detached what a killed predecessor left" in second.log
    assert second.stop() == 0
    assert topology.relay.run(["sysctl", "-n", "net.ipv4.ip_local_reserved_ports"]).stdout == "\n"
    assert list(NOTES.iterdir()) == []
    assert (meddler.poll(), second_meddler.poll()) == (None, None)


def fill(directory):
    """Put in what a stranger would: links to where root should write, garbage, notes of living relays."""
    for number, name in enumerate(("1-0.note", "c92bbd8b-4026531840.reserved", "c92bbd8b-4026531840.lock")):
        (directory / name).symlink_to(f"/run/target{number}")
    for name in ("3-0.note", "x.note"):
        (directory / name).write_text("relay garbage\nclaim * 1-65535 steered\nreserved 1-65535\n\0\xff")


@pytest.mark.parametrize("owner", [0, NOBODY])
def test_directory_that_strangers_could_write_to_is_not_used(start, topology, owner):
    """Nothing in it is followed or changed, and the relay serves."""
    NOTES.mkdir()
    fill(NOTES)
    os.chown(NOTES, owner, owner)
    NOTES.chmod(0o1777 if owner == 0 else 0o755)
    before = {one.name: os.readlink(one) if one.is_symlink() else one.read_bytes() for one in NOTES.iterdir()}
    relay = start(*PORTS)
    why = "users other than its owner may write to it (mode 1777)" if owner == 0 else f"it belongs to user {NOBODY}"
    (line,) = [line for line in relay.log.splitlines() if "/run/rtpproxy" in line]
    assert line.startswith("WARN:")
    assert f"no note of this relay is kept (/run/rtpproxy: {why}): " in line
    with Call(relay, topology.caller, topology.callee) as call:
        call.establish(KERNEL)
    assert relay.stop() == 0
    after = {one.name: os.readlink(one) if one.is_symlink() else one.read_bytes() for one in NOTES.iterdir()}
    assert after == before
    assert list(Path("/run").glob("target*")) == []


def test_link_in_place_of_the_directory_is_not_followed(start, public):
    target = public / "target"
    target.mkdir()
    NOTES.symlink_to(target)
    relay = start(*BOUND.options, *PORTS)
    assert "no note of this relay is kept (/run/rtpproxy: Not a directory)" in relay.log
    assert relay.stop() == 0
    assert list(target.iterdir()) == []


def test_garbage_in_a_directory_of_roots_is_removed_or_left(start):
    """Not even what root itself wrote there makes the relay crash, or write elsewhere."""
    NOTES.mkdir(mode=0o755)
    fill(NOTES)
    relay = start(*PORTS)
    assert relay.stop() == 0
    assert sorted(one.name for one in NOTES.iterdir()) == [
        *("1-0.note", "c92bbd8b-4026531840.lock", "c92bbd8b-4026531840.reserved")
    ]
    assert list(Path("/run").glob("target*")) == []


# Control sockets of the user of `-u`


@pytest.mark.parametrize("is_killed", [True, False], ids=["killed", "stopped"])
@pytest.mark.parametrize("options", [("-u", "nobody"), ()], ids=["again as that user", "as root"])
def test_socket_that_the_user_left_is_replaced_without_override(topology, public, is_killed, options):
    """The successor may neither connect to it nor pass over its permissions."""
    with RunningRelay(public, "-u", "nobody", "-w", "0770", *PORTS, host=topology.relay) as relay:
        (relay.kill if is_killed else relay.stop)()
        assert relay.socket_path.stat().st_uid == NOBODY
        capabilities = (*ASKED_FOR, *(TO_BECOME_ANOTHER if options else ()))
        prefix = with_capabilities(*capabilities, uid=0)
        relay.pid_path.unlink()
        successor = RunningRelay(public, *options, "-w", "0770", *PORTS, host=topology.relay, prefix=prefix)
        with successor:
            status = relay.socket_path.stat()
            assert status.st_uid == (NOBODY if options else 0)
            assert stat.S_IMODE(status.st_mode) == 0o770
            assert successor.ask("V") == "20040107"
            assert is_attached(topology, "caller")
            assert successor.stop() == 0


def test_live_socket_of_the_user_is_left_alone_without_override(topology, public):
    with RunningRelay(public, "-u", "nobody", *PORTS, host=topology.relay) as relay:
        prefix = with_capabilities(*ASKED_FOR, uid=0)
        other = RunningRelay(public, *PORTS, host=topology.relay, prefix=prefix)
        other.log_path = public / "other.log"
        with pytest.raises(AssertionError):
            other.start()
        assert other.log.splitlines()[-1] == f"rtpproxy: control socket unix:{relay.socket_path}: permission denied"
        assert relay.ask("V") == "20040107"
        assert relay.stop() == 0


CONNECT = """
import os, select, socket, stat, sys
seen = {}
print("ready", flush=True)
is_last = False
while not is_last:
    is_last = select.select([sys.stdin], [], [], 0.0002)[0]
    with socket.socket(socket.AF_UNIX) as client:
        refused = client.connect_ex(sys.argv[1])
    try:
        status = os.lstat(sys.argv[1])
    except FileNotFoundError:
        continue
    seen[refused, status.st_uid, status.st_gid, oct(stat.S_IMODE(status.st_mode))] = None
print(list(seen))
"""
"""Tries to connect until its input ends, and once more. Prints what it saw: error, owner and mode of the file."""


@pytest.mark.parametrize("is_member", [False, True], ids=["stranger", "member of the group"])
def test_socket_is_open_to_the_group_only_from_the_first_moment(topology, public, is_member):
    daemon = pwd.getpwnam("daemon")
    relay = RunningRelay(public, "-u", "daemon", "-w", "0660", *BOUND.options, *PORTS, host=topology.relay)
    watcher = as_nobody(topology, CONNECT, relay.socket_path, group=daemon.pw_gid if is_member else NOBODY)
    with relay:
        # Connections are made from when the socket listens, which is before the relay serves.
        said, _ = watcher.communicate()
    seen = ast.literal_eval(said)
    owner = daemon.pw_uid, daemon.pw_gid, "0o660"
    assert seen[-1] == ((0 if is_member else errno.EACCES), *owner)
    for refused, *found in seen:
        assert tuple(found) in ((0, 0, "0o660"), owner)
        assert (refused or tuple(found)) in (errno.ENOENT, errno.EACCES, errno.ECONNREFUSED, owner)
