"""Arguments of -s and -n (protocol.md 1.1, 10.1)."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.cli.arguments import check_notify_targets, parse_control_address, parse_notify_target
from rtpproxy.config import ControlAddress, ControlKind, NotifyTarget
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


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("127.0.0.1:22222", "write udp:127.0.0.1:22222, or unix:./127.0.0.1:22222 for a file of that name"),
        ("localhost:22222", "write udp:localhost:22222, or unix:./localhost:22222"),
        ("host.example:9000", "write udp:host.example:9000, or"),
        ("*:22222", r"write udp:\*:22222, or unix:./\*:22222"),
        ("[::1]:22222", r"write udp6:\[::1\]:22222, or unix:./\[::1\]:22222"),
        ("::1:22222", "write udp6:::1:22222, or unix:./::1:22222"),
        ("22222", "write udp:127.0.0.1:22222, or unix:./22222"),
        (":22222", "write udp:127.0.0.1:22222, or unix:./:22222"),
    ],
)
def test_forgotten_prefix_of_a_control_socket(text, advice):
    """The C RTPproxy makes a socket file of that name, which nobody wants."""
    with pytest.raises(ConfigError, match=f"^-s {re.escape(text)}: {advice}"):
        parse_control_address(text)


@pytest.mark.parametrize(
    "text",
    ["run/x:22222", "./127.0.0.1:22222", "/run/22222", "a:b", "x.sock:", "sock-22222", "127.0.0.1", "bogus:/x:1"],
)
def test_what_is_clearly_a_path_stays_one(text):
    assert parse_control_address(text) == ControlAddress(UNIX, path=text)
    assert parse_notify_target(text) == NotifyTarget(path=text, text=f"unix:{text}")


def test_prefix_unix_makes_a_path_of_anything():
    assert parse_control_address("unix:127.0.0.1:22222") == ControlAddress(UNIX, path="127.0.0.1:22222")
    assert parse_notify_target("unix:22222") == NotifyTarget(path="22222", text="unix:22222")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("udp:22222", r"write udp:\*:22222 for all addresses of this host, or udp:127.0.0.1:22222 for this host only"),
        ("tcp:9000", r"write tcp:\*:9000 for all addresses of this host, or tcp:127.0.0.1:9000 for this host only"),
        ("udp6:22222", r"write udp6:\*:22222 for all addresses of this host, or udp6:::1:22222 for this host only"),
    ],
)
def test_port_without_a_host(text, words):
    with pytest.raises(ConfigError, match=f"^control socket {text}: a port without a host; {words}$"):
        parse_control_address(text)


# -n


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("127.0.0.1:9000", "write tcp:127.0.0.1:9000, or unix:./127.0.0.1:9000 for a file of that name"),
        ("%%CC_SELF%%:9000", "write tcp:%%CC_SELF%%:9000, or"),
        ("[::1]:9000", r"write tcp:\[::1\]:9000, or"),
        ("9000", "write tcp:127.0.0.1:9000, or"),
    ],
)
def test_forgotten_prefix_of_a_notify_target(text, advice):
    with pytest.raises(ConfigError, match=f"^option -n {re.escape(text)}: {advice}"):
        parse_notify_target(text)


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


UNIX_TARGET, WILD_TARGET = (parse_notify_target(text) for text in ("/run/to.sock", "tcp:%%CC_SELF%%:1"))


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
