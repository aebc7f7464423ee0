"""The relay's configuration: one frozen value, made by `cli`, passed to whoever needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address

from rtpproxy.errors import ConfigError

DEFAULT_CONTROL_PATH = "/var/run/rtpproxy.sock"
DEFAULT_CONTROL_PORT = 22222
SHORT_BYTES = 128
"""Payloads below it are sent twice where that is asked for (protocol.md 6.2)."""
DEFAULT_TOS = 0xB8
"""Expedited forwarding (protocol.md 6.3)."""
DSCP_MASK = 0xFC
"""Of a TOS byte or traffic class; the rest is ECN, which a relay of UDP knows nothing of (RFC 3168 5)."""
DEFAULT_PID_FILE = "/var/run/rtpproxy.pid"
MIN_FILES = 64
"""Open files without which the relay does not start: about fifty are open before the first call comes."""
NOTIFY_WILDCARD = "%%CC_SELF%%"
MAX_NOTIFY_TARGETS = 64
MAX_NOTIFY_WILDCARDS = 2
MAX_SOCKET_PATH_BYTES = 107
"""What `sun_path` holds beside its NUL."""
DEFAULT_SOCKET_MODE = 0o755
"""Of Unix control sockets when `-u` names a group (protocol.md 1.7)."""


class ControlKind(Enum):
    """What a control socket is, and how commands are framed on it (protocol.md 1.1). Values are prefixes of `-s`."""

    UNIX = "unix"
    """Unix stream socket, one command a connection."""
    CUNIX = "cunix"
    """Unix stream socket, one command a line."""
    UDP = "udp"
    """IPv4 datagrams with a cookie."""
    UDP6 = "udp6"
    """IPv6 datagrams with a cookie."""
    TCP = "tcp"
    """IPv4 stream, one command a line."""
    TCP6 = "tcp6"
    """IPv6 stream, one command a line."""
    STDIO = "stdio"
    """Standard input and output, one command a line."""
    STDIOC = "stdioc"
    """Like `STDIO`, and the process ends with its input."""
    SYSTEMD = "systemd"
    """The first socket that the service manager passes: a stream, one command a connection."""

    @property
    def is_datagram(self) -> bool:
        """Whether commands come as datagrams, which counts as remote control (protocol.md 1.8)."""
        return self in (ControlKind.UDP, ControlKind.UDP6)

    @property
    def is_unix(self) -> bool:
        """Whether there is a socket file."""
        return self in (ControlKind.UNIX, ControlKind.CUNIX)

    @property
    def is_ipv6(self) -> bool:
        """Whether hosts are IPv6."""
        return self in (ControlKind.UDP6, ControlKind.TCP6)

    @property
    def is_stdio(self) -> bool:
        """Whether standard input is the socket, which needs the foreground (protocol.md 12.2)."""
        return self in (ControlKind.STDIO, ControlKind.STDIOC)


_KINDS_BY_PREFIX = {kind.value: kind for kind in ControlKind}


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """Where one control socket listens: `path` for Unix sockets, `host` (empty for any) and `port` for UDP and TCP."""

    kind: ControlKind
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        where = self.path if not self.port else f"{self.host or '*'}:{self.port}"
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
    """A name or a number, without brackets; a number once the relay runs. Empty for a wildcard: the address that the
    controller's command came from."""
    port: int = 0
    text: str = ""
    """As it was given, with `unix:` where that was left out. Commands quote it, whatever `path` and `host` become."""

    @property
    def is_wildcard(self) -> bool:
        """Whether the host is that of whoever sent the command."""
        return not self.path and not self.host

    def __str__(self) -> str:
        return self.text


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
    """Native XDP on every interface named or found, else refuse to start; no TC."""
    TC = "tc"
    """TC on every interface named or found, else refuse to start; no XDP."""
    OFF = "off"
    """The kernel forwards nothing."""

    @property
    def is_required(self) -> bool:
        """Whether the relay does not start without the kernel."""
        return self in (OffloadMode.XDP, OffloadMode.TC)


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
    is_doubling: bool = False
    """Send payloads shorter than SHORT_BYTES twice."""
    tos: int = DEFAULT_TOS
    """TOS byte or traffic class of packets that leave, 0 to 252; ECN bits are 0."""
    user: str = ""
    """User to become once everything is opened; empty to stay."""
    group: str = ""
    """Group to become; empty for the user's own."""
    socket_mode: int | None = None
    """Permission bits of Unix control sockets; None for what the umask gives."""
    file_limit: int | None = None
    """Open files to allow, soft and hard, `MIN_FILES` at least; None to leave it."""
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
    """Read the argument of `-s`. A text with no known prefix is the path of a `unix` socket (protocol.md 1.1).

    Raises ConfigError for an empty path, an unusable host or port, or text where none belongs.
    """
    prefix, colon, rest = text.partition(":")
    if not colon or prefix not in _KINDS_BY_PREFIX:
        return _unix_address(ControlKind.UNIX, text)
    kind = _KINDS_BY_PREFIX[prefix]
    if kind.is_unix:
        return _unix_address(kind, rest)
    if kind.is_stdio or kind is ControlKind.SYSTEMD:
        if rest:
            raise ConfigError(f"control socket {text}: nothing may follow {prefix}:")
        return ControlAddress(kind)
    return _internet_address(kind, rest)


def _unix_address(kind: ControlKind, path: str) -> ControlAddress:
    if not path:
        raise ConfigError("control socket: the path is empty")
    return ControlAddress(kind, path=path)


def _internet_address(kind: ControlKind, text: str) -> ControlAddress:
    host, port_text = _split_host_port(kind, text)
    what = f"control socket {kind.value}:{text}"
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

    Two things that it does not understand are: brackets around an IPv6 host, and an IPv6 host alone where no host
    would be left otherwise (`::1`).
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


def port_range(low: int, high: int) -> tuple[int, int]:
    """The RTP ports from first to last, both even, that `-m low -M high` allow (protocol.md 7.1).

    Raises ConfigError when no pair of ports fits.
    """
    first = low + low % 2
    last = high - 1 if high % 2 else high - 2
    if first > last:
        raise ConfigError(f"ports {low} to {high}: no room for a pair; raise -M or lower -m")
    return first, last


def parse_notify_target(text: str) -> NotifyTarget:
    """Read the argument of `-n` (protocol.md 10.1). A text with neither `unix:` nor `tcp:` is a path.

    Raises ConfigError for an empty path, and for what is not HOST:PORT. Names are not looked up here.
    """
    if text.startswith("tcp:"):
        return _parse_tcp_target(text)
    path = text.removeprefix("unix:")
    if not path:
        raise ConfigError(f"option -n {text!r}: the path is empty")
    return NotifyTarget(path=path, text=f"unix:{path}")


def _parse_tcp_target(text: str) -> NotifyTarget:
    host, _, port_text = text.removeprefix("tcp:").rpartition(":")
    port = _read_port(f"option -n {text}", port_text)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or "[" in host or "]" in host:
        raise ConfigError(f"option -n {text}: not tcp:HOST:PORT")
    return NotifyTarget(host="" if host == NOTIFY_WILDCARD else host, port=port, text=text)


def check_notify_targets(targets: Sequence[NotifyTarget]) -> None:
    """Raises ConfigError when there are more targets, or wildcards among them, than protocol.md 10.1 allows."""
    if len(targets) > MAX_NOTIFY_TARGETS:
        raise ConfigError(f"option -n: {len(targets)} targets; at most {MAX_NOTIFY_TARGETS} are allowed")
    wildcards = sum(target.is_wildcard for target in targets)
    if wildcards > MAX_NOTIFY_WILDCARDS:
        raise ConfigError(
            f"option -n: {wildcards} targets with {NOTIFY_WILDCARD}; at most {MAX_NOTIFY_WILDCARDS} are allowed"
        )


def find_target(targets: Sequence[NotifyTarget], argument: bytes) -> NotifyTarget | None:
    """The target that the socket argument of a `U` quotes, letter by letter but for `unix:` (protocol.md 2.4)."""
    quoted = argument.decode(errors="surrogateescape")
    if not quoted.startswith(("unix:", "tcp:")):
        quoted = f"unix:{quoted}"
    return next((target for target in targets if target.text == quoted), None)
