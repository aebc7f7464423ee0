"""Reads configuration files in the syntax of libucl, as far as the configuration of modules uses it (protocol.md 12.6).

Sections in braces, and in them keys with a value behind `=`, `:` or a blank, each ended by a newline, `;` or `,`; bare
and quoted strings, numbers with suffixes, booleans, lists, text up to a word (`<<EOD`), and comments. A name between a
key and its brace is a section within that of the key (`site "www" { }`). Macros (`.include`) are refused; variables
(`$NAME`) stay as they are. Source: the README of libucl.
"""

import re
from dataclasses import dataclass
from typing import NoReturn, Union

from rtpproxy.errors import ConfigError

MAX_DEPTH = 32
"""Most sections and lists within each other."""

_SPACE = re.compile(r"[ \t\r\n]*")
_KEY = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_/.-]*")
_BARE = re.compile(r"(?:(?!/\*)[^\r\n,;#{}\[\]])*")
_QUOTED = re.compile(r'"((?:[^"\\\r\n]|\\.)*)"')
_SINGLE = re.compile(r"'((?:[^'\\\r\n]|\\.)*)'")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/"}
_SECTION_NAMES = re.compile(
    r"""(?:[ \t]+(?:"[^"\\\r\n]*"|'[^'\\\r\n]*'|[A-Za-z0-9_/][A-Za-z0-9_/.-]*)){1,8}[ \t]*(?=\{)"""
)
_HEREDOC = re.compile(r"<<([A-Z]+)\r?\n")
_COMMENT_PART = re.compile(r"/\*|\*/")
_NUMBER = re.compile(
    r"([-+]?[0-9]{1,300}(?:\.[0-9]{1,300})?(?:[eE][-+]?[0-9]{1,3})?)(kb|mb|gb|ms|min|k|m|g|s|h|d|w|y)?", re.I
)
_HEX = re.compile(r"([-+]?)0[xX]([0-9a-fA-F]{1,300})")
_TIMES_S = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_FACTORS = {"k": 10**3, "m": 10**6, "g": 10**9, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "null": None}


class UclError(ConfigError):
    """A text that is not UCL, or uses a part that is not understood."""

    def __init__(self, line: int, reason: str) -> None:
        """`line` counts from 1."""
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


Value = Union[str, int, float, bool, None, "Section", tuple["Value", ...]]
"""A quoted value is always text; a time is a float, in seconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value."""

    key: str
    value: Value
    line: int
    """Of the key, from 1."""


@dataclass(frozen=True, slots=True)
class Section:
    """What is between two braces, in order. A key may come more than once."""

    entries: tuple[Entry, ...] = ()


def parse(text: str) -> Section:
    """Read a whole file. Raises UclError, and nothing else."""
    return _Reader(text).read()


class _Reader:
    """Goes through a text, once."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counted_to = 0
        self._lines = 1

    def read(self) -> Section:
        """Read the whole text, which may be in braces."""
        self._skip()
        if self._take("{"):
            section = self._section("}", 1)
            self._skip()
            if self._at < len(self._text):
                self._fail("text behind the closing brace")
            return section
        return self._section("", 0)

    def _section(self, end: str, depth: int) -> Section:
        """Read entries up to a closing brace, or up to the end of the text."""
        entries: list[Entry] = []
        while True:
            self._skip(",;")
            if self._at == len(self._text):
                if end:
                    self._fail("a closing brace is missing")
                return Section(tuple(entries))
            if end and self._take(end):
                return Section(tuple(entries))
            entries.append(self._entry(depth))

    def _entry(self, depth: int) -> Entry:
        line = self._line()
        key = self._key()
        names = _SECTION_NAMES.match(self._text, self._at)
        self._skip()
        if self._take("{"):
            return Entry(key, self._section("}", self._deeper(depth)), line)
        if names is not None:
            return Entry(key, self._section_within(depth), line)
        if self._line() > line and self._peek() not in ("=", ":"):
            self._fail(f"no value behind {key!r}", line)
        if self._peek() in ("=", ":"):
            self._at += 1
            self._skip()
        return Entry(key, self._value(depth), line)

    def _section_within(self, depth: int) -> Section:
        """Read a section whose name stands between the key and the brace."""
        depth = self._deeper(depth)
        line = self._line()
        key = self._key()
        self._skip()
        if self._take("{"):
            return Section((Entry(key, self._section("}", self._deeper(depth)), line),))
        return Section((Entry(key, self._section_within(depth), line),))

    def _deeper(self, depth: int) -> int:
        if depth >= MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} sections within each other")
        return depth + 1

    def _key(self) -> str:
        if self._peek() in ('"', "'"):
            return self._quoted()
        found = _KEY.match(self._text, self._at)
        if found is None:
            if self._peek() == ".":
                self._fail("macros such as .include are not understood")
            self._fail(f"a key is expected, not {self._peek()!r}")
        self._at = found.end()
        return found[0]

    def _value(self, depth: int) -> Value:
        start = self._peek()
        value: Value
        if start == "{":
            self._at += 1
            return self._section("}", self._deeper(depth))
        if start == "[":
            self._at += 1
            return self._list(self._deeper(depth))
        if start in ('"', "'"):
            value = self._quoted()
        elif start == "<" and (found := _HEREDOC.match(self._text, self._at)):
            value = self._text_up_to(found)
        else:
            value = self._bare()
        self._check_ended()
        return value

    def _list(self, depth: int) -> tuple[Value, ...]:
        values: list[Value] = []
        while True:
            self._skip(",;")
            if self._at == len(self._text):
                self._fail("a closing bracket is missing")
            if self._take("]"):
                return tuple(values)
            values.append(self._value(depth))

    def _quoted(self) -> str:
        single = self._peek() == "'"
        found = (_SINGLE if single else _QUOTED).match(self._text, self._at)
        if found is None:
            self._fail("a quotation mark is missing")
        self._at = found.end()
        if single:
            return found[1].replace("\\'", "'")
        return _ESCAPE.sub(self._unescaped, found[1])

    def _unescaped(self, found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        if found[2] not in _ESCAPED:
            self._fail(f"unknown escape \\{found[2]}")
        return _ESCAPED[found[2]]

    def _text_up_to(self, start: re.Match[str]) -> str:
        """Read lines up to the one that is the word of the start."""
        end = re.compile(rf"(?:^|\r?\n){start[1]}(?=\r?\n|$)").search(self._text, start.end() - 1)
        if end is None:
            self._fail(f"no line {start[1]} ends the text")
        self._at = end.end()
        return self._text[start.end() : max(end.start(), start.end())]

    def _bare(self) -> Value:
        found = _BARE.match(self._text, self._at)
        assert found is not None, "it matches nothing, too"
        text = found[0].strip(" \t")
        if not text:
            self._fail("a value is missing")
        self._at = found.end()
        return _bare_value(text)

    def _check_ended(self) -> None:
        """Check that an end follows a value; behind a quotation mark a blank is one, which libucl does not take."""
        if self._peek().strip(" \t\r\n,;}]#") and not self._text.startswith("/*", self._at):
            self._fail(f"{self._peek()!r} behind a value; a newline or ; must end it")

    def _skip(self, also: str = "") -> None:
        """Skip blanks, newlines and comments, and the characters in `also`."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None, "it matches nothing, too"
            self._at = space.end()
            if self._peek() == "#":
                newline = self._text.find("\n", self._at)
                self._at = len(self._text) if newline < 0 else newline
            elif self._text.startswith("/*", self._at):
                self._skip_comment()
            elif also and self._peek() and self._peek() in also:
                self._at += 1
            else:
                return

    def _skip_comment(self) -> None:
        """Skip a comment with those in it."""
        line = self._line()
        depth = 0
        for found in _COMMENT_PART.finditer(self._text, self._at):
            depth += 1 if found[0] == "/*" else -1
            if not depth:
                self._at = found.end()
                return
        self._fail("a comment is not closed", line)

    def _peek(self) -> str:
        """Return the next character; empty at the end."""
        return self._text[self._at : self._at + 1]

    def _take(self, character: str) -> bool:
        """Skip a character if it is the next one."""
        if self._peek() != character:
            return False
        self._at += 1
        return True

    def _line(self) -> int:
        self._lines += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._lines

    def _fail(self, reason: str, line: int | None = None) -> NoReturn:
        raise UclError(self._line() if line is None else line, reason)


def _bare_value(text: str) -> Value:
    """Turn a text without quotation marks into what it stands for: a number, a boolean, or itself."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if found := _HEX.fullmatch(text):
        return int(found[1] + found[2], 16)
    found = _NUMBER.fullmatch(text)
    if found is None:
        return text
    digits, suffix = found[1], (found[2] or "").lower()
    is_whole = digits.lstrip("+-").isdigit()
    if suffix in _TIMES_S:
        return float(digits) * _TIMES_S[suffix]
    number = int(digits) if is_whole else float(digits)
    return number * _FACTORS.get(suffix, 1)
