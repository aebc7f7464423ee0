"""Reads modifiers, address and port of a `U` or `L` into a MediaDescription (protocol.md 2.3, 7.3, 7.4)."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rtpproxy.addr import Endpoint, parse_ipv4, parse_ipv6
from rtpproxy.control.messages import ErrorCode, printable, refuse
from rtpproxy.service.requests import MediaDescription
from rtpproxy.session.local import LocalAddress, LocalAddresses

_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_DOTTED = re.compile(rb"\.".join([_OCTET] * 4))
_PORT = re.compile(rb"[0-9]{1,18}")
_CODECS = re.compile(rb"[0-9,]+")
_NUMBER = re.compile(rb"[0-9]+")
MAX_PAYLOAD_TYPE = 127
_MILLISECONDS = re.compile(rb"-?[0-9]+")
_PLAIN_ADDRESS = re.compile(rb"[0-9.]+")
_BRACKETED = re.compile(rb"\[([^\]]*)\]")
_IPV6_LETTERS = re.compile(rb"[0-9a-fA-F:.]+")
_LABEL = re.compile(rb"\{([^}]+)\}")
_MOST_DIGITS = 9
MAX_DIRECTIONS = 2
"""Letters `e` and `i` in one command: towards the caller, then towards the callee."""
MAX_PACKET_MS = 999
_NULL_HOSTS = ("0.0.0.0", "::")


@dataclass(slots=True)
class _Modifiers:
    """Collects what the modifiers read so far say; of two that contradict, the later one wins."""

    locals: LocalAddresses
    is_asymmetric: bool | None = None
    is_ipv6: bool = False
    is_weak: bool = False
    is_new_port: bool = False
    codecs: tuple[int, ...] | None = None
    packet_ms: int = 0
    local: LocalAddress | None = None
    directions: tuple[LocalAddress, ...] = ()


def read_media(modifiers: bytes, address: bytes, port: bytes, local_addresses: LocalAddresses) -> MediaDescription:
    """Read modifiers, address and port of a `U` or `L`. Raises CommandError."""
    found = _Modifiers(local_addresses)
    position, end = 0, len(modifiers)
    while position < end:
        read = _MODIFIERS.get(modifiers[position])
        if read is None:
            refuse(ErrorCode.UPDATE_MODIFIER, f"unknown modifier {printable(modifiers[position : position + 1])}")
        position = read(found, modifiers, position + 1)
    local = found.local
    if local is None and not found.directions and found.is_ipv6 != local_addresses.default.is_ipv6:
        local = local_addresses.of_family(found.is_ipv6)
        if local is None:
            refuse(ErrorCode.FAMILY, f"the relay has no IPv{6 if found.is_ipv6 else 4} address")
    remote = _read_remote(address, port, found.is_ipv6)
    is_null = remote is not None and remote.host in _NULL_HOSTS
    return MediaDescription(
        None if is_null else remote,
        found.is_weak,
        found.is_asymmetric,
        found.is_new_port,
        local,
        found.directions,
        found.packet_ms,
        found.codecs,
        is_null,
    )


def read_codecs(text: bytes) -> tuple[int, ...]:
    """Read payload types, with commas between them, up to the first word that is no number (protocol.md 2.5).

    Numbers that are no payload types are left out.
    """
    found: dict[int, None] = {}
    for word in text.split(b","):
        if word and not _NUMBER.fullmatch(word):
            break
        if word and (number := int(word[-_MOST_DIGITS:])) <= MAX_PAYLOAD_TYPE and not word[:-_MOST_DIGITS].strip(b"0"):
            found[number] = None
    return tuple(found)


def _read_remote(address: bytes, port: bytes, is_ipv6: bool) -> Endpoint | None:
    """Read the signalled endpoint; None for an address that is ignored for its length (protocol.md 2.3)."""
    if not (2 <= len(address) <= 45 if is_ipv6 else 7 <= len(address) <= 15):
        return None
    # latin-1 decodes any byte; what is not an address is refused below.
    text = address.decode("latin-1")
    is_usual = not is_ipv6 and _DOTTED.fullmatch(address)
    host = text if is_usual else parse_ipv6(text) if is_ipv6 else parse_ipv4(text)
    if host is None or not _PORT.fullmatch(port):
        family = 6 if is_ipv6 else 4
        refuse(ErrorCode.REMOTE_ADDRESS, f"{printable(address + b' ' + port)} is no IPv{family} address and port")
    return Endpoint(host, int(port) & 0xFFFF)


# Each function reads one modifier, whose letter ends just before `start`, and returns where the next one begins.


def _read_asymmetric(found: _Modifiers, text: bytes, start: int) -> int:
    found.is_asymmetric = True
    return start


def _read_symmetric(found: _Modifiers, text: bytes, start: int) -> int:
    found.is_asymmetric = False
    return start


def _read_weak(found: _Modifiers, text: bytes, start: int) -> int:
    found.is_weak = True
    return start


def _read_ipv6(found: _Modifiers, text: bytes, start: int) -> int:
    found.is_ipv6 = True
    return start


def _read_new_port(found: _Modifiers, text: bytes, start: int) -> int:
    found.is_new_port = True
    return start


def _read_external(found: _Modifiers, text: bytes, start: int) -> int:
    if not found.locals.is_bridging or len(found.directions) == MAX_DIRECTIONS:
        refuse(ErrorCode.EXTERNAL_DIRECTION, _no_direction(found))
    found.directions += (found.locals.external,)
    return start


def _read_internal(found: _Modifiers, text: bytes, start: int) -> int:
    if not found.locals.is_bridging or len(found.directions) == MAX_DIRECTIONS:
        refuse(ErrorCode.INTERNAL_DIRECTION, _no_direction(found))
    found.directions += (found.locals.default,)
    return start


def _no_direction(found: _Modifiers) -> str:
    if found.locals.is_bridging:
        return f"more than {MAX_DIRECTIONS} letters e and i"
    return "e and i are for bridge mode"


def _read_codecs(found: _Modifiers, text: bytes, start: int) -> int:
    codecs = _CODECS.match(text, start)
    if codecs is None or found.codecs is not None:
        refuse(ErrorCode.CODEC_LIST, "c without a list of codecs, or twice")
    found.codecs = read_codecs(codecs[0])
    return codecs.end()


def _read_packet_length(found: _Modifiers, text: bytes, start: int) -> int:
    length = _MILLISECONDS.match(text, start)
    if length is None or not 0 < int(length[0][:9]) <= MAX_PACKET_MS:
        refuse(ErrorCode.PACKET_LENGTH, f"z without a packet length from 1 to {MAX_PACKET_MS} ms")
    found.packet_ms = int(length[0])
    return length.end()


def _read_local(found: _Modifiers, text: bytes, start: int) -> int:
    label = _LABEL.match(text, start)
    if label is not None:
        found.local = found.locals.labelled(label[1].decode("latin-1"))
        if found.local is None:
            refuse(ErrorCode.LOCAL_ADDRESS_UNKNOWN, f"no listen address has the label {printable(label[1])}")
        return label.end()
    host, end = _read_host(text, start, ErrorCode.LOCAL_ADDRESS, ErrorCode.LOCAL_ADDRESS_UNKNOWN)
    found.local = found.locals.at(host)
    if found.local is None:
        refuse(ErrorCode.LOCAL_ADDRESS_UNKNOWN, f"l: the relay has no address of the family of {host}")
    return end


def _read_routed(found: _Modifiers, text: bytes, start: int) -> int:
    bracketed = _BRACKETED.match(text, start)
    if bracketed is not None and not _IPV6_LETTERS.fullmatch(bracketed[1]):
        refuse(ErrorCode.ROUTED_ADDRESS, f"r: {printable(bracketed[0])} is no address")
    host, end = _read_host(text, start, ErrorCode.ROUTED_ADDRESS, ErrorCode.ROUTED_ADDRESS_UNKNOWN)
    found.local = found.locals.towards(host)
    if found.local is None:
        refuse(ErrorCode.ROUTED_ADDRESS_UNKNOWN, f"r: this host has no route to {host}")
    return end


def _read_host(text: bytes, start: int, malformed: ErrorCode, unknown: ErrorCode) -> tuple[str, int]:
    """Read a plain IPv4 or bracketed IPv6 address: its canonical form, and where it ends in the text."""
    found = _PLAIN_ADDRESS.match(text, start) or _BRACKETED.match(text, start)
    if found is None:
        refuse(malformed, f"{printable(text[start - 1 : start])} without an address")
    is_bracketed = found.lastindex is not None
    written = found[found.lastindex or 0].decode("latin-1")
    host = parse_ipv6(written) if is_bracketed else parse_ipv4(written)
    if host is None:
        refuse(unknown, f"{printable(found[0])} is no numeric address")
    return host, found.end()


_MODIFIERS: dict[int, Callable[[_Modifiers, bytes, int], int]] = {
    ord(letter): read
    for letters, read in (
        ("aA", _read_asymmetric),
        ("sS", _read_symmetric),
        ("wW", _read_weak),
        ("6", _read_ipv6),
        ("eE", _read_external),
        ("iI", _read_internal),
        ("cC", _read_codecs),
        ("zZ", _read_packet_length),
        ("lL", _read_local),
        ("rR", _read_routed),
        ("nN", _read_new_port),
    )
    for letter in letters
}
