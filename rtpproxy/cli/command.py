"""The command line, by click: turns options into a Config, and mistakes into one line and an exit status."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from rtpproxy.cli.arguments import make_config, remarks
from rtpproxy.cli.host import look_nothing_up, look_up
from rtpproxy.cli.media_addresses import Asked
from rtpproxy.cli.options import GROUPS, Option
from rtpproxy.errors import ConfigError, RtpproxyError

_OPTIONS = [option for group in GROUPS for option in group.options]
_LISTEN = "rtpproxy.listen"
"""What click keeps the listen addresses by."""
_LONG = [flag for option in _OPTIONS for flag in option.flags if flag.startswith("--")]


def _print_software_version() -> None:
    from importlib.metadata import version

    click.echo(version("rtpproxy"))


def _print_protocol_version() -> None:
    from rtpproxy.control.messages import BASE_VERSION, SUPPORTED_EXTENSIONS

    click.echo(f"Basic version: {BASE_VERSION.decode()}")
    for date, text in SUPPORTED_EXTENSIONS.items():
        click.echo(f"Extension {date.decode()}: {text}")


def _print_clock() -> None:
    click.echo("CLOCK_MONOTONIC")


_PRINTERS: dict[str, Callable[[], None]] = {
    "shows_version": _print_software_version,
    "shows_protocol": _print_protocol_version,
    "shows_clock": _print_clock,
}


class _Command(click.Command):
    """Groups its help as the table of options does, and keeps the order of the listen addresses."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = [_completed(argument) for argument in args]
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        texts = {name: iter(values.get(name, ())) for name in ("listen", "listen6")}
        ctx.meta[_LISTEN] = [Asked(next(texts[one.name]), one.name == "listen6") for one in order if one.name in texts]
        return super().parse_args(ctx, args)

    def format_options(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        for group in GROUPS:
            with formatter.section(group.title):
                formatter.write_dl([(option.synopsis, option.text) for option in group.options])


def _completed(argument: str) -> str:
    """Complete an abbreviated long option if it is unambiguous, as getopt_long(3) does."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name == "--" or name in _LONG:
        return argument
    meant = [flag for flag in _LONG if flag.startswith(name)]
    return f"{meant[0]}{equals}{value}" if len(meant) == 1 else argument


def _click_option(option: Option) -> click.Option:
    if option.field in _PRINTERS:
        return click.Option(
            [*option.flags, option.field],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_and_exit(_PRINTERS[option.field]),
        )
    if not option.metavar:
        return click.Option([option.flag, option.field], is_flag=True, callback=_read_switch(option))
    shape: dict[str, Any] = {"multiple": option.is_repeatable}
    if option.may_lack_argument:
        shape = {"is_flag": False, "flag_value": ""}
    return click.Option([option.flag, option.field], type=click.UNPROCESSED, callback=_read_argument(option), **shape)


def _print_and_exit(show: Callable[[], None]) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
        if is_asked:
            show()
            context.exit()

    return callback


def _read_switch(option: Option) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def callback(_: click.Context, __: click.Parameter, is_given: bool) -> bool:
        if is_given:
            _read(option, "")
        return is_given

    return callback


def _read_argument(option: Option) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(_: click.Context, __: click.Parameter, given: str | tuple[str, ...] | None) -> object:
        if isinstance(given, tuple):
            return tuple(_read(option, text) for text in given)
        return None if given is None else _read(option, given)

    return callback


def _read(option: Option, text: str) -> object:
    try:
        return option.read(text)
    except ConfigError as error:
        raise ConfigError(f"{option.flag} {text}".rstrip() + f": {error}") from error


@click.pass_context
def _run(context: click.Context, /, **values: Any) -> None:  # noqa: ANN401 - click's own types
    # The linear algebra that numpy brings along would start a thread for each processor. Nothing here uses it.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from rtpproxy.process import daemon

    config = make_config(values, context.meta[_LISTEN], look_nothing_up if values["is_numeric"] else look_up)
    for remark in remarks(values, config):
        click.echo(f"rtpproxy: warning: {remark}", err=True)
    sys.exit(daemon.run(config, context.obj or ()))


rtpproxy = _Command(
    "rtpproxy",
    callback=_run,
    params=[_click_option(option) for option in _OPTIONS if option.field != "shows_help"],
    help="Relay RTP between phones, for a SIP proxy or B2BUA that sends commands to a control socket.\n\n"
    "After the first packets of a call the kernel forwards the rest. Without -f it becomes a daemon.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(bound: Sequence[int] = ()) -> None:
    """Run the command with the arguments of this process; `bound` are UDP sockets that `early` has bound for it."""
    try:
        rtpproxy(standalone_mode=False, obj=bound)
    except ConfigError as error:
        _end(str(error), 2)
    except RtpproxyError as error:
        _end(str(error), 1)
    except click.ClickException as error:
        _end(f"{error.format_message()} (see rtpproxy --help)", error.exit_code)
    except click.Abort:
        sys.exit(130)


def _end(message: str, status: int) -> NoReturn:
    """Print what is wrong and exit. The message stays one line, whatever is in the arguments that it quotes."""
    parts = (part if part.isprintable() else part.encode("unicode_escape").decode() for part in message)
    click.echo(f"rtpproxy: {''.join(parts)}", err=True)
    sys.exit(status)
