"""The command line: options to a Config, and mistakes to one line and an exit status."""

import socket
import sys
from collections.abc import Callable
from typing import Any

import click

from rtpproxy import daemon
from rtpproxy.addr import is_ipv4
from rtpproxy.config import (
    DEFAULT_CONTROL_PATH,
    DEFAULT_PID_FILE,
    Config,
    ControlAddress,
    ControlKind,
    OffloadMode,
    PortsMode,
    parse_control_address,
    port_range,
)
from rtpproxy.control.messages import BASE_VERSION, SUPPORTED_EXTENSIONS
from rtpproxy.errors import ConfigError, RtpproxyError

LEVELS = ("DBUG", "INFO", "WARN", "ERR", "CRIT")
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]
_PORT = click.IntRange(1, 65535)
_SECONDS = click.IntRange(1, 1 << 31)


def _print_software_version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        click.echo(version("rtpproxy"))
        context.exit()


def _print_protocol_version(context: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        click.echo(f"Basic version: {BASE_VERSION.decode()}")
        for date, text in SUPPORTED_EXTENSIONS.items():
            if date != BASE_VERSION:
                click.echo(f"Extension {date.decode()}: {text}")
        context.exit()


def _read_level(_: click.Context, __: click.Parameter, text: str) -> str:
    level = text.partition(":")[0].upper()
    if level not in LEVELS:
        raise click.BadParameter(f"{text!r} is not a level; use one of {', '.join(LEVELS)}")
    facility = text.partition(":")[2].upper().removeprefix("LOG_")
    if facility and facility not in daemon.FACILITIES:
        raise click.BadParameter(f"{facility!r} is not a syslog facility")
    return f"{level}:{facility}" if facility else level


def _flag(name: str, callback: Callable[[click.Context, click.Parameter, bool], None], text: str) -> _Decorator:
    return click.option(name, is_flag=True, is_eager=True, expose_value=False, callback=callback, help=text)


@click.command(context_settings={"help_option_names": ["--help"], "max_content_width": 100})
@click.option("-f", "is_foreground", is_flag=True, help="Stay in the foreground and log to standard error.")
@click.option("-F", "is_root_allowed", is_flag=True, help="Run as root although a control socket is reached by UDP.")
@_flag("-v", _print_protocol_version, "Print the protocol version and extensions, and exit.")
@_flag("-V", _print_software_version, "Print the software version, and exit.")
@click.option(
    *("-l", "listen"),
    multiple=True,
    metavar="ADDR",
    help="IPv4 address to have media ports on. Default: all local addresses.",
)
@click.option(
    *("-s", "sockets"),
    multiple=True,
    metavar="SOCKET",
    help="Control socket: unix:PATH (a command a connection), cunix:PATH (a command a line) or udp:HOST:PORT. "
    f"Any number of times. Default: unix:{DEFAULT_CONTROL_PATH}.",
)
@click.option("-m", "low", type=_PORT, default=35000, show_default=True, help="Lowest media port.")
@click.option("-M", "high", type=_PORT, default=65000, show_default=True, help="Highest media port.")
@click.option("-b", "is_sequential", is_flag=True, help="Allocate ports in ascending order, not a random one.")
@click.option(
    *("-T", "idle_timeout_s"),
    type=_SECONDS,
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="End an established session after so long without media.",
)
@click.option(
    *("-W", "setup_timeout_s"),
    type=_SECONDS,
    metavar="SECONDS",
    help="End a session that nobody answered after so long. Default: as -T.",
)
@click.option(
    *("-d", "log_level"),
    default="ERR",
    show_default=True,
    metavar="LEVEL[:FACILITY]",
    callback=_read_level,
    help=f"Log from this level up: {', '.join(LEVELS)}. The facility is syslog's, in the background.",
)
@click.option("-p", "pid_file", default=DEFAULT_PID_FILE, show_default=True, metavar="FILE", help="Process id file.")
@click.option(
    "--offload",
    type=click.Choice([mode.value for mode in OffloadMode]),
    default="auto",
    show_default=True,
    help="Who forwards packets: the kernel where it can (auto), the kernel on every interface or do not start (xdp), "
    "userspace (off).",
)
@click.option(
    *("--interface", "interfaces"),
    multiple=True,
    metavar="NAME",
    help="Interface for the kernel to forward on. Any number of times. Default: those that carry a listen address.",
)
@click.option(
    "--ports",
    type=click.Choice([mode.value for mode in PortsMode]),
    default="auto",
    show_default=True,
    help="How media ports are owned: a few sockets for all of them (steered; needs BPF), a socket per stream (bound), "
    "or the former where it can be had (auto).",
)
def rtpproxy(**options: Any) -> None:  # noqa: ANN401 - click's own types
    """Relay RTP between phones, for a SIP proxy or B2BUA that asks on a control socket.

    After the first packets of a call the kernel forwards the rest. Without -f it becomes a daemon.
    """
    sys.exit(daemon.run(make_config(**options)))


def make_config(  # noqa: PLR0913 - one parameter an option
    *,
    listen: tuple[str, ...],
    sockets: tuple[str, ...],
    low: int,
    high: int,
    setup_timeout_s: int | None,
    idle_timeout_s: int,
    offload: str,
    ports: str,
    **others: Any,  # noqa: ANN401 - passed through by name
) -> Config:
    """The configuration that the options ask for. Raises ConfigError."""
    first, last = port_range(low, high)
    mode, ownership = OffloadMode(offload), PortsMode(ports)
    if mode is OffloadMode.XDP and ownership is PortsMode.BOUND:
        raise ConfigError("--offload xdp needs steered ports; leave --ports bound out")
    if others["interfaces"] and (mode is OffloadMode.OFF or ownership is PortsMode.BOUND):
        raise ConfigError("--interface says where the kernel forwards: not with --offload off or --ports bound")
    control = tuple(parse_control_address(text) for text in sockets)
    if len(set(control)) < len(control):
        raise ConfigError("the same control socket is given twice with -s")
    return Config(
        control=control or (ControlAddress(ControlKind.UNIX, DEFAULT_CONTROL_PATH),),
        listen_host=_listen_host(listen),
        port_min=first,
        port_max=last,
        idle_timeout_s=idle_timeout_s,
        setup_timeout_s=setup_timeout_s or idle_timeout_s,
        offload=mode,
        ports=ownership,
        **others,
    )


def _listen_host(addresses: tuple[str, ...]) -> str:
    if len(addresses) > 1:
        raise ConfigError("-l: only one listen address is supported so far")
    address = addresses[0] if addresses else "*"
    if address in ("*", "0.0.0.0"):
        return ""
    if is_ipv4(address):
        return address
    if any(mark in address for mark in "/@=:"):
        raise ConfigError(f"-l {address}: bridging, labels, advertised and IPv6 addresses are not supported so far")
    try:
        found = socket.getaddrinfo(address, None, socket.AF_INET, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConfigError(f"-l {address}: not an IPv4 address, and not found as a name: {reason}") from error
    return str(found[0][4][0])


def main() -> None:
    """Entry point of the `rtpproxy` program."""
    try:
        rtpproxy(standalone_mode=False)
    except ConfigError as error:
        click.echo(f"rtpproxy: {error}", err=True)
        sys.exit(2)
    except RtpproxyError as error:
        click.echo(f"rtpproxy: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        click.echo(f"rtpproxy: {error.format_message()} (see rtpproxy --help)", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
