"""The relay's configuration: one frozen value, made by `cli`, passed to whoever needs it."""

from dataclasses import dataclass
from enum import Enum

from rtpproxy.errors import ConfigError

DEFAULT_CONTROL_PATH = "/var/run/rtpproxy.sock"
DEFAULT_CONTROL_PORT = 22222
_OTHER_TRANSPORTS = ("udp6", "tcp", "tcp6", "stdio", "stdioc", "systemd")
"""What the C RTPproxy knows besides; never the path of a Unix socket."""
DEFAULT_TOS = 0xB8
"""Expedited forwarding (protocol.md 6.3)."""
DEFAULT_PID_FILE = "/var/run/rtpproxy.pid"
DEFAULT_SOCKET_MODE = 0o755
"""Of Unix control sockets when `-u` names a group (protocol.md 1.7)."""


class ControlKind(Enum):
    """How commands are framed on a control socket (protocol.md 1.1)."""

    UNIX = "unix"
    """Unix stream socket, one command a connection."""
    CUNIX = "cunix"
    """Unix stream socket, one command a line."""
    UDP = "udp"
    """IPv4 datagrams with a cookie."""


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """Where one control socket listens: `path` for Unix sockets, else `host` (empty for any) and `port`."""

    kind: ControlKind
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        where = self.path if self.kind is not ControlKind.UDP else f"{self.host or '*'}:{self.port}"
        return f"{self.kind.value}:{where}"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An address of ours that media ports are on (protocol.md 7.2)."""

    host: str = ""
    """Numeric, in canonical form; empty for all local addresses of the family."""
    is_ipv6: bool = False
    label: str = ""
    """By which the modifier `l{label}` selects it; empty for none."""
    advertised: str = ""
    """Printed in replies in place of `host`; empty for `host` itself."""


@dataclass(frozen=True, slots=True)
class NotifyTarget:
    """Where `-n` tells timeouts to (protocol.md 10.1): `path` of a Unix socket, else TCP `host` and `port`."""

    path: str = ""
    host: str = ""
    """Numeric; empty, with a port, for the address that the controller's command came from."""
    port: int = 0


class LatchingMode(Enum):
    """Which learning rules hold (`--latching`)."""

    COMPATIBLE = "compatible"
    """Those of the C RTPproxy (protocol.md 5)."""
    STRICT = "strict"
    """No free window, every source remembered (protocol.md 16, items 6 and 7)."""


class OffloadMode(Enum):
    """What `--offload` asks for."""

    AUTO = "auto"
    """The best tier each interface can have."""
    XDP = "xdp"
    """Native XDP on every interface named or found, else refuse to start."""
    OFF = "off"
    """The kernel forwards nothing."""


class PortsMode(Enum):
    """How the relay owns its media ports (`--ports`)."""

    AUTO = "auto"
    """Steered where BPF can be loaded, bound where not."""
    STEERED = "steered"
    """One socket for all ports, fed by an sk_lookup program; refuse to start without it."""
    BOUND = "bound"
    """A UDP socket per stream."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the command line decides."""

    control: tuple[ControlAddress, ...] = (ControlAddress(ControlKind.UNIX, DEFAULT_CONTROL_PATH),)
    listen_host: str = ""
    """Of the first listen address; goes when the service knows several."""
    listen: tuple[ListenAddress, ...] = (ListenAddress(),)
    """Addresses that media ports are on; the first is the default. In bridge mode: internal, external."""
    is_bridging: bool = False
    """Bridge mode (protocol.md 7.3): `listen` holds exactly two addresses."""
    is_asymmetric: bool = False
    """What holds for a party whose command has neither `a` nor `s`."""
    latching: LatchingMode = LatchingMode.COMPATIBLE
    port_min: int = 35000
    """First RTP port, even."""
    port_max: int = 65000
    """Last port that may hold RTP, even; its RTCP port is one above."""
    is_sequential: bool = False
    """Allocate ports in ascending order instead of a random one."""
    idle_timeout_s: int = 60
    """Seconds without media until an established session ends."""
    setup_timeout_s: int = 60
    """Seconds until a session that has only one leg ends."""
    is_independent: bool = False
    """Each direction has a timer of its own, and the session ends when either runs out."""
    notify: tuple[NotifyTarget, ...] = ()
    tos: int = DEFAULT_TOS
    """Of IPv4 packets that leave, 0 to 255."""
    user: str = ""
    """User to become once everything is opened; empty to stay."""
    group: str = ""
    """Group to become; empty for the user's own."""
    socket_mode: int | None = None
    """Permission bits of Unix control sockets; None for what the umask gives."""
    file_limit: int | None = None
    """Open files to allow, soft and hard; None to leave it."""
    nice: int | None = None
    """Scheduling priority, -20 to 20; None to leave it."""
    realtime_policy: str = ""
    """`fifo`, `rr`, or empty for ordinary scheduling."""
    keeps_directory: bool = False
    """A daemon stays in the directory it was started in."""
    keeps_descriptors: bool = False
    """A daemon keeps standard input, output and error."""
    is_foreground: bool = False
    log_level: str = "ERR"
    pid_file: str = DEFAULT_PID_FILE
    is_root_allowed: bool = False
    """Skip the check that a remotely controlled relay does not run as root."""
    offload: OffloadMode = OffloadMode.AUTO
    ports: PortsMode = PortsMode.AUTO
    interfaces: tuple[str, ...] = ()
    """Interfaces to attach to; empty for those that carry a listen address."""

    @property
    def instance(self) -> str:
        """What tells this relay from others on the host: its control sockets, in a fixed order."""
        return " ".join(sorted(str(address) for address in self.control))


def parse_control_address(text: str) -> ControlAddress:
    """Read the argument of `-s`. A text with no known prefix is the path of a `unix` socket.

    Raises ConfigError for an empty path or an unusable port.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "udp":
        return _parse_host_port(rest)
    if colon and prefix in _OTHER_TRANSPORTS:
        raise ConfigError(f"control socket {text}: {prefix} sockets are not supported so far")
    kind = ControlKind.UNIX
    if colon and prefix in ("unix", "cunix"):
        kind, text = ControlKind(prefix), rest
    if not text:
        raise ConfigError("control socket: the path is empty")
    return ControlAddress(kind, path=text)


def _parse_host_port(text: str) -> ControlAddress:
    host, colon, port_text = text.rpartition(":")
    if not colon:
        host, port_text = text, str(DEFAULT_CONTROL_PORT)
    if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65536):
        raise ConfigError(f"control socket udp:{text}: port {port_text!r} is not a number from 1 to 65535")
    if not host:
        raise ConfigError(f"control socket udp:{text}: the host is empty; write * for any address")
    return ControlAddress(ControlKind.UDP, host="" if host == "*" else host, port=int(port_text))


def parse_notify_target(text: str) -> NotifyTarget:
    """Read the argument of `-n`: `unix:PATH`, `PATH`, `tcp:HOST:PORT` or `tcp:%%CC_SELF%%:PORT`.

    Raises ConfigError for an empty path or an unusable port.
    """
    kind, colon, rest = text.partition(":")
    if not (colon and kind == "tcp"):
        path = rest if colon and kind == "unix" else text
        if not path:
            raise ConfigError(f"-n {text}: the path is empty")
        return NotifyTarget(path=path)
    host, _, port = rest.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError(f"-n {text}: tcp:HOST:PORT is needed")
    return NotifyTarget(host="" if host == "%%CC_SELF%%" else host, port=int(port))


def port_range(low: int, high: int) -> tuple[int, int]:
    """The RTP ports from first to last, both even, that `-m low -M high` allow (protocol.md 7.1).

    Raises ConfigError when no pair of ports fits.
    """
    first = low + low % 2
    last = high - 1 if high % 2 else high - 2
    if first > last:
        raise ConfigError(f"ports {low} to {high}: no room for a pair; raise -M or lower -m")
    return first, last
