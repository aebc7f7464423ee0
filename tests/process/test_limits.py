"""Resource limits and scheduling, each in a process of its own."""

import os
import resource
import subprocess
import sys

import pytest

APPLY = """
import os, resource
from rtpproxy.process import limits
from rtpproxy.config import Config
from rtpproxy.errors import StartError
try:
    limits.apply(Config({arguments}))
except StartError as error:
    print(error)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE),
          os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
"""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all,+dac_read_search")
AS_NOBODY = (*NOBODY, "--ambient-caps=-all,+dac_read_search")
INFINITY = resource.RLIM_INFINITY


def applied(arguments, prefix=()):
    command = [*prefix, sys.executable, "-c", APPLY.format(arguments=arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.root
def test_what_root_may_ask_for():
    made = applied("file_limit=5000, nice=-3")
    assert made == f"(5000, 5000) {(INFINITY, INFINITY)} -3 {os.SCHED_OTHER}"


@pytest.mark.parametrize("count", [100, 64])
def test_fewer_files_may_be_asked_for_by_anybody(count):
    assert applied(f"file_limit={count}").startswith(f"({count}, {count}) ")


def test_fewer_files_than_the_relay_needs():
    prefix = ("prlimit", "--nofile=63:1000")
    assert applied("", prefix) == "only 63 files may be open: allow 64 or more with -L"
    assert applied("file_limit=64", prefix).startswith("(64, 64) ")


@pytest.mark.root
@pytest.mark.parametrize(("word", "policy"), [("fifo", os.SCHED_FIFO), ("rr", os.SCHED_RR)])
def test_real_time(word, policy):
    made = applied(f"realtime_policy={word!r}")
    if made.endswith("Operation not permitted"):
        pytest.skip("needs privilege: real-time scheduling")
    assert made.endswith(f" {policy}")


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("file_limit=2000", "-L 2000: not permitted; at most 1000 files may be open"),
        ("nice=-1", "--nice -1: Permission denied"),
        ("realtime_policy='rr'", "-c rr: Operation not permitted"),
    ],
)
def test_what_is_not_permitted(arguments, line):
    assert applied(arguments, prefix=("prlimit", "--nofile=500:1000", "--rtprio=0:0", *AS_NOBODY)) == line


@pytest.mark.root
def test_more_files_than_the_kernel_allows():
    assert applied(f"file_limit={1 << 30}").startswith(f"-L {1 << 30}: not permitted; at most ")


@pytest.mark.root
def test_core_size_is_raised_as_far_as_it_may_be():
    made = applied("", prefix=("prlimit", "--core=0:4096", *AS_NOBODY))
    assert "(4096, 4096)" in made
