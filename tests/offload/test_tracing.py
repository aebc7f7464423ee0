"""What counts frames that drivers do not send is attached where, and as soon as, the XDP program is loaded."""

import contextlib
import errno
import os

import pytest

from rtpproxy.offload import tracing
from rtpproxy.offload.loader import TRACEPOINTS
from rtpproxy.offload.tracing import Traced
from tests.conftest import load_programs

pytestmark = [pytest.mark.root, pytest.mark.kernel]


@pytest.fixture
def loaded():
    """Maps and programs, none of which is loaded."""
    with contextlib.closing(load_programs()) as loaded:
        yield loaded


@pytest.fixture
def attached(monkeypatch):
    """The tracepoints that were attached to."""
    names, attach = [], tracing.attach_tracepoint
    monkeypatch.setattr(tracing, "attach_tracepoint", lambda fd, name: names.append(name) or attach(fd, name))
    return names


@pytest.mark.vm
def test_both_tracepoints_come_with_the_xdp_program_once(loaded, attached):
    traced = Traced(loaded)
    assert not traced.is_settled("on_xdp")
    assert traced.fd("on_tc") >= 0
    assert attached == []
    fd = traced.fd("on_xdp")
    assert traced.is_settled("on_xdp")
    assert traced.fd("on_xdp") == fd
    assert attached == list(TRACEPOINTS.values())
    assert traced.why_not == ""
    open_files = set(os.listdir("/proc/self/fd"))
    traced.close()
    assert len(open_files - set(os.listdir("/proc/self/fd"))) == len(TRACEPOINTS)


def test_relay_without_the_privilege_knows_why_not(loaded, monkeypatch):
    def refuse(fd, name):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(tracing, "attach_tracepoint", refuse)
    traced = Traced(loaded)
    assert traced.fd("on_xdp") >= 0
    assert traced.why_not == "tracepoint xdp_devmap_xmit: Operation not permitted"
    traced.close()


def test_programs_that_were_not_compiled(loaded, attached):
    loaded.programs.why_untraced = "no types"
    traced = Traced(loaded)
    assert traced.fd("on_xdp") >= 0
    assert (traced.why_not, attached) == ("no types", [])
