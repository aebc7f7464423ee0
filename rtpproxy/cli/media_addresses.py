"""Reads the addresses for media ports from `-l`, `-6` and `-A` (protocol.md 7.2, 7.3).

Nothing here uses the network: host names are looked up by a callable that the caller passes.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rtpproxy.addr import parse_ipv4, parse_ipv6
from rtpproxy.config import ListenAddress
from rtpproxy.errors import ConfigError

Resolve = Callable[[str, bool | None], str]
"""Takes a host name, and whether an IPv6 address is wanted (None: either); gives a numeric address.

Raises ConfigError with the rest of a sentence that begins "not an address,"."""

_WORD = re.compile(r"[!-~]+")
"""Matches what a reply can hold: printable ASCII without a blank."""
_LABEL = re.compile(r"[!-|~]+")
"""Matches what the modifier `l{label}` can hold: a word without a closing brace."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One `-l` or `-6` as it was given."""

    text: str
    is_ipv6: bool = False

    def __str__(self) -> str:
        return f"{'-6' if self.is_ipv6 else '-l'} {self.text}"


@dataclass(frozen=True, slots=True)
class Listening:
    """The addresses that the options name. In bridge mode the first two are the internal and the external one."""

    addresses: tuple[ListenAddress, ...] = (ListenAddress(),)
    is_bridging: bool = False


def read_listening(asked: Sequence[Asked], advertised: str | None, resolve: Resolve) -> Listening:
    """Read the addresses, in the order of the options; `advertised` is the text of `-A`.

    Raises ConfigError with the option as it was given and what is wrong with it.
    """
    names = _read_advertised(advertised)
    bridge = _options_of_bridge(asked)
    ends = _read_bridge(bridge, names, resolve) if bridge else ()
    others = [one for one in asked if not any(one is of_bridge for of_bridge in bridge)]
    addresses = tuple(_read_extended(one, resolve) for one in others)
    _check_labels(others, addresses, is_first_free=not bridge)
    return Listening((*ends, *addresses) or (ListenAddress(),), is_bridging=bool(bridge))


def _read_advertised(text: str | None) -> list[str]:
    """Split `-A` into its one or two names; none without `-A`."""
    if text is None:
        return []
    names = text.split("/")
    if len(names) > 2 or not all(map(_WORD.fullmatch, names)):
        raise ConfigError(f"-A {text}: a name, or two as NAME/NAME in bridge mode; no part may be empty or have blanks")
    return names


def _options_of_bridge(asked: Sequence[Asked]) -> list[Asked]:
    """Return the options that name the two ends of bridge mode, at most one of each family; none outside it.

    They are `A/B` in the first of a family, or `A` in the first of one and `/B` in the first of the other.
    """
    found = (next((one for one in asked if one.is_ipv6 is is_ipv6), None) for is_ipv6 in (False, True))
    firsts = [one for one in found if one is not None]
    cut = [one for one in firsts if "/" in one.text]
    is_whole = len(cut) == 1 and all(cut[0].text.split("/"))
    return cut if is_whole or not cut else firsts


def _read_bridge(firsts: list[Asked], names: list[str], resolve: Resolve) -> tuple[ListenAddress, ListenAddress]:
    """Read the internal and the external address of bridge mode."""
    if len(names) == 1:
        raise ConfigError(f"-A {names[0]}: bridge mode needs two advertised names, as NAME/NAME")
    halves: list[list[ListenAddress]] = [[], []]
    for one in firsts:
        parts = one.text.split("/")
        if len(parts) > 2:
            raise ConfigError(f"{one}: more than one / in it")
        for half, part in zip(halves, parts, strict=False):
            if part:
                half.append(_read_half(one, part, resolve))
    if [len(half) for half in halves] != [1, 1]:
        given = " ".join(map(str, firsts))
        raise ConfigError(f"{given}: bridge mode needs one internal and one external address, as A/B")
    addresses = (halves[0][0], halves[1][0])
    if names:
        pairs = zip(addresses, names, strict=True)
        addresses = tuple(replace(address, advertised=name) for address, name in pairs)  # type: ignore[assignment]
    return addresses


def _read_half(one: Asked, text: str, resolve: Resolve) -> ListenAddress:
    if "@" in text or "=" in text:
        raise ConfigError(f"{one}: the ends of a bridge have no label, and -A says what is advertised")
    return ListenAddress(_read_host(one, text, resolve), one.is_ipv6)


def _read_extended(one: Asked, resolve: Resolve) -> ListenAddress:
    """Read `[LABEL@]ADDR[=ADVERTISED]`."""
    label, at, rest = one.text.rpartition("@")
    host, equals, advertised = rest.partition("=")
    if "/" in host:
        raise ConfigError(f"{one}: A/B must be the first -l or the first -6")
    if at and not _LABEL.fullmatch(label):
        raise ConfigError(f"{one}: the label {label!r} is empty or has blanks or braces in it")
    if equals and not _WORD.fullmatch(advertised):
        raise ConfigError(f"{one}: the advertised name {advertised!r} is empty or has blanks in it")
    return ListenAddress(_read_host(one, host, resolve), one.is_ipv6, label, advertised)


def _check_labels(asked: Sequence[Asked], addresses: Sequence[ListenAddress], *, is_first_free: bool) -> None:
    """Raise ConfigError unless every address has a label, the first of all perhaps not, and all labels differ."""
    seen: set[str] = set()
    for number, (one, address) in enumerate(zip(asked, addresses, strict=True)):
        if not address.label and not (is_first_free and number == 0):
            raise ConfigError(f"{one}: address label is missing; every address but the first is LABEL@ADDR")
        if address.label in seen:
            raise ConfigError(f"{one}: the label {address.label!r} is given twice")
        seen |= {address.label} - {""}


def _read_host(one: Asked, text: str, resolve: Resolve) -> str:
    """Read an address or name into canonical numeric form; empty stands for all addresses of the family."""
    if not text:
        raise ConfigError(f"{one}: the address is empty; write * for all of the host's")
    if text == "*":
        return ""
    ipv4, ipv6 = parse_ipv4(text), parse_ipv6(text)
    if one.is_ipv6 and ipv4 is not None:
        raise ConfigError(f"{one}: an IPv4 address; give it with -l")
    if not one.is_ipv6 and ipv6 is not None:
        raise ConfigError(f"{one}: an IPv6 address; give it with -6")
    host = ipv6 if one.is_ipv6 else ipv4
    if host is None:
        host = _look_up(one, text, resolve)
    number = ipaddress.ip_address(host)
    if number.is_multicast:
        raise ConfigError(f"{one}: a multicast address")
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped:
        raise ConfigError(f"{one}: an IPv4 address; give it as {number.ipv4_mapped} with -l")
    return "" if number.is_unspecified else host


def _look_up(one: Asked, text: str, resolve: Resolve) -> str:
    family = "IPv6" if one.is_ipv6 else "IPv4"
    try:
        found = resolve(text, one.is_ipv6)
    except ConfigError as error:
        raise ConfigError(f"{one}: not an {family} address, {error}") from error
    host = parse_ipv6(found) if one.is_ipv6 else parse_ipv4(found)
    if host is None:
        raise ConfigError(f"{one}: {found} is valid on one link only, and cannot be used")
    return host
