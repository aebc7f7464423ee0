"""The relay's configuration: one frozen value, made by `cli` and passed to whoever needs it.

Every default of an option is here and nowhere else: `--help`, manual page and docs/options.md take it from `Config`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Network, IPv6Network
from typing import ClassVar

DEFAULT_CONTROL_PATH = "/var/run/rtpproxy.sock"
DEFAULT_CONTROL_PORT = 22222
SHORT_BYTES = 128
"""Shorter payloads are sent twice if `-2` is given (protocol.md 6.2)."""
DEFAULT_TOS = 0xB8
"""Expedited forwarding (protocol.md 6.3)."""
DSCP_MASK = 0xFC
"""The DSCP bits of a TOS byte or traffic class; the other two are ECN, which a relay does not set (RFC 3168 5)."""
DEFAULT_PID_FILE = "/var/run/rtpproxy.pid"
NOTES_DIRECTORY = "/run/rtpproxy"
"""Holds notes of what to restore on this host after a crash."""
CACHE_DIRECTORY = "/var/cache/rtpproxy"
"""Holds compiled BPF programs."""
MIN_FILES = 64
"""The relay does not start if it may open fewer files: about fifty are open before the first call."""
FIRST_FREE_PORT = 1024
"""The first port that anybody may bind; those below need CAP_NET_BIND_SERVICE."""
NOTIFY_WILDCARD = "%%CC_SELF%%"
MAX_NOTIFY_TARGETS = 64
MAX_NOTIFY_WILDCARDS = 2
MAX_SOCKET_PATH_BYTES = 107
"""Longest path that `sun_path` can hold beside its NUL."""
DEFAULT_CAPTURE_ID = 101
DEFAULT_CDR_FILE = "rtpproxy_acct.csv"
"""In the directory that the relay is started in (protocol.md 13.1)."""
DEFAULT_SOCKET_MODE = 0o755
"""Permission bits of Unix control sockets if `-u` names a group and `-w` is not given (protocol.md 1.7)."""


Network = IPv4Network | IPv6Network


class ControlKind(Enum):
    """Kinds of control sockets, and how commands are framed on each (protocol.md 1.1). Values are prefixes of `-s`."""

    UNIX = "unix"
    """Unix stream socket, one command per connection."""
    CUNIX = "cunix"
    """Unix stream socket, one command per line."""
    UDP = "udp"
    """IPv4 datagrams with a cookie."""
    UDP6 = "udp6"
    """IPv6 datagrams with a cookie."""
    TCP = "tcp"
    """IPv4 stream, one command per line."""
    TCP6 = "tcp6"
    """IPv6 stream, one command per line."""
    STDIO = "stdio"
    """Standard input and output, one command per line."""
    STDIOC = "stdioc"
    """Like `STDIO`; the relay ends when its input ends."""
    SYSTEMD = "systemd"
    """All sockets that the service manager passes: streams, one command per connection, and UDP sockets."""

    @property
    def is_datagram(self) -> bool:
        """True if commands come as datagrams; this counts as remote control (protocol.md 1.8)."""
        return self in (ControlKind.UDP, ControlKind.UDP6)

    @property
    def is_unix(self) -> bool:
        """True if there is a socket file."""
        return self in (ControlKind.UNIX, ControlKind.CUNIX)

    @property
    def is_ipv6(self) -> bool:
        """True if hosts are IPv6."""
        return self in (ControlKind.UDP6, ControlKind.TCP6)

    @property
    def is_stdio(self) -> bool:
        """True if standard input is the socket, which needs the foreground (protocol.md 12.2)."""
        return self in (ControlKind.STDIO, ControlKind.STDIOC)


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """Address of one control socket: `path` for Unix sockets, `host` (empty for any) and `port` for UDP and TCP."""

    kind: ControlKind
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        where = self.path if not self.port else f"{self.host or '*'}:{self.port}"
        return f"{self.kind.value}:{where}"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """A local address with media ports (protocol.md 7.2)."""

    host: str = ""
    """Numeric, in canonical form; empty for all local addresses of the family."""
    is_ipv6: bool = False
    label: str = ""
    """Selects the address in the modifier `l{label}`; empty for none."""
    advertised: str = ""
    """Printed in replies in place of `host`; empty for `host` itself."""


@dataclass(frozen=True, slots=True)
class NotifyTarget:
    """A target of timeout notifications (protocol.md 10.1): the `path` of a Unix socket, else TCP `host` and `port`."""

    path: str = ""
    host: str = ""
    """A name or a numeric address without brackets; numeric once the relay runs. Empty for a wildcard: the address that
    the controller's command came from."""
    port: int = 0
    text: str = ""
    """As it was given, with `unix:` if that was left out. Commands quote it, even if `path` and `host` change."""

    @property
    def is_wildcard(self) -> bool:
        """True if the target is on the host that sent the command."""
        return not self.path and not self.host

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class MediaNetwork:
    """Destinations of media that the operator allows or denies (`--media-allow`, `--media-deny`)."""

    network: Network
    first_port: int = 0
    last_port: int = 65535

    def __str__(self) -> str:
        if (self.first_port, self.last_port) == (0, 65535):
            return str(self.network)
        host = f"[{self.network}]" if self.network.version == 6 else str(self.network)
        last = f"-{self.last_port}" if self.last_port != self.first_port else ""
        return f"{host}:{self.first_port}{last}"


class LatchingMode(Enum):
    """Ways to learn endpoints from packets (`--latching`)."""

    COMPATIBLE = "compatible"
    """By the rules of the C RTPproxy (protocol.md 5)."""
    STRICT = "strict"
    """No command lets any source take a stream over; every source is remembered (protocol.md 16, items 6 and 7)."""


class OffloadMode(Enum):
    """Values of `--offload`."""

    AUTO = "auto"
    """The best tier that each interface can have."""
    XDP = "xdp"
    """Native XDP on every interface; refuse to start otherwise."""
    TC = "tc"
    """TC on every interface; refuse to start otherwise."""
    OFF = "off"
    """The kernel forwards nothing."""

    @property
    def is_required(self) -> bool:
        """True if the relay refuses to start without the kernel tier."""
        return self in (OffloadMode.XDP, OffloadMode.TC)


class PortsMode(Enum):
    """Ways for the relay to own its media ports (`--ports`)."""

    AUTO = "auto"
    """Steered where BPF can be loaded, else bound."""
    STEERED = "steered"
    """One socket for all ports, fed by an sk_lookup program; refuse to start without it."""
    BOUND = "bound"
    """A UDP socket per stream."""


class RecordFormat(Enum):
    """Formats of recordings (`--record-format`)."""

    ADHOC = "adhoc"
    """RTPproxy's own (protocol.md 8.3)."""
    PCAP = "pcap"
    """Classic pcap, as `-P` (protocol.md 8.5)."""
    PCAPNG = "pcapng"
    """pcapng, which also says how many packets are missing, and where."""


class ModuleKind(IntEnum):
    """Modules of the C RTPproxy, by the number that commands name them by; names in lower case (protocol.md 13)."""

    ACCT_CSV = 1
    ACCT_RTCP_HEP = 2
    CATCH_DTMF = 3
    DTLS_GW = 4
    ICE_LITE = 5

    @property
    def module(self) -> str:
        """Its name, as in a configuration file."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class CdrSettings:
    """Write a line for each session that ends (`acct_csv`, protocol.md 13.1)."""

    path: str = DEFAULT_CDR_FILE
    kind: ClassVar = ModuleKind.ACCT_CSV


class HepTransport(Enum):
    """How HEP messages get to the collector. Values are those of `capt_ptype`, and prefixes of `--hep`."""

    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class HepSettings:
    """Send received RTCP to a collector by HEP (`acct_rtcp_hep`, protocol.md 13.2)."""

    host: str = "10.0.0.1"
    """An address or a name, which is looked up again for each connection."""
    port: int = 9060
    transport: HepTransport = HepTransport.UDP
    capture_id: int = DEFAULT_CAPTURE_ID
    """Tells the collector which relay a message is of, 32 bits."""
    kind: ClassVar = ModuleKind.ACCT_RTCP_HEP


@dataclass(frozen=True, slots=True)
class DtmfSettings:
    """Report the DTMF of sessions for which a command asks (`catch_dtmf`, protocol.md 13.3)."""

    target: NotifyTarget | None = None
    """Gets the reports of sessions without a notification target; None: such a session cannot be watched."""
    kind: ClassVar = ModuleKind.CATCH_DTMF


ModuleSettings = CdrSettings | HepSettings | DtmfSettings


@dataclass(frozen=True, slots=True)
class OverloadLimits:
    """The loads at which new sessions are refused and accepted again (`--overload_prot`); 1 is a full processor."""

    low: float = 0.85
    """Below it they are accepted again."""
    high: float = 0.90
    """Above it they are refused."""


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that the command line decides."""

    control: tuple[ControlAddress, ...] = (ControlAddress(ControlKind.UNIX, DEFAULT_CONTROL_PATH),)
    control_allow: tuple[Network, ...] = ()
    """Networks whose commands are executed on UDP and TCP control sockets; empty for all. None is IPv4-mapped."""
    listen: tuple[ListenAddress, ...] = (ListenAddress(),)
    """Addresses that media ports are on; the first is the default. In bridge mode: internal, external, others."""
    is_bridging: bool = False
    """Bridge mode (protocol.md 7.3)."""
    is_asymmetric: bool = False
    """Do not learn the endpoint of a leg whose command has neither `a` nor `s` (protocol.md 5.5)."""
    latching: LatchingMode = LatchingMode.COMPATIBLE
    media_allow: tuple[MediaNetwork, ...] = ()
    media_deny: tuple[MediaNetwork, ...] = ()
    """Where media may and may not be sent; the longest prefix decides, and of two alike this one."""
    lowest_port: int = 35000
    highest_port: int = 65000
    """Media ports lie between these two; `port_min` and `port_max` are the RTP ports among them."""
    is_sequential: bool = False
    """Allocate ports in ascending order instead of a random one."""
    idle_timeout_s: int = 60
    """Seconds without media until an established session ends."""
    setup_timeout_s: int | None = None
    """Seconds until a session that has only one leg ends; None for `idle_timeout_s`. See `half_open_timeout_s`."""
    is_independent: bool = False
    """Each direction has a timer of its own, and the session ends when either runs out."""
    notify: tuple[NotifyTarget, ...] = ()
    is_doubling: bool = False
    """Send payloads shorter than `SHORT_BYTES` twice."""
    max_wait_ms: int = 200
    """Milliseconds that packets may wait for userspace; older ones are dropped. 0 for no limit."""
    tos: int = DEFAULT_TOS
    """TOS byte or traffic class of media packets, 0 to 252; ECN bits are 0."""
    user: str = ""
    """User to become once everything is open; empty to stay the same."""
    group: str = ""
    """Group to become; empty for the user's own group."""
    socket_mode: int | None = None
    """Permission bits of Unix control sockets; None to leave them as the umask gives them."""
    file_limit: int | None = None
    """Open files to allow, soft and hard, `MIN_FILES` at least; None to leave it."""
    nice: int | None = None
    """Scheduling priority, -20 to 20; None to leave it."""
    realtime_policy: str = ""
    """`fifo`, `rr`, or empty for ordinary scheduling."""
    overload: OverloadLimits | None = None
    """When to refuse new sessions for want of processor time; None for never."""
    keeps_directory: bool = False
    """A daemon stays in the directory it was started in."""
    keeps_descriptors: bool = False
    """A daemon keeps standard input, output and error."""
    is_foreground: bool = False
    log_level: str = "ERR"
    pid_file: str = DEFAULT_PID_FILE
    is_pid_file_required: bool = False
    """Do not start if the pid file cannot be written: somebody asked for this one."""
    is_root_allowed: bool = False
    """Skip the check that a remotely controlled relay does not run as root."""
    offload: OffloadMode = OffloadMode.AUTO
    ports: PortsMode = PortsMode.AUTO
    interfaces: tuple[str, ...] = ()
    """Interfaces to attach to; empty for those that carry a listen address."""
    record_directory: str = ""
    """Directory of recordings; empty to record nothing (protocol.md 8.1)."""
    spool_directory: str = ""
    """Directory of recordings that have not ended; empty for that of those that have."""
    records_all: bool = False
    """Record every session from its beginning."""
    leaves_rtcp_out: bool = False
    """Neither record nor copy RTCP."""
    record_format: RecordFormat = RecordFormat.ADHOC
    prompt_directory: str = ""
    """Directory that prompts must be in; empty to play any file (protocol.md 9.1)."""
    tee_memory_mb: int = 32
    """Size of the ring for packets of recorded streams, in units of 2^20 bytes; a power of two."""
    modules: tuple[ModuleSettings, ...] = ()
    """Modules to start. Instances of one kind count from 1, in this order."""

    @property
    def half_open_timeout_s(self) -> int:
        """Seconds until a session that has only one leg ends: the setup timeout, else the idle timeout."""
        return self.idle_timeout_s if self.setup_timeout_s is None else self.setup_timeout_s

    @property
    def port_min(self) -> int:
        """First RTP port, even (protocol.md 7.1)."""
        return self.lowest_port + self.lowest_port % 2

    @property
    def port_max(self) -> int:
        """Last RTP port, even; its RTCP port is one above. Below `port_min` where there is no room for a pair."""
        return self.highest_port - 2 + self.highest_port % 2

    @property
    def instance(self) -> str:
        """Name this relay among those of the host: its control sockets, in a fixed order."""
        return " ".join(sorted(str(address) for address in self.control))


def find_target(targets: Sequence[NotifyTarget], argument: bytes) -> NotifyTarget | None:
    """Find the target that the socket argument of a `U` quotes, literally except for `unix:` (protocol.md 2.4)."""
    quoted = argument.decode(errors="surrogateescape")
    if not quoted.startswith(("unix:", "tcp:")):
        quoted = f"unix:{quoted}"
    return next((target for target in targets if target.text == quoted), None)
