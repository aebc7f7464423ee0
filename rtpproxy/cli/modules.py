"""Reads which modules to start, from a configuration file (`--config`) and from names of module files (`--dso`).

A module of the C RTPproxy is a file `rtpp_NAME.so`. Ours are built in: only the base name of the file is looked at, and
the file need not exist. Source: protocol.md 12.6 and 13.
"""

import re
from dataclasses import replace

from rtpproxy.cli import ucl
from rtpproxy.cli.ucl import Section, Value
from rtpproxy.config import CdrSettings, DtmfSettings, HepSettings, HepTransport, ModuleKind, ModuleSettings
from rtpproxy.errors import ConfigError

MAX_FILE_BYTES = 1 << 18
"""Limit of a configuration file."""
_FILE = re.compile(r"rtpp_(\w+?)(?:_debug)?\.so")
_KINDS = {kind.module: kind for kind in ModuleKind}
_BUILT: dict[ModuleKind, ModuleSettings] = {
    settings.kind: settings for settings in (CdrSettings(), HepSettings(), DtmfSettings())
}
"""The settings of each module that is built, before its configuration is read."""
_MOST_WORDS = (1 << 32) - 1


def read_configuration(content: bytes) -> tuple[ModuleSettings, ...]:
    """Read the `modules` sections of a configuration file; all others are ignored.

    Raises ConfigError, which names the line.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"longer than {MAX_FILE_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"line {line}: not UTF-8") from error
    sections = [entry for entry in ucl.parse(text).entries if entry.key.lower() == "modules"]
    return tuple(_read_module(module) for section in sections for module in _section(section).entries)


def read_module_file(path: str) -> ModuleSettings:
    """Read the argument of `--dso`. Raises ConfigError."""
    kind = _kind_of_file(path)
    if kind is ModuleKind.ACCT_RTCP_HEP:
        raise ConfigError("this module needs a configuration; leave this out, and use --hep or --config")
    return _BUILT[kind]


def _kind_of_file(path: str) -> ModuleKind:
    name = path.rpartition("/")[2]
    found = _FILE.fullmatch(name)
    if found is None:
        raise ConfigError(f"{name!r} is no module, whose file is named rtpp_NAME.so; {_known()}")
    return _kind(found[1])


def _kind(name: str) -> ModuleKind:
    kind = _KINDS.get(name)
    if kind is None:
        raise ConfigError(f"unknown module {name!r}; {_known()}")
    if kind not in _BUILT:
        raise ConfigError(f"module {name} is not supported; leave it out to start without")
    return kind


def _known() -> str:
    return f"the modules are {', '.join(kind.module for kind in _BUILT)}"


def _section(entry: ucl.Entry) -> Section:
    if not isinstance(entry.value, Section):
        raise ConfigError(f"line {entry.line}: {entry.key}: a section in braces is expected")
    return entry.value


def _read_module(entry: ucl.Entry) -> ModuleSettings:
    """Read the section of one module, which is named by its file or, without one, by the name of the section."""
    section = _section(entry)
    names = [one.key.lower() for one in section.entries]
    for number, one in enumerate(section.entries):
        if names[number] in names[:number]:
            raise ConfigError(f"line {one.line}: {entry.key}: {one.key} is given twice")
    load = next((one for one in section.entries if one.key.lower() == "load"), None)
    at = entry if load is None else load
    try:
        kind = _kind(entry.key) if load is None else _kind_of_file(_text(load.value))
    except ConfigError as error:
        raise ConfigError(f"line {at.line}: {'' if load is None else f'{entry.key}: load: '}{error}") from error
    settings = _BUILT[kind]
    for one in section.entries:
        if one is not load:
            try:
                settings = _set(settings, one.key.lower(), one.value)
            except ConfigError as error:
                raise ConfigError(f"line {one.line}: {entry.key}: {one.key}: {error}") from error
    return settings


def _set(settings: ModuleSettings, key: str, value: Value) -> ModuleSettings:
    """Set what a key of a module's section says. Raises ConfigError."""
    match settings, key:
        case HepSettings(), "capt_host":
            return replace(settings, host=_text(value))
        case HepSettings(), "capt_port":
            return replace(settings, port=_number(value, 1, 65535))
        case HepSettings(), "capt_ptype":
            return replace(settings, transport=_transport(_text(value)))
        case HepSettings(), "capt_id":
            return replace(settings, capture_id=_number(value, 0, _MOST_WORDS))
    raise ConfigError(f"module {settings.kind.module} has no such key")


def _text(value: Value) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError("a text is expected")
    return value


def _number(value: Value, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ConfigError("a whole number is expected, without quotation marks")
    if not low <= value <= high:
        raise ConfigError(f"{value} is out of range: {low} to {high} is allowed")
    return value


def _transport(text: str) -> HepTransport:
    words = [one.value for one in HepTransport]
    if text not in words:
        raise ConfigError(f"{text!r} is not one of {', '.join(words)}")
    return HepTransport(text)
