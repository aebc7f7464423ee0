"""Builds the modules that the configuration names."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from rtpproxy.config import CdrSettings, DtmfSettings, ModuleSettings
from rtpproxy.modules.acct_csv import AcctCsv
from rtpproxy.modules.acct_rtcp_hep import AcctRtcpHep
from rtpproxy.modules.appender import Appender
from rtpproxy.modules.catch_dtmf import CatchDtmf
from rtpproxy.modules.line_file import LineFile
from rtpproxy.modules.module import Module
from rtpproxy.modules.records import HEADER
from rtpproxy.modules.registry import Registry
from rtpproxy.outbound.notify import Notifier


def build_modules(
    settings: Sequence[ModuleSettings],
    notifier: Notifier,
    clock: Callable[[], float],
    wall: Callable[[], float],
    owner: tuple[int, int] | None,
    stack: ExitStack,
) -> Registry:
    """Make a module from each of the settings. What takes them down is pushed on `stack`. Raises StartError.

    `owner` is the user and group that the relay is going to be; None where it stays who it is.
    """
    made = []
    for one in settings:
        module = _make(one, notifier, clock, wall, owner)
        stack.callback(module.close)
        made.append((one.kind, module))
    return Registry(made)


def _make(
    settings: ModuleSettings,
    notifier: Notifier,
    clock: Callable[[], float],
    wall: Callable[[], float],
    owner: tuple[int, int] | None,
) -> Module:
    """Make one module; what it needs beside its settings is for this function to ask for, as an argument."""
    if isinstance(settings, CdrSettings):
        appender = Appender(LineFile(settings.path, HEADER, owner))
        appender.open()
        return AcctCsv(settings.path, appender, clock, wall)
    if isinstance(settings, DtmfSettings):
        return CatchDtmf(settings, notifier)
    return AcctRtcpHep(settings)
