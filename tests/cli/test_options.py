"""The table that help, manual page and documentation are made of."""

import dataclasses
import inspect
import re
import subprocess
import sys

import pytest

from rtpproxy.cli import options
from rtpproxy.cli.arguments import make_config
from rtpproxy.cli.host import look_nothing_up
from rtpproxy.cli.options import GROUPS, written
from rtpproxy.config import Config

OPTIONS = [option for group in GROUPS for option in group.options]


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
    **dict.fromkeys(("cdr", "hep", "hep_id", "dtmf_notify", "config_file", "module_files"), "goes into `modules`"),
}
"""Options that set no field of the configuration under their name, and why."""
WITHOUT_OPTION = {
    "is_bridging": "set by -l A/B",
    "group": "set by -u USER:GROUP",
    "is_pid_file_required": "set by -p",
    "modules": "set by --cdr, --hep, --dtmf-notify, --config, --dso",
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
