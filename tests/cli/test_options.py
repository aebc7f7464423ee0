"""The arguments of options (protocol.md 12.1), and the table that help, manual page and documentation are made of."""

import dataclasses
import inspect
import logging.handlers
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.cli import options
from rtpproxy.cli.arguments import make_config
from rtpproxy.cli.host import look_nothing_up
from rtpproxy.cli.options import (
    GROUPS,
    WITHOUT_EFFECT,
    member_of,
    number_between,
    one_of,
    read_level,
    read_mode,
    read_tee_memory,
    read_user,
    written,
)
from rtpproxy.config import Config, PortsMode
from rtpproxy.errors import ConfigError
from rtpproxy.process.syslog import FACILITIES

OPTIONS = [option for group in GROUPS for option in group.options]
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


def test_every_option_is_described():
    assert len({option.flag for option in OPTIONS}) == len({option.field for option in OPTIONS}) == len(OPTIONS)
    for option in OPTIONS:
        assert re.fullmatch(r"-[a-zA-Z0-9]|--[a-z_]+|--[a-z]+-[a-z]+", option.flag)
        assert option.field.isidentifier()
        assert option.alias == "" or re.fullmatch(r"--[a-z]+", option.alias)
        for text in (option.help, option.more):
            assert text == "" or (text.endswith(".") and text[0].isupper()), option.flag
        assert option.help


# Defaults

WITHOUT_FIELD = {
    "listen6": "goes into `listen`, as -l",
    "advertised": "goes into `listen`",
    "is_numeric": "says how names are read",
    "is_bridge_symmetric": "goes into `is_asymmetric`",
    "is_pcap": "goes into `record_format`",
    **dict.fromkeys(("shows_protocol", "shows_version", "shows_clock", "shows_help"), "prints something and exits"),
    **dict.fromkeys(("modules", "module"), "is refused"),
    **dict.fromkeys(WITHOUT_EFFECT, "has no effect"),
}
"""Options that set no field of the configuration under their name, and why."""
WITHOUT_OPTION = {
    "is_bridging": "set by -l A/B",
    "group": "set by -u USER:GROUP",
    "is_pid_file_required": "set by -p",
}
"""Fields that no option is named for, and what sets them."""


def test_every_option_names_a_field_of_the_configuration():
    fields, options = {field.name for field in dataclasses.fields(Config)}, {option.field for option in OPTIONS}
    assert options - WITHOUT_FIELD.keys() == fields - WITHOUT_OPTION.keys()
    assert WITHOUT_FIELD.keys() == options - fields
    assert WITHOUT_OPTION.keys() == fields - options


def test_defaults_are_those_of_the_configuration():
    """Each default that is shown can be given as an argument, and means the same."""
    long = {"--ports", "--latching", "--offload", "--max-wait", "--record-format", "--tee-memory"}
    shown = {option.flag: option for option in OPTIONS if option.default and option.write is written}
    assert shown.keys() == {"-m", "-M", "-t", "-T", "-p", "-d", "-s", *long}
    for option in shown.values():
        value = getattr(Config(), option.field)
        assert written(value) == option.default
        if option.flag != "-s":
            assert option.read(option.default) == value


def test_nothing_given_is_the_configuration_as_it_is():
    values = {option.field: () if option.is_repeatable else None for option in OPTIONS}
    assert make_config(values, [], look_nothing_up) == Config()


CHANGED = """
import dataclasses, sys
from rtpproxy import config

@dataclasses.dataclass(frozen=True)
class Changed(config.Config):
    idle_timeout_s: int = 4711
    highest_port: int = 50001
    log_level: str = "CRIT"

config.Config = Changed
from rtpproxy.cli import command, manual

if sys.argv[1:]:
    command.main()
sys.stdout.write(manual.page() + manual.markdown())
"""
"""A program whose configuration has other defaults; nothing else is changed."""


@pytest.mark.parametrize(
    ("arguments", "forms"),
    [
        (["--help"], ["[default: 4711]", "[default: 50001]", "[default: CRIT]"]),
        ([], ["[default: 4711]", "[default: 50001]", "Default: `4711`", "Default: `50001`", "Default: `CRIT`"]),
    ],
)
def test_a_changed_default_is_shown_everywhere(arguments, forms):
    command = [sys.executable, "-c", CHANGED, *arguments]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [form for form in forms if form not in text] == []
    for old in (Config().idle_timeout_s, Config().highest_port, Config().log_level):
        assert f"efault: {old}]" not in text
        assert f"efault: `{old}`" not in text


def test_a_changed_default_holds():
    """The timeout of calls that nobody answered follows the idle timeout."""
    code = CHANGED.replace("if sys.argv[1:]:", "if False:") + (
        "from rtpproxy.cli.arguments import make_config\n"
        "from rtpproxy.cli.options import GROUPS\n"
        "values = {one.field: () if one.is_repeatable else None for group in GROUPS for one in group.options}\n"
        "made = make_config(values, [], None)\n"
        "print(made.idle_timeout_s, made.half_open_timeout_s, made.port_max, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "4711 4711 50000\n"


def test_help_texts_repeat_no_default():
    """A number written by hand would stay when the default changes."""
    numbers = {str(value) for value in (35000, 65000, 22222, 0o755)} | {"0755"}
    source = inspect.getsource(options)
    assert [number for number in numbers if number in source] == []
