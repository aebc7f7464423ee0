"""Modules that a configuration names are there, or the relay does not start."""

from contextlib import ExitStack

import pytest

from rtpproxy.config import CdrSettings, DtmfSettings, HepSettings
from rtpproxy.errors import StartError
from rtpproxy.instance.modules import build_modules


@pytest.mark.parametrize("settings", [CdrSettings(), HepSettings(), DtmfSettings()])
def test_what_is_not_there_yet_prevents_the_start(settings):
    with ExitStack() as stack, pytest.raises(StartError, match=f"{settings.kind.module} is not supported so far"):
        build_modules((settings,), stack)


def test_no_module_unless_asked_for():
    with ExitStack() as stack:
        assert build_modules((), stack).modules == ()
