"""Becoming an ordinary user, in a process of its own. netns_call/test_user.py shows that what is kept suffices."""

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rtpproxy.config import Config, PortsMode
from rtpproxy.errors import StartError
from rtpproxy.process import privileges
from rtpproxy.process.privileges import BPF, NET_ADMIN, NET_BIND_SERVICE, NET_RAW, PERFMON

NOBODY = pwd.getpwnam("nobody")
DROP = """
import os
from rtpproxy.process import privileges
from rtpproxy.config import Config, PortsMode
from rtpproxy.errors import StartError
config = Config({arguments})
try:
    privileges.check(config)
    give_up = privileges.drop(config)
    if {is_at_end}:
        give_up()
except StartError as error:
    print(error)
else:
    print(open("/proc/self/status").read())
    print("Owner:", os.stat("/proc/self/stat").st_uid)
"""


def dropped(arguments, prefix=(), *, is_loading=False):
    """Run a process that drops its privileges, at last or all but what loading needs; return what it prints."""
    command = [*prefix, sys.executable, "-c", DROP.format(arguments=arguments, is_at_end=not is_loading)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def status(text):
    """Pick the lines of /proc/PID/status with users, groups and capabilities."""
    found = dict(re.findall(r"^(Owner|Uid|Gid|Groups|Cap\w+|NoNewPrivs):[ \t]*(.*?)[ \t]*$", text, re.MULTILINE))
    return {name: int(value, 16) if name.startswith("Cap") else value.split() for name, value in found.items()}


def bits(*numbers):
    return sum(1 << number for number in numbers)


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "gid", "kept"),
    [
        ("user='nobody'", NOBODY.pw_gid, bits(NET_ADMIN, NET_RAW, BPF)),
        ("user='nobody', group='daemon'", 1, bits(NET_ADMIN, NET_RAW, BPF)),
        ("user='nobody', lowest_port=1000", NOBODY.pw_gid, bits(NET_BIND_SERVICE, NET_ADMIN, NET_RAW, BPF)),
        ("user='nobody', ports=PortsMode.STEERED", NOBODY.pw_gid, bits(NET_ADMIN, NET_RAW, BPF)),
        ("user='nobody', ports=PortsMode.BOUND", NOBODY.pw_gid, 0),
        ("user='nobody', lowest_port=1000, ports=PortsMode.BOUND", NOBODY.pw_gid, bits(NET_BIND_SERVICE)),
    ],
)
def test_who_it_is_and_what_it_may_do(arguments, gid, kept):
    found = status(dropped(arguments, prefix=("setpriv", "--groups=4,20")))
    assert found["Uid"] == [str(NOBODY.pw_uid)] * 4
    assert found["Gid"] == [str(gid)] * 4
    assert found["Groups"] == []
    assert {name: found[name] for name in ("CapPrm", "CapEff")} == {"CapPrm": kept, "CapEff": kept}
    assert (found["CapInh"], found["CapBnd"], found["CapAmb"]) == (0, 0, 0)
    assert found["NoNewPrivs"] == ["1"]
    assert found["Owner"] == [str(NOBODY.pw_uid)], "a crash would leave no core"


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ("user='nobody'", bits(NET_ADMIN, NET_RAW, BPF, PERFMON)),
        ("user='nobody', ports=PortsMode.BOUND, lowest_port=1000", bits(NET_BIND_SERVICE)),
    ],
)
def test_what_it_may_do_while_programs_are_loaded(arguments, kept):
    found = status(dropped(arguments, is_loading=True))
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"], found["CapAmb"]) == (kept, kept, 0, 0)


TRACE = """
import os, signal
from rtpproxy.process import privileges
from rtpproxy.config import Config, PortsMode
reader, writer = os.pipe()
traced = os.fork()
if not traced:
    privileges.drop(Config({arguments}))
    os.write(writer, b"x")
    signal.pause()
os.read(reader, 1)
os.setgroups([])
os.setresgid({gid}, {gid}, {gid})
os.setresuid({uid}, {uid}, {uid})
try:
    open(f"/proc/{{traced}}/mem").close()
except PermissionError:
    print("refused")
else:
    print("permitted")
os.kill(traced, signal.SIGKILL)
os.wait()
"""
"""Prints if the kernel permits a process of the same user to trace one that has dropped its privileges."""
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("user='nobody'", "refused"),
        ("user='nobody', ports=PortsMode.BOUND, lowest_port=1000", "refused"),
        ("user='nobody', ports=PortsMode.BOUND", "permitted"),
    ],
)
def test_who_may_trace_it(arguments, expected):
    """Whoever lacks a capability that it kept may not; docs/security.md says what follows where it kept none."""
    if YAMA.exists() and YAMA.read_text() != "0\n":
        expected = "refused"
    code = TRACE.format(arguments=arguments, uid=NOBODY.pw_uid, gid=NOBODY.pw_gid)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


@pytest.mark.root
def test_what_root_itself_lacks_is_not_kept():
    found = status(dropped("user='nobody'", prefix=("setpriv", "--bounding-set=-net_raw,-bpf")))
    assert found["CapEff"] == bits(NET_ADMIN)


@pytest.mark.root
def test_root_that_may_not_change_users():
    line = dropped("user='nobody'", prefix=("setpriv", "--bounding-set=-setuid"))
    assert line == "-u nobody: cannot become that user: Operation not permitted"


def test_without_a_user_nothing_changes():
    before = status(dropped("user=''", prefix=()))
    assert before["Uid"] == [str(os.getuid())] * 4
    assert privileges.identity(Config()) is None


def test_identity():
    assert privileges.identity(Config(user="nobody")) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert privileges.identity(Config(user="nobody", group="daemon")) == (NOBODY.pw_uid, 1)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"user": "no such"}, "-u: there is no user 'no such'"),
        ({"user": "nobody", "group": "no such"}, "-u: there is no group 'no such'"),
    ],
)
def test_unknown_users_and_groups(arguments, line):
    with pytest.raises(StartError) as caught:
        privileges.check(Config(**arguments))
    assert str(caught.value).startswith(line)


def as_user(uid, gid):
    kept = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
    return ("setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *kept)


@pytest.mark.root
def test_only_root_can_become_another_user():
    assert dropped("user='daemon'", prefix=as_user(NOBODY.pw_uid, NOBODY.pw_gid)) == (
        "-u daemon: only root can become another user"
    )


@pytest.mark.root
def test_user_who_it_is_already():
    found = status(dropped("user='nobody'", prefix=as_user(NOBODY.pw_uid, NOBODY.pw_gid)))
    assert found["Uid"] == [str(NOBODY.pw_uid)] * 4


def test_what_is_needed():
    assert privileges.needed(Config()) == {NET_ADMIN, NET_RAW, BPF}
    assert privileges.needed(Config(ports=PortsMode.BOUND)) == set()


def test_nobody_is_looked_up_or_the_kernels_number(monkeypatch):
    assert privileges.nobody() == (NOBODY.pw_uid, NOBODY.pw_gid)

    def nobody_is_known(name):
        raise KeyError(name)

    monkeypatch.setattr(privileges.pwd, "getpwnam", nobody_is_known)
    assert privileges.nobody() == (65534, 65534)
