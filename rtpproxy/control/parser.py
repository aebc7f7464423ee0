"""Parses texts into commands. Only this file and `modifiers` know command letters and modifiers.

The checks follow the order of protocol.md 3.4, so that a text with several faults gets the same error code as from the
C RTPproxy: tokens, letter, number of arguments, whether modifiers and then sub-commands are allowed, the command's own
arguments, and last the sub-commands. Limits: protocol.md 1.5; commands: 2.1 to 2.6.
"""

import re
from collections.abc import Callable

from rtpproxy.addr import Endpoint, is_ipv6, parse_ipv4, parse_ipv6
from rtpproxy.control.messages import (
    Answer,
    Command,
    CommandError,
    DeleteAll,
    ErrorCode,
    FeatureProbe,
    GetStats,
    Info,
    LookupCommand,
    ModuleCommand,
    QueryCommand,
    Subcommand,
    Uncopyable,
    Unplayable,
    UpdateCommand,
    Version,
    printable,
    refuse,
)
from rtpproxy.control.modifiers import read_codecs, read_media
from rtpproxy.control.modules import Modules, NoModules
from rtpproxy.service.notification import decode_tag
from rtpproxy.service.requests import (
    CopyTo,
    Delete,
    DropReference,
    Feed,
    Lookup,
    NotifyArguments,
    Play,
    Query,
    Record,
    RecordAs,
    SetTimeout,
    SetTos,
    StopPlaying,
    StopRecording,
    Update,
)
from rtpproxy.session.local import LocalAddresses

MAX_TOKENS = 23
"""Most tokens in the main command, its letter included, and in each sub-command."""
MAX_SUBCOMMANDS = 15
SUBCOMMAND_MARK = b"&&"
MAX_COUNTERS = 11
"""Most names in one `Q`."""

_TOKEN = re.compile(rb"[^ \t\r\n]+")
_PLAY_COUNT = re.compile(rb"[-+]?[0-9]+")
_MOST_PASSES, _COUNT_DIGITS = 1 << 30, 10
"""Prompts are played no more often than this: for years."""
_PORT = re.compile(r"[0-9]{1,9}")
_COPY_PREFIX = b"udp:"
_SETTING = re.compile(rb"(ttl|tos)=([0-9]{1,9})")
_MODULE = re.compile(rb"[mM]([0-9]{1,9}):([0-9]{1,9})")

Tokens = list[bytes]


class Parser:
    """Reads commands. Knows the relay's local addresses and modules, because commands may name one."""

    def __init__(self, local_addresses: LocalAddresses, modules: Modules | None = None) -> None:
        self._locals = local_addresses
        self._modules = modules or NoModules()

    def parse(self, text: bytes) -> Command:
        """Read the command of one datagram, line or connection, cookie removed.

        Raises CommandError, and nothing else, for any text that is not an acceptable command.
        """
        tokens, subcommands = _split(text)
        read = _COMMANDS.get(tokens[0][0])
        if read is None:
            refuse(ErrorCode.UNKNOWN_COMMAND, f"unknown command {printable(tokens[0][:1])}")
        command = read(tokens, subcommands, self._locals)
        if subcommands and isinstance(command, UpdateCommand | LookupCommand | QueryCommand):
            self._check_modules(command.subcommands)
        return command

    def _check_modules(self, subcommands: tuple[Subcommand, ...]) -> None:
        for one in subcommands:
            if isinstance(one, ModuleCommand) and not self._modules.has(one.module, one.instance):
                refuse(ErrorCode.SUBCOMMAND, f"no module {one.module}:{one.instance} runs")


def is_verbose_query(query: QueryCommand) -> bool:
    """Tell whether a `Q` asks for names beside the values.

    Raises CommandError for any modifier but `v`. Not part of `parse`, because the session is looked up first.
    """
    if query.modifiers.lower().strip(b"v"):
        refuse(ErrorCode.QUERY_MODIFIER, "Q has no modifier but v")
    return bool(query.modifiers)


def _split(text: bytes) -> tuple[Tokens, list[Tokens]]:
    """Split a text into the tokens of the main command, at least one, and those of its sub-commands."""
    if b"\0" in text:
        refuse(ErrorCode.MALFORMED, "a zero byte")
    # bytes.split is faster, but also splits at vertical tab and form feed.
    tokens = _TOKEN.findall(text) if b"\v" in text or b"\f" in text else text.split()
    subcommands: list[Tokens] = []
    if SUBCOMMAND_MARK in tokens:
        tokens, *subcommands = _cut(tokens)
    if not 0 < len(tokens) <= MAX_TOKENS:
        refuse(ErrorCode.MALFORMED, f"more than {MAX_TOKENS} words" if tokens else "empty")
    return tokens, subcommands


def _cut(tokens: Tokens) -> list[Tokens]:
    """Cut tokens into main command and sub-commands, within the limits of their number and size."""
    commands: list[Tokens] = [[]]
    for token in tokens:
        if token == SUBCOMMAND_MARK:
            commands.append([])
        else:
            commands[-1].append(token)
    is_each_in_limits = all(0 < len(command) <= MAX_TOKENS for command in commands)
    if not is_each_in_limits or len(commands) - 1 > MAX_SUBCOMMANDS:
        reason = f"a misplaced &&, more than {MAX_SUBCOMMANDS} sub-commands, or more than {MAX_TOKENS} words in one"
        refuse(ErrorCode.MALFORMED, reason)
    return commands


def _check_shape(tokens: Tokens, least: int, most: int) -> None:
    if not least <= len(tokens) <= most:
        allowed = str(least - 1) if least == most else f"{least - 1} to {most - 1}"
        refuse(ErrorCode.ARGUMENT_COUNT, f"arguments: {len(tokens) - 1}; expected: {allowed}")


def _check_alone(subcommands: list[Tokens]) -> None:
    if subcommands:
        refuse(ErrorCode.SUBCOMMAND, "no sub-command may follow")


def _check_plain(modifiers: bytes, subcommands: list[Tokens]) -> None:
    if modifiers:
        refuse(ErrorCode.MODIFIER_NOT_ALLOWED, "the command has no modifiers")
    _check_alone(subcommands)


def _at(tokens: Tokens, index: int) -> bytes | None:
    """Return an argument that may be absent."""
    return tokens[index] if len(tokens) > index else None


def _read_version(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    modifiers = tokens[0][1:]
    if modifiers[:1] in (b"f", b"F"):
        _check_shape(tokens, 2, 2)
        _check_plain(modifiers[1:], subcommands)
        return FeatureProbe(tokens[1])
    _check_shape(tokens, 1, 1)
    _check_plain(modifiers, subcommands)
    return Version()


def _read_delete_all(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 1, 1)
    _check_plain(tokens[0][1:], subcommands)
    return DeleteAll()


def _read_info(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 1, 1)
    _check_alone(subcommands)
    modifiers = tokens[0][1:].lower()
    if modifiers.strip(b"blt"):
        refuse(ErrorCode.INFO_MODIFIER, "I has no modifiers but b, l and t")
    return Info(with_load=b"l" in modifiers, with_tiers=b"t" in modifiers)


def _read_get_stats(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_alone(subcommands)
    modifiers = tokens[0][1:]
    if modifiers.lower().strip(b"v"):
        refuse(ErrorCode.STATS_MODIFIER, "G has no modifier but v")
    return GetStats(tuple(tokens[1:]), bool(modifiers))


def _read_delete(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 3, 4)
    _check_alone(subcommands)
    return Delete(tokens[1], tokens[2], _at(tokens, 3), _read_weak(tokens[0][1:]))


def _read_weak(modifiers: bytes) -> bool:
    if modifiers.lower().strip(b"w"):
        refuse(ErrorCode.DELETE_MODIFIER, "D has no modifier but w")
    return bool(modifiers)


def _read_query(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 3, 4 + MAX_COUNTERS)
    read = tuple(_read_setting_or_drop(one) for one in subcommands)
    return QueryCommand(Query(tokens[1], tokens[2], _at(tokens, 3)), tokens[0][1:], tuple(tokens[4:]), read)


def _read_update(tokens: Tokens, subcommands: list[Tokens], local_addresses: LocalAddresses) -> Command:
    count = len(tokens)
    _check_shape(tokens, 5, 8)
    notify = None
    if count >= 7:  # seven tokens: notification without a to-tag
        notify = NotifyArguments(tokens[-2], _decode_tag(tokens[-1]))
    media = read_media(tokens[0][1:], tokens[2], tokens[3], local_addresses)
    to_tag = tokens[5] if count in (6, 8) else None
    read: tuple[Subcommand, ...] = ()
    if subcommands:
        read = tuple(_read_under_update(one, to_tag is not None, local_addresses) for one in subcommands)
    return UpdateCommand(Update(tokens[1], tokens[4], to_tag, media, notify), read)


def _decode_tag(text: bytes) -> bytes:
    tag = decode_tag(text)
    if tag is None:
        refuse(ErrorCode.NOTIFY_TAG, "a % without two hexadecimal digits in the notification tag")
    return tag


def _read_lookup(tokens: Tokens, subcommands: list[Tokens], local_addresses: LocalAddresses) -> Command:
    _check_shape(tokens, 5, 6)
    media = read_media(tokens[0][1:], tokens[2], tokens[3], local_addresses)
    read = tuple(_read_setting_or_drop(one) for one in subcommands)
    return LookupCommand(Lookup(tokens[1], tokens[4], _at(tokens, 5), media), read)


def _read_play(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 5, 6)
    _check_alone(subcommands)
    count = tokens[0][1:]
    if count and not _PLAY_COUNT.fullmatch(count):
        refuse(ErrorCode.PLAY_COUNT, "the repeat count is no number")
    session = Query(tokens[1], tokens[4], _at(tokens, 5))
    digits = count.lstrip(b"+-0")
    if count and not digits:
        return StopPlaying(session)
    passes = None if count.startswith(b"-") else min(int(digits[:_COUNT_DIGITS] or 1), _MOST_PASSES)
    if tokens[3] == b"session":
        return Play(session, tokens[2], None, passes)
    payload_types = read_codecs(tokens[3])
    if not payload_types:
        return Unplayable(session, f"{printable(tokens[3])} is no list of payload types")
    return Play(session, tokens[2], payload_types, passes)


def _read_stop_playing(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 3, 4)
    _check_plain(tokens[0][1:], subcommands)
    return StopPlaying(Query(tokens[1], tokens[2], _at(tokens, 3)))


def _read_copy(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 4, 5)
    _check_alone(subcommands)
    modifiers = tokens[0][1:].lower()
    if modifiers.strip(b"sp"):
        refuse(ErrorCode.RECORD_MODIFIER, "C has no modifiers but s and p")
    session, wants_port = Query(tokens[1], tokens[3], _at(tokens, 4)), b"p" in modifiers
    if not tokens[2].startswith(_COPY_PREFIX):
        if wants_port:
            return Uncopyable(session, "p is for copies to udp:HOST:PORT")
        return RecordAs(session, tokens[2], b"s" in modifiers)
    to = _read_endpoint(tokens[2].removeprefix(_COPY_PREFIX))
    if to is None:
        reason = f"{printable(tokens[2])} is not udp:HOST:PORT with a numeric host and a port from 1 to 65535"
        return Uncopyable(session, reason)
    return CopyTo(session, to, wants_port)


def _read_endpoint(text: bytes) -> Endpoint | None:
    """Read HOST:PORT, split at the last colon; IPv6 may have brackets. None for anything else, names included.

    Unlike the C RTPproxy, because looking a name up would hold up all calls.
    """
    host, _, port = text.decode("latin-1").rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    numeric = parse_ipv6(host) if is_ipv6(host) else parse_ipv4(host)
    if numeric is None or not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        return None
    return Endpoint(numeric, int(port))


def _read_record(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 3, 4)
    _check_alone(subcommands)
    modifiers = tokens[0][1:].lower().lstrip(b"s")
    if modifiers:
        code = ErrorCode.RECORD_MODIFIERS if modifiers[:1] == b"p" else ErrorCode.RECORD_MODIFIER
        refuse(code, "R has no modifier but s")
    return Record(tokens[1], tokens[2], _at(tokens, 3), bool(tokens[0][1:]))


def _read_stop_record(tokens: Tokens, subcommands: list[Tokens], _: LocalAddresses) -> Command:
    _check_shape(tokens, 3, 4)
    _check_alone(subcommands)
    modifiers = tokens[0][1:].lower()
    if modifiers and modifiers != b"a":
        code = ErrorCode.RECORD_MODIFIERS if modifiers[:1] == b"a" else ErrorCode.RECORD_MODIFIER
        refuse(code, "N has no modifier but a")
    return StopRecording(tokens[1], tokens[2], _at(tokens, 3), bool(modifiers))


_COMMANDS: dict[int, Callable[[Tokens, list[Tokens], LocalAddresses], Command]] = {
    ord(letter): read
    for letters, read in (
        ("uU", _read_update),
        ("lL", _read_lookup),
        ("dD", _read_delete),
        ("qQ", _read_query),
        ("vV", _read_version),
        ("iI", _read_info),
        ("gG", _read_get_stats),
        ("xX", _read_delete_all),
        ("pP", _read_play),
        ("sS", _read_stop_playing),
        ("cC", _read_copy),
        ("rR", _read_record),
        ("nN", _read_stop_record),
    )
    for letter in letters
}


# Sub-commands. Any fault in one gets the code SUBCOMMAND.


def _read_under_update(tokens: Tokens, has_to_tag: bool, local_addresses: LocalAddresses) -> Subcommand:
    letter = tokens[0][:1].upper()
    if letter == b"L" and has_to_tag and len(tokens) == 3:
        try:
            return Answer(read_media(tokens[0][1:], tokens[1], tokens[2], local_addresses))
        except CommandError as error:
            refuse(ErrorCode.SUBCOMMAND, f"sub-command L: {error.reason}")
    if tokens[0].upper() == b"C" and has_to_tag and len(tokens) == 4:
        return Feed(Query(tokens[1], tokens[2], tokens[3]))
    return _read_setting_or_drop(tokens)


def _read_setting_or_drop(tokens: Tokens) -> Subcommand:
    letter, modifiers = tokens[0][:1].upper(), tokens[0][1:].lower()
    if letter == b"D" and len(tokens) == 1 and not modifiers.strip(b"w"):
        return DropReference(bool(modifiers))
    if letter == b"S" and len(tokens) == 2 and len(modifiers) <= 1:
        setting = _SETTING.fullmatch(tokens[1])
        if setting is not None and int(setting[2]) > 0:
            make = SetTimeout if setting[1] == b"ttl" else SetTos
            return make(int(setting[2]), modifiers == b"r")
    module = _MODULE.fullmatch(tokens[0])
    if module is not None:
        return ModuleCommand(int(module[1]), int(module[2]), tuple(tokens[1:]))
    refuse(ErrorCode.SUBCOMMAND, f"no sub-command {printable(b' '.join(tokens))} after this command")
