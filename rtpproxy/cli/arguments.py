"""Turns the values of options into a Config, and says what is wrong with them (protocol.md 1.1, 7.1, 10.1, 12.1)."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from ipaddress import IPv6Address
from typing import Any

from rtpproxy.addr import parse_ipv4, parse_ipv6
from rtpproxy.cli.host import check_no_interface
from rtpproxy.cli.media_addresses import Asked, Resolve, read_listening
from rtpproxy.cli.modules import MAX_FILE_BYTES, read_configuration
from rtpproxy.cli.options import DEFAULTS
from rtpproxy.config import (
    DEFAULT_CONTROL_PORT,
    DEFAULT_SOCKET_MODE,
    DSCP_MASK,
    MAX_NOTIFY_TARGETS,
    MAX_NOTIFY_WILDCARDS,
    NOTIFY_WILDCARD,
    CdrSettings,
    Config,
    ControlAddress,
    ControlKind,
    DtmfSettings,
    HepSettings,
    ModuleSettings,
    NotifyTarget,
    OffloadMode,
    PortsMode,
    RecordFormat,
)
from rtpproxy.errors import ConfigError

_KINDS_BY_PREFIX = {kind.value: kind for kind in ControlKind}
_MADE_HERE = {"control", "listen", "notify", "user", "socket_mode", "is_asymmetric", "tos", "modules"}
"""Fields whose value is computed from several options, or from their text."""
_MOST_NAME_CHARACTERS = 253
_HOST_AND_PORT = re.compile(r"(?:(?P<host>[^/]*):)?(?P<port>[0-9]+)")
"""Matches a text that most likely lacks its prefix: `HOST:PORT` or a port alone, and no path."""


def make_config(values: Mapping[str, Any], asked: Sequence[Asked], resolve: Resolve) -> Config:
    """Make the configuration that the options ask for. Raises ConfigError.

    `values` has the value of every option by its field: None, False or () where it was not given, so that the default
    of `Config` holds. `asked` are the listen addresses in the order of the command line.
    """
    given = {name: value for name, value in values.items() if value is not None and value is not False and value != ()}
    names = {field.name for field in fields(Config)} - _MADE_HERE
    plain = Config(**{name: value for name, value in given.items() if name in names})
    _check_ports(plain)
    _check_kernel(plain)
    _check_recording(plain, is_pcap=values["is_pcap"])
    listening = read_listening(asked, values["advertised"], resolve)
    user, group = values["user"] or ("", "")
    config = replace(
        plain,
        listen=listening.addresses,
        is_bridging=listening.is_bridging,
        is_asymmetric=values["is_asymmetric"] or (listening.is_bridging and not values["is_bridge_symmetric"]),
        notify=_notify(values["notify"], resolve),
        user=user,
        group=group,
        socket_mode=_socket_mode(values["socket_mode"], group),
        is_pid_file_required="pid_file" in given,
        record_format=RecordFormat.PCAP if values["is_pcap"] else plain.record_format,
        modules=_modules(values, resolve),
    )
    if values["control"]:
        config = replace(config, control=_control(values))
    return replace(config, tos=given.get("tos", config.tos) & DSCP_MASK)


def remarks(values: Mapping[str, Any], config: Config) -> list[str]:
    """List the warnings about options that have no effect; the relay starts all the same."""
    said = []
    if values["advertised"] is not None and not config.is_bridging:
        said.append("-A has no effect outside bridge mode; write ADDR=NAME in -l or -6")
    if config.control_allow and not any(_has_hosts(address.kind) for address in config.control):
        said.append("--control-allow has no effect without a UDP or TCP control socket; -w is for Unix sockets")
    if values["is_bridge_symmetric"] and not config.is_bridging:
        said.append("--bridge_symmetric has no effect outside bridge mode")
    if config.records_all and not config.record_directory:
        said.append("-a records nothing without a directory for recordings, -r")
    if values["hep_id"] is not None and values["hep"] is None:
        said.append("--hep-id has no effect without --hep")
    return said


def _has_hosts(kind: ControlKind) -> bool:
    """True if commands may come from other hosts: not from a file or standard input."""
    return not (kind.is_unix or kind.is_stdio)


def _check_ports(config: Config) -> None:
    if config.port_min > config.port_max:
        raise ConfigError(
            f"ports {config.lowest_port} to {config.highest_port}: no room for a pair; raise -M or lower -m"
        )


def _check_kernel(config: Config) -> None:
    is_bound = config.ports is PortsMode.BOUND
    if config.offload.is_required and is_bound:
        raise ConfigError(f"--offload {config.offload.value} needs steered ports; leave --ports bound out")
    if config.interfaces and (config.offload is OffloadMode.OFF or is_bound):
        raise ConfigError("--interface says where the kernel forwards: not with --offload off or --ports bound")


def _check_recording(config: Config, *, is_pcap: bool) -> None:
    if config.spool_directory and not config.record_directory:
        raise ConfigError(f"-S {config.spool_directory}: a spool needs the directory that files are moved to, -r")
    if is_pcap and config.record_format not in (DEFAULTS["record_format"], RecordFormat.PCAP):
        raise ConfigError(f"-P is --record-format pcap, and not {config.record_format.value}")


def _socket_mode(mode: int | None, group: str) -> int | None:
    return DEFAULT_SOCKET_MODE if mode is None and group else mode


# Control sockets


def _control(values: Mapping[str, Any]) -> tuple[ControlAddress, ...]:
    control = tuple(parse_control_address(text) for text in values["control"])
    # Two kinds of Unix sockets cannot share a path, either.
    places = {os.path.abspath(address.path) if address.path else address for address in control}
    if len(places) < len(control):
        raise ConfigError("the same control socket is given twice with -s")
    for address in control:
        if address.kind.is_stdio and not values["is_foreground"]:
            raise ConfigError(f"-s {address}: stdio command mode requires -f switch")
        if address.host and not _numeric(address.host):
            _check_name(address, is_forbidden=values["is_numeric"])
    return control


def _check_name(address: ControlAddress, *, is_forbidden: bool) -> None:
    """Raise ConfigError for a forbidden host name, and for the name of an interface. Others are looked up later."""
    if is_forbidden:
        raise ConfigError(f"-s {address}: the host is a name, and --no_resolve is given")
    try:
        check_no_interface(address.host, address.kind.is_ipv6)
    except ConfigError as error:
        raise ConfigError(f"-s {address}: not an address, {error}") from error


def parse_control_address(text: str) -> ControlAddress:
    """Read the argument of `-s`. A text with no known prefix is the path of a `unix` socket (protocol.md 1.1).

    Raises ConfigError for an empty path, an unusable host or port, text where none belongs, and for HOST:PORT or a port
    without a prefix.
    """
    prefix, colon, rest = text.partition(":")
    if not colon or prefix not in _KINDS_BY_PREFIX:
        _check_is_path("-s", text, "udp", "udp6")
        return _unix_address(ControlKind.UNIX, text)
    kind = _KINDS_BY_PREFIX[prefix]
    if kind.is_unix:
        return _unix_address(kind, rest)
    if kind.is_stdio or kind is ControlKind.SYSTEMD:
        if rest:
            raise ConfigError(f"control socket {text}: nothing may follow {prefix}:")
        return ControlAddress(kind)
    return _internet_address(kind, rest)


def _check_is_path(flag: str, text: str, prefix: str, prefix_ipv6: str) -> None:
    """Raise ConfigError for HOST:PORT and for a port alone: a forgotten prefix would make a socket file of that name.

    A text with a slash is a path, and so is one that does not end in a port.
    """
    found = _HOST_AND_PORT.fullmatch(text)
    if found is None:
        return
    host, port = found["host"] or "", found["port"]
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if _is_ipv6(bare):
        advice = f"{prefix_ipv6}:{host}:{port}"
    elif host:
        advice = f"{prefix}:{host}:{port}"
    else:
        advice = f"{prefix}:127.0.0.1:{port}"
    raise ConfigError(f"{flag} {text}: write {advice}, or unix:./{text} for a file of that name")


def _unix_address(kind: ControlKind, path: str) -> ControlAddress:
    if not path:
        raise ConfigError("control socket: the path is empty")
    return ControlAddress(kind, path=path)


def _internet_address(kind: ControlKind, text: str) -> ControlAddress:
    host, port_text = _split_host_port(kind, text)
    what = f"control socket {kind.value}:{text}"
    if ":" not in text and text.isascii() and text.isdecimal():
        loopback = "::1" if kind.is_ipv6 else "127.0.0.1"
        raise ConfigError(
            f"{what}: a port without a host; write {kind.value}:*:{text} for all addresses of this host, "
            f"or {kind.value}:{loopback}:{text} for this host only"
        )
    port = _read_port(what, port_text)
    if not host:
        raise ConfigError(f"{what}: the host is empty; write * for any address")
    return ControlAddress(kind, host="" if host == "*" else host, port=port)


def _read_port(what: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) < 65536):
        raise ConfigError(f"{what}: port {text!r} is not a number from 1 to 65535")
    return int(text)


def _split_host_port(kind: ControlKind, text: str) -> tuple[str, str]:
    """Split at the last colon, as the C RTPproxy does: `::1:9000` is host `::1`.

    Two forms are understood here that the C RTPproxy does not know: brackets around an IPv6 host, and an IPv6 host
    without a port where the split would leave no IPv6 host (`::1`).
    """
    host, colon, port_text = text.rpartition(":")
    is_alone = not colon or (kind.is_ipv6 and (text.endswith("]") or (_is_ipv6(text) and not _is_ipv6(host))))
    if is_alone:
        host, port_text = text, str(DEFAULT_CONTROL_PORT)
    if kind.is_ipv6 and host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    return host, port_text


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def _numeric(host: str) -> str | None:
    return parse_ipv4(host) or parse_ipv6(host)


# Targets of notifications


def _notify(texts: Sequence[str], resolve: Resolve) -> tuple[NotifyTarget, ...]:
    targets = tuple(parse_notify_target(text) for text in texts)
    check_notify_targets(targets)
    return tuple(_resolved(target, resolve) for target in targets)


def _resolved(target: NotifyTarget, resolve: Resolve, flag: str = "-n") -> NotifyTarget:
    if not target.host:
        return target
    return replace(target, host=_look_up(f"{flag} {target.text}", target.host, resolve))


def _look_up(what: str, host: str, resolve: Resolve) -> str:
    try:
        return _numeric(host) or resolve(host, None)
    except ConfigError as error:
        raise ConfigError(f"{what}: not an address, {error}") from error


def parse_notify_target(text: str, flag: str = "-n") -> NotifyTarget:
    """Read the argument of `-n` (protocol.md 10.1). A text with neither `unix:` nor `tcp:` is a path.

    Raises ConfigError for an empty path, for a tcp: target that is not HOST:PORT, and for HOST:PORT without a prefix.
    Names are not looked up here. `flag` is for errors.
    """
    if text.startswith("tcp:"):
        return _parse_tcp_target(text, flag)
    path = text.removeprefix("unix:")
    if not path:
        raise ConfigError(f"option {flag} {text!r}: the path is empty")
    if path == text:
        _check_is_path(f"option {flag}", text, "tcp", "tcp")
    return NotifyTarget(path=path, text=f"unix:{path}")


def _parse_tcp_target(text: str, flag: str) -> NotifyTarget:
    host, _, port_text = text.removeprefix("tcp:").rpartition(":")
    port = _read_port(f"option {flag} {text}", port_text)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or "[" in host or "]" in host:
        raise ConfigError(f"option {flag} {text}: not tcp:HOST:PORT")
    return NotifyTarget(host="" if host == NOTIFY_WILDCARD else host, port=port, text=text)


def check_notify_targets(targets: Sequence[NotifyTarget]) -> None:
    """Raise ConfigError when there are more targets, or wildcards among them, than protocol.md 10.1 allows."""
    if len(targets) > MAX_NOTIFY_TARGETS:
        raise ConfigError(f"option -n: {len(targets)} targets; at most {MAX_NOTIFY_TARGETS} are allowed")
    wildcards = sum(target.is_wildcard for target in targets)
    if wildcards > MAX_NOTIFY_WILDCARDS:
        raise ConfigError(
            f"option -n: {wildcards} targets with {NOTIFY_WILDCARD}; at most {MAX_NOTIFY_WILDCARDS} are allowed"
        )


# Modules


def _modules(values: Mapping[str, Any], resolve: Resolve) -> tuple[ModuleSettings, ...]:
    made: list[ModuleSettings] = []
    if values["config_file"] is not None:
        made += _configured(values["config_file"], values["is_numeric"])
    made += values["module_files"]
    if values["cdr"] is not None:
        made.append(CdrSettings(values["cdr"]))
    if values["hep"] is not None:
        hep = _check_host(values["hep"], "--hep", values["is_numeric"])
        made.append(hep if values["hep_id"] is None else replace(hep, capture_id=values["hep_id"]))
    if values["dtmf_notify"] is not None:
        flag = "--dtmf-notify"
        told = DtmfSettings(_resolved(parse_notify_target(values["dtmf_notify"], flag), resolve, flag))
        if any(isinstance(one, DtmfSettings) for one in made):  # commands name the first instance, M3:1
            made = [told if isinstance(one, DtmfSettings) else one for one in made]
        else:
            made.append(told)
    paths = [os.path.abspath(one.path) for one in made if isinstance(one, CdrSettings)]
    if len(set(paths)) < len(paths):
        raise ConfigError(f"module acct_csv is to write to the same file twice: {paths[0]}")
    return tuple(made)


def _configured(path: str, is_numeric: bool) -> list[ModuleSettings]:
    what = f"--config {path}"
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a zero byte
        raise ConfigError(f"{what}: {error.strerror if isinstance(error, OSError) else error}") from error
    try:
        made = read_configuration(content)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from error
    what = f"{what}: capt_host"
    return [_check_host(one, what, is_numeric) if isinstance(one, HepSettings) else one for one in made]


def _check_host(hep: HepSettings, what: str, is_numeric: bool) -> HepSettings:
    """Refuse a name if `--no_resolve` does. Else it is looked up once the relay runs: calls need no collector."""
    if len(hep.host) > _MOST_NAME_CHARACTERS or not hep.host.isprintable() or " " in hep.host:
        raise ConfigError(f"{what} {hep.host!r}: neither an address nor the name of a host")
    if is_numeric and not _numeric(hep.host):
        raise ConfigError(f"{what} {hep.host}: not an address, and --no_resolve forbids names")
    return hep
