"""The arguments of options (protocol.md 12.1)."""

import logging.handlers

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.cli.readers import (
    member_of,
    number_between,
    one_of,
    read_level,
    read_mode,
    read_overload,
    read_tee_memory,
    read_user,
)
from rtpproxy.config import OverloadLimits, PortsMode
from rtpproxy.errors import ConfigError
from rtpproxy.process.syslog import FACILITIES

read_octet = number_between(0, 255)


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("255", 255), ("+7", 7), ("007", 7)])
def test_numbers(text, number):
    assert read_octet(text) == number


@pytest.mark.parametrize("text", ["", "x", "1x", "1 ", " 1", "1.0", "0x10", "1_0", "--1", "-", "٣", "1\n"])
def test_no_numbers(text):
    with pytest.raises(ConfigError, match="argument is invalid"):
        read_octet(text)


@pytest.mark.parametrize("text", ["-1", "256", "9" * 20, "9" * 5000, "-" + "9" * 5000])
def test_numbers_out_of_range(text):
    with pytest.raises(ConfigError, match="argument is out of range: 0 to 255 is allowed"):
        read_octet(text)


def test_words():
    assert one_of("fifo", "rr")("rr") == "rr"
    for text in ("", "RR", "rr ", "other"):
        with pytest.raises(ConfigError, match="not one of fifo, rr"):
            one_of("fifo", "rr")(text)


def test_members():
    assert member_of(PortsMode)("bound") is PortsMode.BOUND
    with pytest.raises(ConfigError, match="not one of auto, steered, bound"):
        member_of(PortsMode)("BOUND")


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("32", 32), ("2048", 2048)])
def test_memory_of_the_tee(text, size):
    assert read_tee_memory(text) == size


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("48", "48 is not a power of two; use 32 or 64"),
        ("3", "3 is not a power of two; use 2 or 4"),
        ("0", "argument is out of range: 1 to 2048 is allowed"),
        ("4096", "argument is out of range"),
        ("32M", "argument is invalid"),
    ],
)
def test_no_memory_of_the_tee(text, words):
    with pytest.raises(ConfigError, match=words):
        read_tee_memory(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("info", "INFO"), ("WARN:daemon", "WARN:DAEMON"), ("Crit:LOG_MAIL", "CRIT:MAIL"), ("err:", "ERR")],
)
def test_levels(text, expected):
    assert read_level(text) == expected


@pytest.mark.parametrize(("text", "words"), [("", "not a level"), ("FATAL", "not a level"), ("INFO:x", "X is not a")])
def test_no_levels(text, words):
    with pytest.raises(ConfigError, match=words):
        read_level(text)


def test_facilities_have_the_numbers_of_syslog():
    known = {name.upper(): number for name, number in logging.handlers.SysLogHandler.facility_names.items()}
    assert FACILITIES.items() <= known.items()


def test_users():
    assert read_user("rtpproxy") == ("rtpproxy", "")
    assert read_user("rtpproxy:voice") == ("rtpproxy", "voice")
    for text in ("", ":", "rtpproxy:", ":voice"):
        with pytest.raises(ConfigError, match="USER or USER:GROUP is needed"):
            read_user(text)


@pytest.mark.parametrize(
    ("text", "mode"),
    [("0777", 0o777), ("777", 0o777), ("0660", 0o660), ("660", 0o660), ("0511", 0o511), ("0", 0), ("01770", 0o1770)],
)
def test_modes_are_octal(text, mode):
    assert read_mode(text) == mode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        # 0777, 0770, 0755 and 0600 as they were given to the C RTPproxy.
        ("511", "decimal 511, which is 0777: write -w 0777 to mean the same, or -w 0511 for that mode"),
        ("504", "decimal 504, which is 0770: write -w 0770 to mean the same, or -w 0504 for that mode"),
        ("493", "decimal 493, which is 0755: write -w 0755 to mean the same$"),
        ("384", "decimal 384, which is 0600: write -w 0600 to mean the same$"),
        ("1023", "decimal 1023, which is 01777"),
        ("09", "not an octal number up to 07777"),
        ("010000", "not an octal number up to 07777"),
        ("10000", "out of range: 0 to 07777"),
        ("99999", "out of range: 0 to 07777"),
        ("", "not an octal number"),
        ("-1", "not an octal number"),
        ("rwx", "not an octal number"),
        ("0660x", "not an octal number"),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", "not an octal number"),
        ("9" * 5000, "not an octal number"),
    ],
)
def test_modes_that_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        read_mode(text)


@pytest.mark.parametrize("mode", range(0o600, 0o1000))
def test_what_the_c_rtpproxy_read_never_means_something_else_unnoticed(mode):
    """Every mode that lets the owner in, in decimal as the C RTPproxy wants it, is refused."""
    with pytest.raises(ConfigError, match=f"write -w 0{mode:o} to mean the same"):
        read_mode(str(mode))


@given(st.text())
def test_whatever_is_given_is_a_mode_or_refused(text):
    try:
        assert 0 <= read_mode(text) <= 0o7777
    except ConfigError:
        return


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("", (0.85, 0.90)),
        ("0.85/0.9", (0.85, 0.90)),
        (".5/.999999", (0.5, 0.999999)),
        ("0.01/0.02", (0.01, 0.02)),
    ],
)
def test_limits_of_overload(text, limits):
    assert read_overload(text) == OverloadLimits(*limits)


@pytest.mark.parametrize(
    "text",
    [
        *("0.9", "0.9/0.85", "0.9/0.9", "85/90", "0.5/1", "0.5/1.0", "0/0.5", "0.0/0.5", "0.5/0.6/0.7", "0.5,0.6"),
        *(" 0.5/0.6", "0.5/0.6\n", "-0.5/0.6", "nan/inf", "0.5/", "/0.5", "0.5/0." + 30 * "9", "5e-1/.6"),
        "\N{ARABIC-INDIC DIGIT ZERO}.5/0.6",
    ],
)
def test_what_are_no_limits_of_overload(text):
    with pytest.raises(ConfigError, match="write LOW/HIGH, two loads between 0 and 1, such as"):
        read_overload(text)
