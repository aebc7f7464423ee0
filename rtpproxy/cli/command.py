"""The command line: options to a Config, and mistakes to one line and an exit status."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import click

from rtpproxy.addr import parse_ipv4, parse_ipv6
from rtpproxy.cli.media_addresses import Asked, Resolve, read_listening
from rtpproxy.cli.options import GROUPS, WITHOUT_EFFECT, Option
from rtpproxy.config import (
    DEFAULT_CONTROL_PATH,
    DEFAULT_SOCKET_MODE,
    DSCP_MASK,
    Config,
    ControlAddress,
    ControlKind,
    LatchingMode,
    NotifyTarget,
    OffloadMode,
    PortsMode,
    check_notify_targets,
    parse_control_address,
    parse_notify_target,
    port_range,
)
from rtpproxy.errors import ConfigError, RtpproxyError

_LONG = [option.flag for group in GROUPS for option in group.options if option.flag.startswith("--")]
_AS_READ = (
    *("is_sequential", "is_doubling", "interfaces", "idle_timeout_s", "is_independent"),
    *("is_foreground", "is_root_allowed", "pid_file", "keeps_directory", "keeps_descriptors"),
    *("file_limit", "nice", "log_level"),
)
"""Options whose values go into the configuration under the same name."""


# Options to a configuration


def make_config(values: Mapping[str, Any], asked: Sequence[Asked], resolve: Resolve) -> Config:
    """The configuration that the options ask for. Raises ConfigError.

    `values` has the value of every option by its field, None where there is neither argument nor default; `asked` are
    the listen addresses in the order of the command line.
    """
    first, last = port_range(values["low"], values["high"])
    listening = read_listening(asked, values["advertised"], resolve)
    user, group = values["user"] or ("", "")
    mode, ownership = OffloadMode(values["offload"]), PortsMode(values["ports"])
    _check_kernel(mode, ownership, values["interfaces"])
    return Config(
        control=_control(values),
        listen=listening.addresses,
        is_bridging=listening.is_bridging,
        is_asymmetric=values["is_asymmetric"] or (listening.is_bridging and not values["is_bridge_symmetric"]),
        latching=LatchingMode(values["latching"]),
        port_min=first,
        port_max=last,
        setup_timeout_s=values["setup_timeout_s"] or values["idle_timeout_s"],
        notify=_notify(values["notify"], resolve),
        user=user,
        group=group,
        socket_mode=_socket_mode(values["mode"]) if group else None,
        realtime_policy=values["realtime_policy"] or "",
        tos=values["tos"] & DSCP_MASK,
        offload=mode,
        ports=ownership,
        **{name: values[name] for name in _AS_READ},
    )


def remarks(values: Mapping[str, Any], config: Config) -> list[str]:
    """What the person who starts the relay should know, though it starts."""
    said = [f"{flag} has no effect" for field, flag in WITHOUT_EFFECT.items() if values[field] not in (None, False)]
    if values["advertised"] is not None and not config.is_bridging:
        said.append("-A has no effect outside bridge mode; write ADDR=NAME in -l or -6")
    if values["mode"] is not None and not config.group:
        said.append("-w has no effect without a group in -u, as with the C RTPproxy; write -u USER:GROUP")
    if values["is_bridge_symmetric"] and not config.is_bridging:
        said.append("--bridge_symmetric has no effect outside bridge mode")
    return said


def _control(values: Mapping[str, Any]) -> tuple[ControlAddress, ...]:
    control = tuple(parse_control_address(text) for text in values["sockets"])
    # Two kinds of Unix sockets cannot share a path, either.
    places = {os.path.abspath(address.path) if address.path else address for address in control}
    if len(places) < len(control):
        raise ConfigError("the same control socket is given twice with -s")
    for address in control:
        if address.kind.is_stdio and not values["is_foreground"]:
            raise ConfigError(f"-s {address}: stdio command mode requires -f switch")
        if values["is_numeric"] and address.host and not _numeric(address.host):
            raise ConfigError(f"-s {address}: the host is a name, and --no_resolve is given")
    return control or (ControlAddress(ControlKind.UNIX, DEFAULT_CONTROL_PATH),)


def _notify(texts: Sequence[str], resolve: Resolve) -> tuple[NotifyTarget, ...]:
    targets = tuple(parse_notify_target(text) for text in texts)
    check_notify_targets(targets)
    return tuple(_resolved(target, resolve) for target in targets)


def _resolved(target: NotifyTarget, resolve: Resolve) -> NotifyTarget:
    if not target.host:
        return target
    try:
        return replace(target, host=_numeric(target.host) or resolve(target.host, None))
    except ConfigError as error:
        raise ConfigError(f"-n {target.text}: not an address, {error}") from error


def _numeric(host: str) -> str | None:
    return parse_ipv4(host) or parse_ipv6(host)


def _socket_mode(mode: int | None) -> int:
    return DEFAULT_SOCKET_MODE if mode is None else mode


def _check_kernel(mode: OffloadMode, ownership: PortsMode, interfaces: Sequence[str]) -> None:
    if mode.is_required and ownership is PortsMode.BOUND:
        raise ConfigError(f"--offload {mode.value} needs steered ports; leave --ports bound out")
    if interfaces and (mode is OffloadMode.OFF or ownership is PortsMode.BOUND):
        raise ConfigError("--interface says where the kernel forwards: not with --offload off or --ports bound")


def look_up(name: str, is_ipv6: bool | None) -> str:
    """Ask the host's resolver for an address of that family, None for either. Raises ConfigError."""
    import socket

    family = {None: socket.AF_UNSPEC, False: socket.AF_INET, True: socket.AF_INET6}[is_ipv6]
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConfigError(f"and not found as a name: {reason}") from error
    return str(found[0][4][0])


def look_nothing_up(_: str, __: bool | None) -> str:
    """Under `--no_resolve`. Raises ConfigError."""
    raise ConfigError("and --no_resolve forbids names")


# click's view of the table of options


def _print_software_version() -> None:
    from importlib.metadata import version

    click.echo(version("rtpproxy"))


def _print_protocol_version() -> None:
    from rtpproxy.control.messages import BASE_VERSION, SUPPORTED_EXTENSIONS

    click.echo(f"Basic version: {BASE_VERSION.decode()}")
    for date, text in SUPPORTED_EXTENSIONS.items():
        if date != BASE_VERSION:
            click.echo(f"Extension {date.decode()}: {text}")


def _print_clock() -> None:
    click.echo("CLOCK_MONOTONIC")


_PRINTERS: dict[str, Callable[[], None]] = {
    "shows_version": _print_software_version,
    "shows_protocol": _print_protocol_version,
    "shows_clock": _print_clock,
}


class _Command(click.Command):
    """A command whose help has the groups of the table, and that knows the order of its listen addresses."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = [_completed(argument) for argument in args]
        values, _, order = self.make_parser(ctx).parse_args(list(args))
        texts = {name: iter(values.get(name, ())) for name in ("listen", "listen6")}
        ctx.obj = [Asked(next(texts[one.name]), one.name == "listen6") for one in order if one.name in texts]
        return super().parse_args(ctx, args)

    def format_options(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        for group in GROUPS:
            with formatter.section(group.title):
                formatter.write_dl([(option.synopsis, option.text) for option in group.options])


def _completed(argument: str) -> str:
    """Long options may be abbreviated as long as it is clear which one is meant, as getopt_long(3) has it."""
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name == "--" or name in _LONG:
        return argument
    meant = [flag for flag in _LONG if flag.startswith(name)]
    return f"{meant[0]}{equals}{value}" if len(meant) == 1 else argument


def _click_option(option: Option) -> click.Option:
    if option.field in _PRINTERS:
        return click.Option(
            [option.flag, option.field],
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
        if given is None:
            return option.read(option.default) if option.default else None
        return _read(option, given)

    return callback


def _read(option: Option, text: str) -> object:
    try:
        return option.read(text)
    except ConfigError as error:
        raise ConfigError(f"{option.flag} {text}".rstrip() + f": {error}") from error


@click.pass_context
def _run(context: click.Context, /, **values: Any) -> None:  # noqa: ANN401 - click's own types
    from rtpproxy.process import daemon

    config = make_config(values, context.obj, look_nothing_up if values["is_numeric"] else look_up)
    for remark in remarks(values, config):
        click.echo(f"rtpproxy: warning: {remark}", err=True)
    sys.exit(daemon.run(config))


rtpproxy = _Command(
    "rtpproxy",
    callback=_run,
    params=[_click_option(option) for group in GROUPS for option in group.options if option.flag != "--help"],
    help="Relay RTP between phones, for a SIP proxy or B2BUA that asks on a control socket.\n\n"
    "After the first packets of a call the kernel forwards the rest. Without -f it becomes a daemon.",
    context_settings={"help_option_names": ["--help"], "max_content_width": 100},
)


def main() -> None:
    """Entry point of the `rtpproxy` program."""
    try:
        rtpproxy(standalone_mode=False)
    except ConfigError as error:
        _end(str(error), 2)
    except RtpproxyError as error:
        _end(str(error), 1)
    except click.ClickException as error:
        _end(f"{error.format_message()} (see rtpproxy --help)", error.exit_code)
    except click.Abort:
        sys.exit(130)


def _end(message: str, status: int) -> NoReturn:
    """Say what is wrong in one line, whatever the arguments hold that it quotes."""
    parts = (part if part.isprintable() else part.encode("unicode_escape").decode() for part in message)
    click.echo(f"rtpproxy: {''.join(parts)}", err=True)
    sys.exit(status)
