"""Modules that a configuration names are there, or the relay does not start."""

import os
from contextlib import ExitStack

import pytest

from rtpproxy.config import CdrSettings, DtmfSettings, HepSettings, ModuleKind
from rtpproxy.errors import StartError
from rtpproxy.instance.modules import build_modules
from rtpproxy.modules.acct_csv import AcctCsv
from rtpproxy.modules.acct_rtcp_hep import AcctRtcpHep
from rtpproxy.modules.records import HEADER
from tests.fakes import FakeNotifier


def build(stack, *settings):
    return build_modules(settings, FakeNotifier(), lambda: 0.0, lambda: 0.0, None, stack)


def test_no_module_unless_asked_for():
    with ExitStack() as stack:
        assert build(stack).modules == ()


def test_call_records(tmp_path):
    with ExitStack() as stack:
        registry = build(stack, CdrSettings(str(tmp_path / "one")), CdrSettings(str(tmp_path / "two")))
        registry.start()
        assert [type(one) for one in registry.modules] == [AcctCsv, AcctCsv]
        assert [registry.has(1, number) for number in range(4)] == [False, True, True, False]
        descriptors = set(os.listdir("/proc/self/fd"))
    assert len(descriptors) - len(os.listdir("/proc/self/fd")) == 2
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [HEADER] * 2


def test_a_file_that_cannot_be_written_prevents_the_start(tmp_path):
    path = tmp_path / "records"
    path.write_text("something else\n")
    with ExitStack() as stack, pytest.raises(StartError, match=f"{path}: it exists, and does not begin with"):
        build(stack, CdrSettings(str(path)))


def test_rtcp_to_homer():
    with ExitStack() as stack:
        registry = build(stack, HepSettings("192.0.2.1"), HepSettings("192.0.2.2"))
        assert [type(one) for one in registry.modules] == [AcctRtcpHep, AcctRtcpHep]
        assert registry.has(ModuleKind.ACCT_RTCP_HEP, 2)


def test_dtmf():
    with ExitStack() as stack:
        assert build(stack, DtmfSettings()).has(ModuleKind.CATCH_DTMF, 1)
