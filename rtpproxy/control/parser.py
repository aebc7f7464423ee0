"""Text to commands: the only file that knows command letters and modifiers.

The checks are made in the order of protocol.md 3.4, so that a text with several faults is refused for the same one
as everywhere: tokens, letter, number of arguments, modifiers allowed at all, sub-commands allowed, then what is
peculiar to the command. Limits: protocol.md 1.5; commands: 2.1 to 2.5.
"""

import re
from collections.abc import Callable
from typing import NoReturn

from rtpproxy.addr import Endpoint, parse_ipv4
from rtpproxy.control.messages import (
    Command,
    CommandError,
    Delete,
    DeleteAll,
    ErrorCode,
    FeatureProbe,
    Info,
    Lookup,
    MediaDescription,
    Query,
    Update,
    Version,
)

MAX_TOKENS = 23
"""In the main command, its letter included, and likewise in each sub-command."""
MAX_SUBCOMMANDS = 15
SUBCOMMAND_MARK = b"&&"
MAX_COUNTERS = 11
"""Names that one `Q` may ask for."""

_TOKEN = re.compile(rb"[^ \t\r\n]+")
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_DOTTED = re.compile(rb"\.".join([_OCTET] * 4))
_ESCAPED = re.compile(rb"(?:[^%]|%[0-9a-fA-F]{2})*", re.DOTALL)
_PORT = re.compile(rb"[0-9]{1,18}")
_CODECS = re.compile(rb"[0-9,]+")
_PLAIN_ADDRESS = re.compile(rb"[0-9.]+")
_BRACKETED_ADDRESS = re.compile(rb"\[[0-9a-f:.]+\]")
_LABEL = re.compile(rb"\{[^}]+\}")


def parse(text: bytes) -> Command:
    """The command in one datagram, line or connection, cookie removed.

    Raises CommandError, and nothing else, for a text that is not an acceptable command.
    """
    tokens, has_subcommands = _split(text)
    read = _COMMANDS.get(tokens[0][0])
    if read is None:
        _refuse(ErrorCode.UNKNOWN_COMMAND)
    return read(tokens, has_subcommands)


def is_verbose_query(query: Query) -> bool:
    """Whether a `Q` asks for names beside the values.

    Raises CommandError for any modifier but `v`. Apart from `parse`, because the session is looked up first.
    """
    if query.modifiers.lower().strip(b"v"):
        _refuse(ErrorCode.QUERY_MODIFIER)
    return bool(query.modifiers)


def _refuse(code: ErrorCode) -> NoReturn:
    raise CommandError(code)


def _split(text: bytes) -> tuple[list[bytes], bool]:
    """The tokens of the main command, at least one, and whether sub-commands follow it."""
    if b"\0" in text:
        _refuse(ErrorCode.MALFORMED)
    # bytes.split is the fast way, but it also takes vertical tab and form feed for blanks.
    tokens = _TOKEN.findall(text) if b"\v" in text or b"\f" in text else text.split()
    has_subcommands = SUBCOMMAND_MARK in tokens
    if has_subcommands:
        tokens = _check_subcommands(tokens)
    if not 0 < len(tokens) <= MAX_TOKENS:
        _refuse(ErrorCode.MALFORMED)
    return tokens, has_subcommands


def _check_subcommands(tokens: list[bytes]) -> list[bytes]:
    """The main command's tokens, once the number and size of the sub-commands are within limits."""
    commands: list[list[bytes]] = [[]]
    for token in tokens:
        if token == SUBCOMMAND_MARK:
            commands.append([])
        else:
            commands[-1].append(token)
    is_each_in_limits = all(0 < len(command) <= MAX_TOKENS for command in commands)
    if not is_each_in_limits or len(commands) - 1 > MAX_SUBCOMMANDS:
        _refuse(ErrorCode.MALFORMED)
    return commands[0]


def _check_shape(tokens: list[bytes], least: int, most: int) -> None:
    if not least <= len(tokens) <= most:
        _refuse(ErrorCode.ARGUMENT_COUNT)


def _check_plain(modifiers: bytes, has_subcommands: bool) -> None:
    if modifiers:
        _refuse(ErrorCode.MODIFIER_NOT_ALLOWED)
    if has_subcommands:
        _refuse(ErrorCode.SUBCOMMAND)


def _read_version(tokens: list[bytes], has_subcommands: bool) -> Command:
    modifiers = tokens[0][1:]
    if modifiers[:1] in (b"f", b"F"):
        _check_shape(tokens, 2, 2)
        _check_plain(modifiers[1:], has_subcommands)
        return FeatureProbe(tokens[1])
    _check_shape(tokens, 1, 1)
    _check_plain(modifiers, has_subcommands)
    return Version()


def _read_delete_all(tokens: list[bytes], has_subcommands: bool) -> Command:
    _check_shape(tokens, 1, 1)
    _check_plain(tokens[0][1:], has_subcommands)
    return DeleteAll()


def _read_info(tokens: list[bytes], has_subcommands: bool) -> Command:
    _check_shape(tokens, 1, 1)
    _check_plain(b"", has_subcommands)
    modifiers = tokens[0][1:].lower()
    if modifiers.strip(b"bl"):
        _refuse(ErrorCode.INFO_MODIFIER)
    return Info(with_load=b"l" in modifiers)


def _read_delete(tokens: list[bytes], has_subcommands: bool) -> Command:
    _check_shape(tokens, 3, 4)
    _check_plain(b"", has_subcommands)
    modifiers = tokens[0][1:]
    if modifiers.lower().strip(b"w"):
        _refuse(ErrorCode.DELETE_MODIFIER)
    return Delete(tokens[1], tokens[2], tokens[3] if len(tokens) == 4 else None, bool(modifiers))


def _read_query(tokens: list[bytes], has_subcommands: bool) -> Command:
    _check_shape(tokens, 3, 4 + MAX_COUNTERS)
    if has_subcommands:
        _refuse(ErrorCode.SUBCOMMAND)  # allowed, but none can be parsed yet
    to_tag = tokens[3] if len(tokens) > 3 else None
    return Query(tokens[1], tokens[2], to_tag, tokens[0][1:], tuple(tokens[4:]))


def _read_update(tokens: list[bytes], has_subcommands: bool) -> Command:
    count = len(tokens)
    _check_shape(tokens, 5, 8)
    has_notify = count >= 7  # seven tokens: notification without a to-tag
    if has_notify and not _ESCAPED.fullmatch(tokens[-1]):
        _refuse(ErrorCode.NOTIFY_TAG)
    media = _read_media(tokens[0], tokens[2], tokens[3])
    if has_subcommands:
        _refuse(ErrorCode.SUBCOMMAND)  # allowed, but none can be parsed yet
    to_tag = tokens[5] if count in (6, 8) else None
    return Update(tokens[1], tokens[4], to_tag, media, has_notify)


def _read_lookup(tokens: list[bytes], has_subcommands: bool) -> Command:
    _check_shape(tokens, 5, 6)
    media = _read_media(tokens[0], tokens[2], tokens[3])
    if has_subcommands:
        _refuse(ErrorCode.SUBCOMMAND)  # allowed, but none can be parsed yet
    return Lookup(tokens[1], tokens[4], tokens[5] if len(tokens) == 6 else None, media)


_COMMANDS: dict[int, Callable[[list[bytes], bool], Command]] = {
    ord(letter): read
    for letters, read in (
        ("uU", _read_update),
        ("lL", _read_lookup),
        ("dD", _read_delete),
        ("qQ", _read_query),
        ("vV", _read_version),
        ("iI", _read_info),
        ("xX", _read_delete_all),
    )
    for letter in letters
}


class _Modifiers:
    """What the modifiers of a `U` or `L` said so far; the later one wins."""

    __slots__ = ("has_codecs", "is_asymmetric", "is_ipv6", "is_weak", "local_host", "routed_host")

    def __init__(self) -> None:
        self.has_codecs = False
        self.is_asymmetric = False
        self.is_ipv6 = False
        self.is_weak = False
        self.local_host = ""
        self.routed_host = ""


_NO_MODIFIERS = _Modifiers()


def _read_modifiers(text: bytes) -> _Modifiers:
    found = _Modifiers()
    text = text.lower()
    position, end = 0, len(text)
    while position < end:
        read = _MODIFIERS.get(text[position])
        if read is None:
            _refuse(ErrorCode.UPDATE_MODIFIER)
        position = read(found, text, position + 1)
    return found


# Each reads one modifier whose letter ends just before `start`, and returns where the next one begins.


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


def _read_external(found: _Modifiers, text: bytes, start: int) -> int:
    _refuse(ErrorCode.EXTERNAL_DIRECTION)  # there is no bridge mode


def _read_internal(found: _Modifiers, text: bytes, start: int) -> int:
    _refuse(ErrorCode.INTERNAL_DIRECTION)  # there is no bridge mode


def _read_codecs(found: _Modifiers, text: bytes, start: int) -> int:
    """Checked and forgotten: only `P … session` would use the list."""
    codecs = _CODECS.match(text, start)
    if codecs is None or found.has_codecs:
        _refuse(ErrorCode.CODEC_LIST)
    found.has_codecs = True
    return codecs.end()


def _read_local(found: _Modifiers, text: bytes, start: int) -> int:
    plain = _PLAIN_ADDRESS.match(text, start)
    if plain is None:
        is_well_formed = _BRACKETED_ADDRESS.match(text, start) or _LABEL.match(text, start)
        _refuse(ErrorCode.LOCAL_ADDRESS_UNKNOWN if is_well_formed else ErrorCode.LOCAL_ADDRESS)
    host = parse_ipv4(plain[0].decode("ascii"))
    if host is None:
        _refuse(ErrorCode.LOCAL_ADDRESS_UNKNOWN)
    found.local_host, found.routed_host = host, ""
    return plain.end()


def _read_routed(found: _Modifiers, text: bytes, start: int) -> int:
    plain = _PLAIN_ADDRESS.match(text, start)
    if plain is None:
        is_well_formed = _BRACKETED_ADDRESS.match(text, start)
        _refuse(ErrorCode.ROUTED_ADDRESS_UNKNOWN if is_well_formed else ErrorCode.ROUTED_ADDRESS)
    host = parse_ipv4(plain[0].decode("ascii"))
    if host is None:
        _refuse(ErrorCode.ROUTED_ADDRESS_UNKNOWN)
    found.local_host, found.routed_host = "", host
    return plain.end()


_MODIFIERS: dict[int, Callable[[_Modifiers, bytes, int], int]] = {
    ord("a"): _read_asymmetric,
    ord("s"): _read_symmetric,
    ord("w"): _read_weak,
    ord("6"): _read_ipv6,
    ord("e"): _read_external,
    ord("i"): _read_internal,
    ord("c"): _read_codecs,
    ord("l"): _read_local,
    ord("r"): _read_routed,
}


def _read_media(command: bytes, address: bytes, port: bytes) -> MediaDescription:
    modifiers = _read_modifiers(command[1:]) if len(command) > 1 else _NO_MODIFIERS
    if modifiers.is_ipv6:
        _refuse(ErrorCode.FAMILY)  # no local address is IPv6 yet
    remote = _read_remote(address, port)
    is_hold = remote is not None and remote.host == "0.0.0.0"
    return MediaDescription(
        None if is_hold else remote,
        is_hold,
        modifiers.is_weak,
        modifiers.is_asymmetric,
        modifiers.local_host,
        modifiers.routed_host,
    )


def _read_remote(address: bytes, port: bytes) -> Endpoint | None:
    """The signalled endpoint, or None for an address of a length that is not looked at (protocol.md 2.3)."""
    if not 7 <= len(address) <= 15:
        return None
    # latin-1 takes any byte; what is not an address is refused all the same.
    text = address.decode("latin-1")
    host = text if _DOTTED.fullmatch(address) else parse_ipv4(text)
    if host is None or not _PORT.fullmatch(port):
        _refuse(ErrorCode.REMOTE_ADDRESS)
    return Endpoint(host, int(port) & 0xFFFF)
