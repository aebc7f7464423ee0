"""Modifiers and address of a `U` or `L` (protocol.md 2.3, 7.3, 7.4)."""

import pytest

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress
from rtpproxy.control.messages import CommandError, ErrorCode
from rtpproxy.control.modifiers import read_media
from rtpproxy.service.requests import MediaDescription
from rtpproxy.session.local import LocalAddress, LocalAddresses

REMOTE = Endpoint("192.0.2.1", 5000)
REMOTE6 = Endpoint("2001:db8::9", 5000)
PLAIN = MediaDescription(REMOTE)

FIRST = ListenAddress("192.0.2.10")
LABELLED = ListenAddress("192.0.2.20", label="Out", advertised="relay.example.com")
LABELLED6 = ListenAddress("2001:db8::10", is_ipv6=True, label="six")
ROUTES = {"198.51.100.1": "192.0.2.20", "2001:db8::99": "2001:db8::10", "203.0.113.1": "192.0.2.30"}


def addresses(*listen: ListenAddress, is_bridging: bool = False) -> LocalAddresses:
    return LocalAddresses(listen or (FIRST,), is_bridging, ROUTES.get)


def all_addresses() -> LocalAddresses:
    return addresses(FIRST, LABELLED, LABELLED6)


def media(
    modifiers: bytes, addr: bytes = b"192.0.2.1", port: bytes = b"5000", *, ours: LocalAddresses | None = None
) -> MediaDescription:
    return read_media(modifiers, addr, port, ours or addresses())


def refusal(
    modifiers: bytes, addr: bytes = b"192.0.2.1", port: bytes = b"5000", *, ours: LocalAddresses | None = None
) -> ErrorCode:
    with pytest.raises(CommandError) as caught:
        media(modifiers, addr, port, ours=ours)
    return caught.value.code


@pytest.mark.parametrize(
    ("modifiers", "expected"),
    [
        (b"", PLAIN),
        (b"a", MediaDescription(REMOTE, is_asymmetric=True)),
        (b"A", MediaDescription(REMOTE, is_asymmetric=True)),
        (b"s", MediaDescription(REMOTE, is_asymmetric=False)),
        (b"as", MediaDescription(REMOTE, is_asymmetric=False)),
        (b"sSa", MediaDescription(REMOTE, is_asymmetric=True)),
        (b"wW", MediaDescription(REMOTE, is_weak=True)),
        (b"nN", MediaDescription(REMOTE, is_new_port=True)),
        (b"z1", MediaDescription(REMOTE, packet_ms=1)),
        (b"Z999", MediaDescription(REMOTE, packet_ms=999)),
        (b"z020a", MediaDescription(REMOTE, packet_ms=20, is_asymmetric=True)),
        (b"z40z20", MediaDescription(REMOTE, packet_ms=20)),
        (b"c0,8,101", MediaDescription(REMOTE, codecs=(0, 8, 101))),
        (b"c8,,008,127,128,0", MediaDescription(REMOTE, codecs=(8, 127, 0))),
        (b"c,,", MediaDescription(REMOTE, codecs=())),
        (b"c" + 8000 * b"9", MediaDescription(REMOTE, codecs=())),
        (b"c1" + 8000 * b"0", MediaDescription(REMOTE, codecs=())),
        (b"c0,8aw", MediaDescription(REMOTE, is_weak=True, is_asymmetric=True, codecs=(0, 8))),
    ],
)
def test_modifiers(modifiers: bytes, expected: MediaDescription) -> None:
    assert media(modifiers) == expected


@pytest.mark.parametrize("letter", [bytes([letter]) for letter in b"tbdfopuvxk45789[{}],.-\x00\xff"])
def test_unknown(letter: bytes) -> None:
    assert refusal(letter) == refusal(b"aw" + letter) == ErrorCode.UPDATE_MODIFIER


@pytest.mark.parametrize(("modifiers", "code"), [(b"c", 14), (b"ca", 14), (b"c0c8", 14), (b"c0ac8", 14)])
def test_codec_list_refused(modifiers: bytes, code: int) -> None:
    assert refusal(modifiers) == code


@pytest.mark.parametrize(
    "modifiers", [b"z", b"za", b"z0", b"z1000", b"z-5", b"z-", b"z20z", b"z" + 8000 * b"9", b"z" + 9000 * b"0" + b"1"]
)
def test_packet_length_refused(modifiers: bytes) -> None:
    assert refusal(modifiers) == ErrorCode.PACKET_LENGTH


# The local address (l, r)


@pytest.mark.parametrize(
    ("modifiers", "host"),
    [
        (b"l192.0.2.10", "192.0.2.10"),
        (b"L192.0.2.20", "192.0.2.20"),
        (b"l[2001:db8::10]", "2001:db8::10"),
        (b"l[2001:DB8:0::10]", "2001:db8::10"),
        (b"l{Out}", "192.0.2.20"),
        (b"l{six}", "2001:db8::10"),
        (b"r198.51.100.1", "192.0.2.20"),
        (b"R[2001:db8::99]", "2001:db8::10"),
        (b"l192.0.2.10c0,8a", "192.0.2.10"),
        (b"l{Out}l192.0.2.10", "192.0.2.10"),
        (b"l192.0.2.10l{Out}", "192.0.2.20"),
        (b"l192.0.2.10r198.51.100.1", "192.0.2.20"),
        (b"r198.51.100.1l192.0.2.10", "192.0.2.10"),
    ],
)
def test_local_address_that_is_configured(modifiers: bytes, host: str) -> None:
    """The result is the configured address itself, with its label and advertised name."""
    ours = all_addresses()
    assert media(modifiers, ours=ours).local in ours.known
    found = media(modifiers, ours=ours).local
    assert found is not None
    assert found.host == host


@pytest.mark.parametrize(
    ("modifiers", "expected"),
    [
        (b"l127.0.0.2", LocalAddress(0, "127.0.0.2")),
        (b"L127.1w", LocalAddress(0, "127.0.0.1")),
        (b"l[::1]", LocalAddress(0, "::1", is_ipv6=True)),
        (b"r203.0.113.1", LocalAddress(0, "192.0.2.30")),
    ],
)
def test_local_address_that_is_not_configured(modifiers: bytes, expected: LocalAddress) -> None:
    ours = addresses()
    assert media(modifiers, ours=ours).local == expected
    assert len(ours.known) == 1  # it joins when a port is opened on it, not when it is named


@pytest.mark.parametrize(
    ("modifiers", "code"),
    [
        *((b"l", 15), (b"la", 15), (b"l:", 15), (b"l::1", 15), (b"l[::1", 15), (b"l[", 15)),
        *((b"l{}", 15), (b"l{", 15), (b"l{Out", 15), (b"l{Out]", 15)),
        *((b"l{out}", 31), (b"l{OUT}", 31), (b"l{Out }", 31), (b"l{Ou}", 31), (b"l{\xff}", 31)),
        *((b"l999.1.1.1", 31), (b"l1.2.3.4.5", 31), (b"l....", 31), (b"l" + b"1" * 8000, 31)),
        *((b"l[127.0.0.1]", 31), (b"l[::1%lo]", 31), (b"l[:::]", 31)),
        *((b"r", 16), (b"ra", 16), (b"r{Out}", 16), (b"r[zz]", 16), (b"r[]", 16), (b"r[::1", 16), (b"r[::1%lo]", 16)),
        *((b"r1.2.3.4.5", 32), (b"r10.9.9.9", 32), (b"r[2001:db8::98]", 32), (b"r[1.2.3.4]", 32)),
    ],
)
def test_local_address_refused(modifiers: bytes, code: int) -> None:
    assert refusal(modifiers, ours=all_addresses()) == code


def test_no_label_is_no_label() -> None:
    """The first address may have no label; `l{}` does not find it."""
    assert refusal(b"l{}", ours=addresses(FIRST)) == ErrorCode.LOCAL_ADDRESS


# Directions (e, i)


@pytest.mark.parametrize(
    ("letters", "hosts"),
    [
        (b"", []),
        (b"e", ["192.0.2.20"]),
        (b"I", ["192.0.2.10"]),
        (b"ee", ["192.0.2.20", "192.0.2.20"]),
        (b"ii", ["192.0.2.10", "192.0.2.10"]),
        (b"EI", ["192.0.2.20", "192.0.2.10"]),
        (b"iwe", ["192.0.2.10", "192.0.2.20"]),
    ],
)
def test_directions(letters: bytes, hosts: list[str]) -> None:
    found = media(letters, ours=addresses(FIRST, LABELLED, is_bridging=True)).directions
    assert [one.host for one in found] == hosts


@pytest.mark.parametrize(("letters", "code"), [(b"eee", 11), (b"iie", 11), (b"iei", 12), (b"eeI", 12), (b"eiwe", 11)])
def test_third_direction_is_refused(letters: bytes, code: int) -> None:
    assert refusal(letters, ours=addresses(FIRST, LABELLED, is_bridging=True)) == code


@pytest.mark.parametrize(("letters", "code"), [(b"e", 11), (b"E", 11), (b"i", 12), (b"wie", 12)])
def test_direction_without_a_bridge_is_refused(letters: bytes, code: int) -> None:
    assert refusal(letters, ours=addresses(FIRST, LABELLED)) == code


# The family (6, 7.4)


def hosts_of(*hosts: str) -> LocalAddresses:
    return addresses(*(ListenAddress(host, ":" in host, label=f"l{host}") for host in hosts))


@pytest.mark.parametrize(
    ("hosts", "modifiers", "expected"),
    [
        (["192.0.2.10"], b"", None),
        (["2001:db8::1"], b"6", None),
        # The family of the first address selects that address, whatever joined later.
        (["192.0.2.10", "2001:db8::1", "192.0.2.20"], b"", None),
        (["2001:db8::1", "192.0.2.10", "2001:db8::2"], b"6", None),
        # The other family selects the address of it that joined last.
        (["192.0.2.10", "2001:db8::1"], b"6", "2001:db8::1"),
        (["192.0.2.10", "2001:db8::1", "192.0.2.20", "2001:db8::2"], b"6", "2001:db8::2"),
        (["2001:db8::1", "192.0.2.10", "192.0.2.20"], b"", "192.0.2.20"),
        # An address that is named is used as it is, even if it is of the other family.
        (["192.0.2.10", "2001:db8::1"], b"6l192.0.2.10", "192.0.2.10"),
        (["192.0.2.10"], b"6l192.0.2.10", "192.0.2.10"),
        (["2001:db8::1"], b"r[2001:db8::99]", "2001:db8::10"),
    ],
)
def test_family(hosts: list[str], modifiers: bytes, expected: str | None) -> None:
    address = b"2001:db8::9" if b"6" in modifiers else b"192.0.2.1"
    found = media(modifiers, address, ours=hosts_of(*hosts)).local
    assert (None if found is None else found.host) == expected


@pytest.mark.parametrize(("host", "modifiers"), [("192.0.2.10", b"6"), ("", b"6"), ("2001:db8::1", b"")])
def test_family_that_we_do_not_have(host: str, modifiers: bytes) -> None:
    for address in (b"2001:db8::9", b"192.0.2.1", b"bad port is found later"):
        assert refusal(modifiers, address, ours=hosts_of(host)) == ErrorCode.FAMILY


def test_trap_of_a_bridge_between_families() -> None:
    """`L6` without letters puts the leg of the reply on IPv6; letters prevent that."""
    bridge = addresses(FIRST, ListenAddress("2001:db8::10", is_ipv6=True), is_bridging=True)
    trapped = media(b"6", b"2001:db8::9", ours=bridge)
    assert (trapped.local, trapped.directions) == (bridge.external, ())
    meant = media(b"6EI", b"2001:db8::9", ours=bridge)
    assert (meant.local, meant.directions) == (None, (bridge.external, bridge.default))
    assert media(b"6e", b"2001:db8::9", ours=bridge).local is None


# The remote endpoint


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
        (b"x" * 6, b"x", None),
        (b"x" * 16, b"x", None),
    ],
)
def test_remote(addr: bytes, port: bytes, remote: Endpoint | None) -> None:
    assert media(b"", addr, port) == MediaDescription(remote)


@pytest.mark.parametrize(("modifiers", "addr"), [(b"", b"0.0.0.0"), (b"", b"0x0.0.0"), (b"6", b"::"), (b"6", b"0::0")])
def test_a_null_address_is_hold(modifiers: bytes, addr: bytes) -> None:
    described = media(modifiers, addr, b"5000", ours=addresses(FIRST, LABELLED6))
    assert (described.remote, described.is_hold) == (None, True)


@pytest.mark.parametrize(
    ("addr", "port", "remote"),
    [
        (b"2001:db8::9", b"5000", REMOTE6),
        (b"2001:DB8:0:0::9", b"5000", REMOTE6),
        (b"::1", b"0", Endpoint("::1", 0)),
        (b"1", b"x", None),
        (b"1" * 46, b"x", None),
        (b"2001:0db8:1111:2222:3333:4444:192.168.100.200", b"5", Endpoint("2001:db8:1111:2222:3333:4444:c0a8:64c8", 5)),
    ],
)
def test_remote_of_ipv6(addr: bytes, port: bytes, remote: Endpoint | None) -> None:
    assert media(b"6", addr, port, ours=hosts_of("2001:db8::1")) == MediaDescription(remote)


@pytest.mark.parametrize(
    ("addr", "port"),
    [
        (b"example.com", b"5"),
        (b"192.0.2.256", b"5"),
        (b"192.0.2.1.1", b"5"),
        (b"\xb2\xb2\xb2.\xb2.\xb2", b"5"),
        (b"2001:db8::5", b"5"),
        (b"x" * 7, b"5"),
        (b"x" * 15, b"5"),
        (b"192.0.2.1", b"foo"),
        (b"192.0.2.1", b"-1"),
        (b"192.0.2.1", b"+1"),
        (b"192.0.2.1", b"5x"),
        (b"192.0.2.1", b"1_0"),
        (b"192.0.2.1", b"\xb2"),
        (b"192.0.2.1", b"9" * 5000),
        (b"0.0.0.0", b"foo"),
    ],
)
def test_remote_refused(addr: bytes, port: bytes) -> None:
    assert refusal(b"", addr, port) == ErrorCode.REMOTE_ADDRESS


@pytest.mark.parametrize(
    ("addr", "port"), [(b"127.0.0.1", b"5"), (b"::1%lo", b"5"), (b"zz", b"5"), (b"::1", b"x"), (b"::", b"x")]
)
def test_remote_of_ipv6_refused(addr: bytes, port: bytes) -> None:
    assert refusal(b"6", addr, port, ours=hosts_of("2001:db8::1")) == ErrorCode.REMOTE_ADDRESS
