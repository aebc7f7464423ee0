"""What option texts mean (protocol.md 1.1, 7.1)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.config import (
    Config,
    ControlAddress,
    ControlKind,
    NotifyTarget,
    check_notify_targets,
    find_target,
    parse_control_address,
    parse_notify_target,
    port_range,
)
from rtpproxy.errors import ConfigError

UNIX, CUNIX, UDP, UDP6 = ControlKind.UNIX, ControlKind.CUNIX, ControlKind.UDP, ControlKind.UDP6
TCP, TCP6 = ControlKind.TCP, ControlKind.TCP6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/x.sock", ControlAddress(UNIX, path="/run/x.sock")),
        ("cunix:/run/x.sock", ControlAddress(CUNIX, path="/run/x.sock")),
        ("/run/x.sock", ControlAddress(UNIX, path="/run/x.sock")),
        ("x.sock", ControlAddress(UNIX, path="x.sock")),
        ("bogus:/x", ControlAddress(UNIX, path="bogus:/x")),
        ("unix:unix:/x", ControlAddress(UNIX, path="unix:/x")),
        ("udp:127.0.0.1:9000", ControlAddress(UDP, host="127.0.0.1", port=9000)),
        ("udp:127.0.0.1", ControlAddress(UDP, host="127.0.0.1", port=22222)),
        ("udp:*:9000", ControlAddress(UDP, port=9000)),
        ("udp:*", ControlAddress(UDP, port=22222)),
        ("udp:host.example:65535", ControlAddress(UDP, host="host.example", port=65535)),
        ("tcp:127.0.0.1:9000", ControlAddress(TCP, host="127.0.0.1", port=9000)),
        ("tcp:*", ControlAddress(TCP, port=22222)),
        ("tcp6:::1:9000", ControlAddress(TCP6, host="::1", port=9000)),
        ("udp6:::1:9000", ControlAddress(UDP6, host="::1", port=9000)),
        ("udp6:2001:db8::5:9000", ControlAddress(UDP6, host="2001:db8::5", port=9000)),
        ("udp6:*:9000", ControlAddress(UDP6, port=9000)),
        ("udp6:*", ControlAddress(UDP6, port=22222)),
        ("udp6:host.example", ControlAddress(UDP6, host="host.example", port=22222)),
        ("udp6:fe80::1%eth0:9000", ControlAddress(UDP6, host="fe80::1%eth0", port=9000)),
        ("udp6:::1", ControlAddress(UDP6, host="::1", port=22222)),
        ("udp6:2001:db8::5", ControlAddress(UDP6, host="2001:db8::5", port=22222)),
        ("udp6:[::1]:9000", ControlAddress(UDP6, host="::1", port=9000)),
        ("tcp6:[::1]", ControlAddress(TCP6, host="::1", port=22222)),
        ("stdio:", ControlAddress(ControlKind.STDIO)),
        ("stdioc:", ControlAddress(ControlKind.STDIOC)),
        ("systemd:", ControlAddress(ControlKind.SYSTEMD)),
        ("stdio", ControlAddress(UNIX, path="stdio")),
    ],
)
def test_control_addresses(text, expected):
    assert parse_control_address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("unix:/run/x.sock", "cunix:/x", "udp:127.0.0.1:9000", "udp:*:22222", "udp6:::1:9000", "tcp:*:9000"),
        *("tcp6:2001:db8::5:9000", "stdio:", "stdioc:", "systemd:"),
    ],
)
def test_control_address_as_text(text):
    assert str(parse_control_address(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the path is empty"),
        ("unix:", "the path is empty"),
        ("cunix:", "the path is empty"),
        ("udp:", "the host is empty"),
        ("udp::9000", "the host is empty"),
        ("udp:127.0.0.1:", "port '' is not a number"),
        ("udp:127.0.0.1:0", "port '0' is not a number from 1 to 65535"),
        ("udp:127.0.0.1:65536", "port '65536'"),
        ("udp:127.0.0.1:-1", "port '-1'"),
        ("udp:127.0.0.1:9000x", "port '9000x'"),
        ("tcp:127.0.0.1:9000x", "tcp:127.0.0.1:9000x: port '9000x'"),
        ("udp6:[::1]x", "port '1]x'"),
        ("udp6:[]:9000", "the host is empty"),
        ("tcp6::9000", "the host is empty"),
        ("stdio:x", "nothing may follow stdio:"),
        ("stdioc:x", "nothing may follow stdioc:"),
        ("systemd:3", "nothing may follow systemd:"),
        ("udp:127.0.0.1:٩", "port"),
    ],
)
def test_unusable_control_addresses(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_control_address(text)


@given(st.sampled_from(["", "unix:", "udp:", "udp6:", "tcp:", "tcp6:", "stdio:", "systemd:"]), st.text(max_size=40))
def test_any_text_is_an_address_or_refused(prefix, text):
    try:
        address = parse_control_address(prefix + text)
    except ConfigError:
        return
    assert parse_control_address(str(address)) == address


def test_what_kinds_have_in_common():
    """Others decide by these: who may run as root, which ports are taken, what needs the foreground."""
    assert {kind.value for kind in ControlKind if kind.is_datagram} == {"udp", "udp6"}
    assert {kind.value for kind in ControlKind if kind.is_unix} == {"unix", "cunix"}
    assert {kind.value for kind in ControlKind if kind.is_ipv6} == {"udp6", "tcp6"}
    assert {kind.value for kind in ControlKind if kind.is_stdio} == {"stdio", "stdioc"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (35000, 65000, (35000, 64998)),
        (35000, 65535, (35000, 65534)),
        (35001, 65001, (35002, 65000)),
        (1, 65535, (2, 65534)),
        (20000, 20001, (20000, 20000)),
        (20000, 20003, (20000, 20002)),
    ],
)
def test_port_range(low, high, expected):
    assert port_range(low, high) == expected


@pytest.mark.parametrize(("low", "high"), [(20000, 20000), (20001, 20002), (20002, 20000), (65535, 65535), (1, 1)])
def test_range_without_room_for_a_pair(low, high):
    with pytest.raises(ConfigError, match=f"ports {low} to {high}: no room"):
        port_range(low, high)


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_pairs_stay_within_the_range(low, high):
    try:
        first, last = port_range(low, high)
    except ConfigError:
        assert high < low + low % 2 + 1
        return
    assert low <= first <= last < high
    assert first % 2 == last % 2 == 0


def test_instance_is_told_by_its_control_sockets_in_any_order():
    one, other = ControlAddress(UNIX, path="/a"), ControlAddress(UDP, port=9000)
    assert Config(control=(one, other)).instance == Config(control=(other, one), tos=0).instance
    assert Config(control=(one,)).instance != Config(control=(other,)).instance


def test_defaults():
    config = Config()
    assert [str(address) for address in config.control] == ["unix:/var/run/rtpproxy.sock"]
    assert (config.idle_timeout_s, config.setup_timeout_s, config.log_level) == (60, 60, "ERR")


# -n


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/to.sock", NotifyTarget(path="/run/to.sock", text="unix:/run/to.sock")),
        ("/run/to.sock", NotifyTarget(path="/run/to.sock", text="unix:/run/to.sock")),
        ("to.sock", NotifyTarget(path="to.sock", text="unix:to.sock")),
        ("unix:" + "x" * 107, NotifyTarget(path="x" * 107, text="unix:" + "x" * 107)),
        ("tcp:192.0.2.1:9000", NotifyTarget(host="192.0.2.1", port=9000, text="tcp:192.0.2.1:9000")),
        ("tcp:host.example:1", NotifyTarget(host="host.example", port=1, text="tcp:host.example:1")),
        ("tcp:[::1]:9000", NotifyTarget(host="::1", port=9000, text="tcp:[::1]:9000")),
        ("tcp:::1:65535", NotifyTarget(host="::1", port=65535, text="tcp:::1:65535")),
        ("tcp:%%CC_SELF%%:22223", NotifyTarget(port=22223, text="tcp:%%CC_SELF%%:22223")),
    ],
)
def test_notify_targets(text, expected):
    target = parse_notify_target(text)
    assert target == expected
    assert target.is_wildcard == ("CC_SELF" in text)
    assert str(target) == target.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "option -n '': the path is empty"),
        ("unix:", "option -n 'unix:': the path is empty"),
        ("tcp:", "option -n tcp:: port '' is not a number"),
        ("tcp:host", "port 'host' is not a number"),
        ("tcp:9000", "option -n tcp:9000: not tcp:HOST:PORT"),
        ("tcp::9000", "not tcp:HOST:PORT"),
        ("tcp:[]:9000", "not tcp:HOST:PORT"),
        ("tcp:[::1:9000", "not tcp:HOST:PORT"),
        ("tcp:::1]:9000", "not tcp:HOST:PORT"),
        ("tcp:[::1]", "port '1]' is not a number"),
        ("tcp:h:" + "9" * 5000, "is not a number from 1 to 65535"),
        ("tcp:h:0", "port '0' is not a number from 1 to 65535"),
        ("tcp:h:65536", "port '65536'"),
        ("tcp:h:-1", "port '-1'"),
        ("tcp:h:\u0669", "port"),
        ("tcp:%%CC_SELF%%", "port '%%CC_SELF%%' is not a number"),
    ],
)
def test_unusable_notify_targets(text, words):
    with pytest.raises(ConfigError) as caught:
        parse_notify_target(text)
    message = str(caught.value)
    assert words in message
    assert message.startswith("option -n ")
    assert "\n" not in message


UNIX_TARGET, TCP_TARGET, IPV6_TARGET, WILD_TARGET = TARGETS = tuple(
    parse_notify_target(text) for text in ("/run/to.sock", "tcp:192.0.2.1:9000", "tcp:[::1]:9000", "tcp:%%CC_SELF%%:1")
)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (b"/run/to.sock", UNIX_TARGET),
        (b"unix:/run/to.sock", UNIX_TARGET),
        (b"/run/to.soc", None),
        (b"/run/to.sock2", None),
        (b"unix:unix:/run/to.sock", None),
        (b"tcp:192.0.2.1:9000", TCP_TARGET),
        (b"192.0.2.1:9000", None),
        (b"unix:tcp:192.0.2.1:9000", None),
        (b"tcp:192.0.2.1:09000", None),
        (b"tcp:[::1]:9000", IPV6_TARGET),
        (b"tcp:::1:9000", None),
        (b"tcp:%%CC_SELF%%:1", WILD_TARGET),
        (b"tcp:%%CC_SELF%%:2", None),
        (b"tcp:127.0.0.1:1", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_targets_are_quoted_as_text(argument, expected):
    assert find_target(TARGETS, argument) is expected


def test_a_resolved_or_moved_target_is_still_quoted_as_it_was_given():
    relative, named = parse_notify_target("to.sock"), parse_notify_target("tcp:host.example:9000")
    targets = replace(relative, path="/run/to.sock"), replace(named, host="192.0.2.1")
    assert find_target(targets, b"to.sock") is targets[0]
    assert find_target(targets, b"/run/to.sock") is None
    assert find_target(targets, b"tcp:host.example:9000") is targets[1]


def test_path_that_is_not_utf8_is_found():
    target = parse_notify_target(b"/run/\xe9.sock".decode(errors="surrogateescape"))
    assert find_target([target], b"/run/\xe9.sock") is target


@pytest.mark.parametrize(
    ("plain", "wildcards", "words"),
    [
        (62, 2, None),
        (64, 0, None),
        (63, 2, "option -n: 65 targets; at most 64"),
        (0, 3, "option -n: 3 targets with %%CC_SELF%%; at most 2"),
    ],
)
def test_number_of_notify_targets(plain, wildcards, words):
    targets = [UNIX_TARGET] * plain + [WILD_TARGET] * wildcards
    if words is None:
        check_notify_targets(targets)
    else:
        with pytest.raises(ConfigError, match=words):
            check_notify_targets(targets)
