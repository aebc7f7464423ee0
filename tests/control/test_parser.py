"""Texts to commands: shape, modifiers, addresses, and the order in which faults are found (protocol.md 1.5, 2, 3.4)."""

import pytest

from rtpproxy.addr import Endpoint
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
from rtpproxy.control.parser import is_verbose_query, parse

REMOTE = Endpoint("192.0.2.1", 5000)
PLAIN = MediaDescription(REMOTE)


def refusal(text: bytes) -> ErrorCode:
    with pytest.raises(CommandError) as caught:
        parse(text)
    return caught.value.code


def media(modifiers: bytes = b"", addr: bytes = b"192.0.2.1", port: bytes = b"5000") -> MediaDescription:
    command = parse(b"U%s call %s %s from" % (modifiers, addr, port))
    assert isinstance(command, Update)
    return command.media


def media_refusal(modifiers: bytes = b"", addr: bytes = b"192.0.2.1", port: bytes = b"5000") -> ErrorCode:
    return refusal(b"U%s call %s %s from" % (modifiers, addr, port))


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (b"V", Version()),
        (b" v \r\n", Version()),
        (b"VF 20040107", FeatureProbe(b"20040107")),
        (b"vf x", FeatureProbe(b"x")),
        (b"X\n", DeleteAll()),
        (b"I", Info(with_load=False)),
        (b"Ib", Info(with_load=False)),
        (b"iLB", Info(with_load=True)),
        (b"D c f", Delete(b"c", b"f", None, is_weak=False)),
        (b"dW c f t", Delete(b"c", b"f", b"t", is_weak=True)),
        (b"Q c f", Query(b"c", b"f", None)),
        (b"Qv c f t ttl TTL", Query(b"c", b"f", b"t", b"v", (b"ttl", b"TTL"))),
        (b"Qx c f t", Query(b"c", b"f", b"t", b"x")),
        (b"U c 192.0.2.1 5000 f", Update(b"c", b"f", None, PLAIN)),
        (b"U c 192.0.2.1 5000 f t", Update(b"c", b"f", b"t", PLAIN)),
        (b"U c 192.0.2.1 5000 f ns tag", Update(b"c", b"f", None, PLAIN, has_notify=True)),
        (b"U c 192.0.2.1 5000 f t ns a%20b", Update(b"c", b"f", b"t", PLAIN, has_notify=True)),
        (b"l\tc  192.0.2.1 5000 f\r\n", Lookup(b"c", b"f", None, PLAIN)),
        (b"L c 192.0.2.1 5000 f;1 t;1", Lookup(b"c", b"f;1", b"t;1", PLAIN)),
        (b"D \xff\xfe \x01", Delete(b"\xff\xfe", b"\x01", None, is_weak=False)),
    ],
)
def test_reads_command(text: bytes, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", 5),
        (b" \t\r\n", 5),
        (b"V\0", 5),
        (b"Z", 0),
        (b"\xff", 0),
        (b"P c p 0 f", 0),
        (b"V x", 1),
        (b"VF", 1),
        (b"VF 1 2", 1),
        (b"Vz", 2),
        (b"V\v", 2),
        (b"V\f", 2),
        (b"VFx 1", 2),
        (b"X x", 1),
        (b"Xx", 2),
        (b"I x", 1),
        (b"Ix", 18),
        (b"D c", 1),
        (b"D c f t x", 1),
        (b"Dx c f", 8),
        (b"Q c", 1),
        (b"L c 127.0.0.1 5", 1),
        (b"L c 127.0.0.1 5 f t x", 1),
        (b"U c 127.0.0.1 5", 1),
        (b"U c 127.0.0.1 5 f t ns tag extra", 1),
        (b"U c 127.0.0.1 5 f ns %2", 10),
        (b"U c 127.0.0.1 5 f t ns %zz", 10),
    ],
)
def test_refuses(text: bytes, code: int) -> None:
    assert refusal(text) == code


def test_query_asks_for_at_most_eleven_counters() -> None:
    command = parse(b"Q c f t" + b" ttl" * 11)
    assert isinstance(command, Query)
    assert len(command.counters) == 11
    assert refusal(b"Q c f t" + b" ttl" * 12) == ErrorCode.ARGUMENT_COUNT


def test_query_modifiers_are_judged_apart() -> None:
    assert not is_verbose_query(Query(b"c", b"f", None))
    assert is_verbose_query(Query(b"c", b"f", None, b"V"))
    with pytest.raises(CommandError, match="E19"):
        is_verbose_query(Query(b"c", b"f", None, b"vx"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"Q" + b" a" * 22, 1),
        (b"Q" + b" a" * 23, 5),
        (b"Z" + b" a" * 22, 0),
        (b"Z" + b" a" * 23, 5),
        (b"Z" + b" a" * 22 + b" &&" + b" a" * 23, 0),
        (b"Z" + b" a" * 22 + b" &&" + b" a" * 24, 5),
        (b"Z" + b" && D" * 15, 0),
        (b"Z" + b" && D" * 16, 5),
        (b"&& V", 5),
        (b"V &&", 5),
        (b"V && && V", 5),
        (b"V&& V", 1),
    ],
)
def test_token_limits(text: bytes, code: int) -> None:
    assert refusal(text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # Sub-commands where none are allowed come after the shape and before the command's own options.
        (b"V && V", 3),
        (b"Vz && V", 2),
        (b"V x && V", 1),
        (b"X && D", 3),
        (b"Ix && D", 3),
        (b"Dx c f && D", 3),
        # Where they are allowed, they are parsed after those options.
        (b"U c 127.0.0.1 5 f && D", 3),
        (b"U c 127.0.0.1 5 && D", 1),
        (b"Ux c 127.0.0.1 5 f && D", 35),
        (b"U c example.com 5 f && D", 37),
        (b"L6 c 127.0.0.1 5 f && D", 36),
        (b"Qx c f && D", 3),
        # Notification tag, modifiers from left to right, family, address.
        (b"Ux c 127.0.0.1 x f ns %", 10),
        (b"Uxc c 127.0.0.1 x f", 35),
        (b"Ucx c 127.0.0.1 x f", 14),
        (b"U6x c 127.0.0.1 x f", 35),
        (b"U6 c 127.0.0.1 x f", 36),
    ],
)
def test_order_of_checks(text: bytes, code: int) -> None:
    assert refusal(text) == code


@pytest.mark.parametrize(
    ("modifiers", "expected"),
    [
        (b"a", MediaDescription(REMOTE, is_asymmetric=True)),
        (b"A", MediaDescription(REMOTE, is_asymmetric=True)),
        (b"s", PLAIN),
        (b"as", PLAIN),
        (b"sSa", MediaDescription(REMOTE, is_asymmetric=True)),
        (b"wW", MediaDescription(REMOTE, is_weak=True)),
        (b"c0,8,101", PLAIN),
        (b"c,,", PLAIN),
        (b"c0,8aw", MediaDescription(REMOTE, is_weak=True, is_asymmetric=True)),
        (b"l127.0.0.2", MediaDescription(REMOTE, local_host="127.0.0.2")),
        (b"L127.1w", MediaDescription(REMOTE, is_weak=True, local_host="127.0.0.1")),
        (b"r192.0.2.9c0", MediaDescription(REMOTE, routed_host="192.0.2.9")),
        (b"l127.0.0.2r192.0.2.9", MediaDescription(REMOTE, routed_host="192.0.2.9")),
        (b"r192.0.2.9l127.0.0.2", MediaDescription(REMOTE, local_host="127.0.0.2")),
    ],
)
def test_modifiers(modifiers: bytes, expected: MediaDescription) -> None:
    assert media(modifiers) == expected


@pytest.mark.parametrize(
    ("modifiers", "code"),
    [(bytes([letter]), 35) for letter in b"tbdfopuvxk4{zn"]
    + [
        (b"e", 11),
        (b"I", 12),
        (b"6", 36),
        (b"c", 14),
        (b"ca", 14),
        (b"c0c8", 14),
        (b"l", 15),
        (b"la", 15),
        (b"l[::1", 15),
        (b"l[]", 15),
        (b"l[zz]", 15),
        (b"l{}", 15),
        (b"l{foo", 15),
        (b"l{foo}", 31),
        (b"l[::1]", 31),
        (b"l999.1.1.1", 31),
        (b"r", 16),
        (b"r[zz]", 16),
        (b"r[::1", 16),
        (b"r{foo}", 16),
        (b"r[::1]", 32),
        (b"r1.2.3.4.5", 32),
        (b"l" + b"1" * 8000, 31),
    ],
)
def test_modifiers_refused(modifiers: bytes, code: int) -> None:
    assert media_refusal(modifiers) == code


@pytest.mark.parametrize(
    ("addr", "port", "remote"),
    [
        (b"192.0.2.1", b"0", Endpoint("192.0.2.1", 0)),
        (b"192.0.2.1", b"65535", Endpoint("192.0.2.1", 65535)),
        (b"192.0.2.1", b"65541", Endpoint("192.0.2.1", 5)),
        (b"192.0.2.1", b"007", Endpoint("192.0.2.1", 7)),
        (b"127.0.1", b"5", Endpoint("127.0.0.1", 5)),
        (b"0x7f.0.1", b"5", Endpoint("127.0.0.1", 5)),
        (b"255.255.255.255", b"5", Endpoint("255.255.255.255", 5)),
        (b"foo", b"5", None),
        (b"127.1", b"nonsense", None),
        (b"a.long.host.name.example.com", b"-1", None),
    ],
)
def test_remote(addr: bytes, port: bytes, remote: Endpoint | None) -> None:
    assert media(addr=addr, port=port) == MediaDescription(remote)


@pytest.mark.parametrize("addr", [b"0.0.0.0", b"0x0.0.0"])
def test_null_address_is_hold(addr: bytes) -> None:
    assert media(addr=addr) == MediaDescription(None, is_hold=True)


@pytest.mark.parametrize(
    ("addr", "port"),
    [
        (b"example.com", b"5"),
        (b"192.0.2.256", b"5"),
        (b"192.0.2.1.1", b"5"),
        (b"\xb2\xb2\xb2.\xb2.\xb2", b"5"),
        (b"2001:db8::5", b"5"),
        (b"192.0.2.1", b"foo"),
        (b"192.0.2.1", b"-1"),
        (b"192.0.2.1", b"5x"),
        (b"192.0.2.1", b"9" * 5000),
        (b"0.0.0.0", b"foo"),
    ],
)
def test_remote_refused(addr: bytes, port: bytes) -> None:
    assert media_refusal(addr=addr, port=port) == ErrorCode.REMOTE_ADDRESS
