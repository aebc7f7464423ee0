"""Reads the arguments of options. Each reader turns text into a value, and raises ConfigError with what is wrong."""

import re
from collections.abc import Callable
from enum import Enum
from typing import TypeVar

from rtpproxy.addr import is_ipv6
from rtpproxy.config import HepSettings, HepTransport, OverloadLimits
from rtpproxy.errors import ConfigError
from rtpproxy.process.syslog import FACILITIES, LEVELS

_NUMBER = re.compile(r"[+-]?[0-9]+")
_LOADS = re.compile(r"(0?\.[0-9]{1,6})/(0?\.[0-9]{1,6})")
_HIGHEST_MODE = 0o7777
_OWNER_ACCESS = 0o600
_MOST_TEE_MB = 2048
_Member = TypeVar("_Member", bound=Enum)


def number_between(low: int, high: int) -> Callable[[str], int]:
    """Make a reader of decimal numbers from `low` to `high`; it refuses anything after the digits."""

    def read(text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise ConfigError("argument is invalid: not a whole number")
        # The length is checked first: Python refuses to read thousands of digits.
        if len(text) > 20 or not low <= int(text) <= high:
            raise ConfigError(f"argument is out of range: {low} to {high} is allowed")
        return int(text)

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Make a reader of one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ConfigError(f"not one of {', '.join(words)}")
        return text

    return read


def member_of(kind: type[_Member]) -> Callable[[str], _Member]:
    """Make a reader of the values of an enumeration."""
    read_word = one_of(*(member.value for member in kind))
    return lambda text: kind(read_word(text))


def read_level(text: str) -> str:
    """Read `LEVEL[:FACILITY]`, in any case and with or without `LOG_`, and return it in capitals without `LOG_`."""
    level, _, facility = text.upper().partition(":")
    facility = facility.removeprefix("LOG_")
    if level not in LEVELS:
        raise ConfigError(f"not a level; use one of {', '.join(LEVELS)}")
    if facility and facility not in FACILITIES:
        raise ConfigError(f"{facility} is not a syslog facility")
    return f"{level}:{facility}" if facility else level


def read_user(text: str) -> tuple[str, str]:
    """Read `USER[:GROUP]`; the group is empty when it is not given."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise ConfigError("USER or USER:GROUP is needed, without an empty part")
    return user, group


def read_mode(text: str) -> int:
    """Read permission bits in octal.

    The C RTPproxy reads a decimal number here (protocol.md 1.7). A number that makes sense in decimal only is refused,
    and the error says what to write instead, so that no mode changes its meaning unnoticed. A leading zero means octal.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise ConfigError("argument is invalid: not an octal number such as 0660")
    octal = int(text, 8) if not re.search("[89]", text) else None
    if text.startswith("0"):
        if octal is None or octal > _HIGHEST_MODE:
            raise ConfigError("argument is invalid: not an octal number up to 07777")
        return octal
    decimal = int(text)
    is_octal = octal is not None and octal <= _HIGHEST_MODE and octal & _OWNER_ACCESS == _OWNER_ACCESS
    if is_octal and octal is not None:
        return octal
    if decimal <= _HIGHEST_MODE:
        raise ConfigError(
            f"modes are octal here; the C RTPproxy reads decimal {decimal}, which is 0{decimal:o}: "
            f"write -w 0{decimal:o} to mean the same" + (f", or -w 0{text} for that mode" if octal is not None else "")
        )
    raise ConfigError("argument is out of range: 0 to 07777 is allowed")


def read_tee_memory(text: str) -> int:
    """Read a size in megabytes; the kernel wants a power of two."""
    size = number_between(1, _MOST_TEE_MB)(text)
    if size & (size - 1):
        raise ConfigError(f"{size} is not a power of two; use {1 << size.bit_length() - 1} or {1 << size.bit_length()}")
    return size


def read_overload(text: str) -> OverloadLimits:
    """Read `LOW/HIGH`, two loads between 0 and 1; the defaults where nothing is given."""
    if not text:
        return OverloadLimits()
    loads = _LOADS.fullmatch(text)
    low, high = map(float, loads.groups()) if loads else (0.0, 0.0)
    if not 0 < low < high:
        raise ConfigError("argument is invalid: write LOW/HIGH, two loads between 0 and 1, such as 0.85/0.90")
    return OverloadLimits(low, high)


def read_collector(text: str) -> HepSettings:
    """Read `[udp:|tcp:]HOST:PORT`; an IPv6 host has brackets. A name is not looked up."""
    prefix, colon, rest = text.partition(":")
    transport = HepTransport.UDP
    if colon and prefix in [member.value for member in HepTransport]:
        transport, text = HepTransport(prefix), rest
    host, _, port = text.rpartition(":")
    has_brackets = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if has_brackets else host
    if not bare or is_ipv6(bare) != has_brackets or "[" in bare or "]" in bare:
        raise ConfigError("not HOST:PORT; an IPv6 address needs brackets: [2001:db8::1]:9060")
    try:
        return HepSettings(bare, number_between(1, 65535)(port), transport)
    except ConfigError as error:
        raise ConfigError(f"port {port!r}: {error}") from error


def read_path(text: str) -> str:
    """Read the name of a file."""
    if not text:
        raise ConfigError("the name of the file is empty")
    return text
