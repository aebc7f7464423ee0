"""Reads values of options. Each function raises ValueError with a message for whoever typed the value."""

import ipaddress
from collections.abc import Callable
from typing import Any

import click

from generator.settings import Flood, Hold, Rebinding


class Value(click.ParamType[Any]):
    """An option that a function reads, whose ValueError is the message."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def read_address(text: str) -> str:
    """Read an address, and write it as everywhere; empty for none."""
    return str(ipaddress.ip_address(text)) if text else ""


ADDRESS = Value("address", read_address)


def read_tos(text: str) -> tuple[int | None, int | None]:
    """Read `VALUE` or `IPV4/IPV6`, each a number or `any`."""
    parts = text.split("/")
    if len(parts) > 2:
        raise ValueError(f"{text!r}: give VALUE, or IPV4/IPV6")
    values = [None if part == "any" else int(part, 0) for part in parts]
    if any(value is not None and not 0 <= value <= 255 for value in values):
        raise ValueError(f"{text!r}: values are 0 to 255, or any")
    return values[0], values[-1]


def read_ttl(text: str) -> int | None:
    if text == "any":
        return None
    if not 1 <= int(text) <= 255:
        raise ValueError(f"{text!r}: 1 to 255, or any")
    return int(text)


def read_rebinding(text: str) -> Rebinding:
    """Read `SECONDS`, `SIDE:SECONDS` or `SIDE:WHAT:SECONDS`."""
    *words, seconds = text.split(":")
    side = words[0] if words else "caller"
    what = words[1] if len(words) > 1 else "port"
    if side not in ("caller", "callee") or what not in ("port", "address") or len(words) > 2:
        raise ValueError(f"{text!r}: give caller or callee, port or address, seconds, as in caller:port:5")
    return Rebinding(_seconds(seconds), side, what == "address")


def read_hold(text: str) -> Hold:
    """Read `AT:FOR`."""
    at, colon, length = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r}: give when and how long, in seconds, as in 5:3")
    return Hold(_seconds(at), _seconds(length))


def read_flood(text: str) -> Flood:
    """Read `RATE:AT:FOR`."""
    parts = text.split(":")
    if len(parts) != 3 or float(parts[0]) <= 0:
        raise ValueError(f"{text!r}: give packets a second, when and how long in seconds, as in 50000:5:2")
    return Flood(float(parts[0]), _seconds(parts[1]), _seconds(parts[2]))


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e6:
        raise ValueError(f"{text!r} is no time in seconds")
    return seconds
