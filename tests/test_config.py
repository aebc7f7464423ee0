"""What follows from the fields of the configuration (protocol.md 1.8, 2.4, 7.1)."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.config import Config, ControlAddress, ControlKind, NotifyTarget, find_target

UNIX, UDP = ControlKind.UNIX, ControlKind.UDP


def test_what_kinds_have_in_common():
    """Other modules decide by these who may run as root, which ports are taken, and what needs the foreground."""
    assert {kind.value for kind in ControlKind if kind.is_datagram} == {"udp", "udp6"}
    assert {kind.value for kind in ControlKind if kind.is_unix} == {"unix", "cunix"}
    assert {kind.value for kind in ControlKind if kind.is_ipv6} == {"udp6", "tcp6"}
    assert {kind.value for kind in ControlKind if kind.is_stdio} == {"stdio", "stdioc"}


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [
        (35000, 65000, (35000, 64998)),
        (35000, 65535, (35000, 65534)),
        (35001, 65001, (35002, 65000)),
        (1, 65535, (2, 65534)),
        (20000, 20001, (20000, 20000)),
        (20000, 20003, (20000, 20002)),
    ],
)
def test_rtp_ports_of_a_range(lowest, highest, expected):
    config = Config(lowest_port=lowest, highest_port=highest)
    assert (config.port_min, config.port_max) == expected


@given(st.integers(1, 65535), st.integers(1, 65535))
def test_pairs_stay_within_the_range(lowest, highest):
    config = Config(lowest_port=lowest, highest_port=highest)
    first, last = config.port_min, config.port_max
    assert first % 2 == last % 2 == 0
    has_room = any(port % 2 == 0 and port + 1 <= highest for port in (lowest, lowest + 1))
    assert (first <= last) == has_room
    if has_room:
        assert lowest <= first <= last < highest


def test_setup_timeout_follows_the_idle_timeout():
    assert Config(idle_timeout_s=30).half_open_timeout_s == 30
    assert Config(idle_timeout_s=30, setup_timeout_s=15).half_open_timeout_s == 15
    assert replace(Config(idle_timeout_s=30, setup_timeout_s=15), tos=0).half_open_timeout_s == 15
    assert replace(Config(), idle_timeout_s=5).half_open_timeout_s == 5


def test_instance_is_told_by_its_control_sockets_in_any_order():
    one, other = ControlAddress(UNIX, path="/a"), ControlAddress(UDP, port=9000)
    assert Config(control=(one, other)).instance == Config(control=(other, one), tos=0).instance
    assert Config(control=(one,)).instance != Config(control=(other,)).instance


def test_defaults():
    config = Config()
    assert [str(address) for address in config.control] == ["unix:/var/run/rtpproxy.sock"]
    assert (config.idle_timeout_s, config.half_open_timeout_s, config.log_level) == (60, 60, "ERR")


# Notification targets

UNIX_TARGET, TCP_TARGET, IPV6_TARGET, WILD_TARGET = TARGETS = tuple(
    NotifyTarget(text=text)
    for text in ("unix:/run/to.sock", "tcp:192.0.2.1:9000", "tcp:[::1]:9000", "tcp:%%CC_SELF%%:1")
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
    relative, named = NotifyTarget("to.sock", text="unix:to.sock"), NotifyTarget(text="tcp:host.example:9000")
    targets = replace(relative, path="/run/to.sock"), replace(named, host="192.0.2.1")
    assert find_target(targets, b"to.sock") is targets[0]
    assert find_target(targets, b"/run/to.sock") is None
    assert find_target(targets, b"tcp:host.example:9000") is targets[1]


def test_path_that_is_not_utf8_is_found():
    target = NotifyTarget(text=b"unix:/run/\xe9.sock".decode(errors="surrogateescape"))
    assert find_target([target], b"/run/\xe9.sock") is target
