"""Builds the modules that the configuration names."""

from collections.abc import Sequence
from contextlib import ExitStack

from rtpproxy.config import ModuleSettings
from rtpproxy.errors import StartError
from rtpproxy.modules.module import Module
from rtpproxy.modules.registry import Registry


def build_modules(settings: Sequence[ModuleSettings], stack: ExitStack) -> Registry:
    """Make a module from each of the settings. What takes them down is pushed on `stack`. Raises StartError."""
    made = []
    for one in settings:
        module = _make(one)
        stack.callback(module.close)
        made.append((one.kind, module))
    return Registry(made)


def _make(settings: ModuleSettings) -> Module:
    """Make one module; what it needs beside its settings is for this function to ask for, as an argument."""
    raise StartError(f"module {settings.kind.module} is not supported so far; leave it out to start without")
