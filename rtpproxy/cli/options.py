"""The options, described once: the command line, `--help` and the manual page are made of this table.

Source: protocol.md 12.1 for those of the C RTPproxy. Those have short names; long names are ours, but for the few that
the C RTPproxy has, too.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rtpproxy.config import (
    DEFAULT_CONTROL_PATH,
    DEFAULT_PID_FILE,
    DEFAULT_TOS,
    MIN_FILES,
    LatchingMode,
    OffloadMode,
    PortsMode,
)
from rtpproxy.errors import ConfigError
from rtpproxy.process.syslog import FACILITIES, LEVELS

_NUMBER = re.compile(r"[+-]?[0-9]+")
_HIGHEST_MODE = 0o7777
_OWNER_ACCESS = 0o600
_MOST_SECONDS = 1 << 31
_MOST_FILES = 1 << 30


@dataclass(frozen=True, slots=True)
class Option:
    """One option. Its value reaches the program under the name `field`."""

    flag: str
    field: str
    help: str
    """Whole sentences, without the default."""
    metavar: str = ""
    """What its argument is called; empty when it has none."""
    default: str = ""
    """As it would be given; empty for none."""
    read: Callable[[str], object] = str
    """Turns the argument into the value. Raises ConfigError with what is wrong with it."""
    is_repeatable: bool = False
    may_lack_argument: bool = False
    """The argument is optional, and is given as `--flag=ARGUMENT`."""
    more: str = ""
    """Further sentences, for the manual page only."""

    @property
    def synopsis(self) -> str:
        """The option as it is written: `-m PORT`."""
        if not self.metavar:
            return self.flag
        return f"{self.flag}[={self.metavar}]" if self.may_lack_argument else f"{self.flag} {self.metavar}"

    @property
    def text(self) -> str:
        """What is said of it, with the default."""
        return f"{self.help} [default: {self.default}]" if self.default else self.help


@dataclass(frozen=True, slots=True)
class Group:
    """Options that belong together, under a heading."""

    title: str
    options: tuple[Option, ...]


def number_between(low: int, high: int) -> Callable[[str], int]:
    """A reader of decimal numbers, which refuses anything behind them and anything outside the range."""

    def read(text: str) -> int:
        if not _NUMBER.fullmatch(text):
            raise ConfigError("argument is invalid: not a whole number")
        # The length is looked at first: Python refuses to read thousands of digits.
        if len(text) > 20 or not low <= int(text) <= high:
            raise ConfigError(f"argument is out of range: {low} to {high} is allowed")
        return int(text)

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """A reader of one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ConfigError(f"not one of {', '.join(words)}")
        return text

    return read


def read_level(text: str) -> str:
    """`LEVEL[:FACILITY]` in any case, facilities with or without `LOG_`, as LEVEL or LEVEL:FACILITY in capitals."""
    level, _, facility = text.upper().partition(":")
    facility = facility.removeprefix("LOG_")
    if level not in LEVELS:
        raise ConfigError(f"not a level; use one of {', '.join(LEVELS)}")
    if facility and facility not in FACILITIES:
        raise ConfigError(f"{facility} is not a syslog facility")
    return f"{level}:{facility}" if facility else level


def read_user(text: str) -> tuple[str, str]:
    """`USER[:GROUP]`; the group is empty when it is not given."""
    user, colon, group = text.partition(":")
    if not user or (colon and not group):
        raise ConfigError("USER or USER:GROUP is needed, without an empty part")
    return user, group


def read_mode(text: str) -> int:
    """Permission bits in octal.

    The C RTPproxy reads a decimal number (protocol.md 1.7), so what makes sense in decimal only is refused, with what
    to write instead: its meaning must not change unnoticed. With a leading zero it is octal beyond doubt.
    """
    if not (text.isascii() and text.isdecimal()) or len(text) > 20:
        raise ConfigError("argument is invalid: not an octal number such as 0660")
    octal = int(text, 8) if not re.search("[89]", text) else None
    if text.startswith("0"):
        if octal is None or octal > _HIGHEST_MODE:
            raise ConfigError("argument is invalid: not an octal number up to 07777")
        return octal
    decimal = int(text)
    is_octal = octal is not None and octal <= _HIGHEST_MODE and octal & _OWNER_ACCESS == _OWNER_ACCESS
    if is_octal and octal is not None:
        return octal
    if decimal <= _HIGHEST_MODE:
        raise ConfigError(
            f"modes are octal here; the C RTPproxy reads decimal {decimal}, which is 0{decimal:o}: "
            f"write -w 0{decimal:o} to mean the same" + (f", or -w 0{text} for that mode" if octal is not None else "")
        )
    raise ConfigError("argument is out of range: 0 to 07777 is allowed")


def read_nothing(what: str) -> Callable[[str], object]:
    """A reader for options of what is not there and would be missed."""

    def read(_: str) -> object:
        raise ConfigError(f"{what} not supported so far; leave the option out to start without")

    return read


_PORT = number_between(1, 65535)
_SECONDS = number_between(1, _MOST_SECONDS)
_OCTET = number_between(0, 255)

GROUPS = (
    Group(
        "Media addresses and ports",
        (
            Option(
                "-l",
                "listen",
                "IPv4 address to have media ports on; * for all addresses of the host, which is the default without -l "
                "and -6. NAME is printed in replies in place of the address. Any number of times; every address "
                "but the first needs a LABEL, by which commands choose it. A/B in place of an address is bridge mode, "
                "between the internal address A and the external address B.",
                metavar="[LABEL@]ADDR[=NAME]",
                is_repeatable=True,
                more="Host names are resolved once, at start. In bridge mode there are exactly two addresses, which "
                "may also be given as -l A -6 /B or -6 A -l /B; they have neither labels nor =NAME.",
            ),
            Option(
                "-6",
                "listen6",
                "IPv6 address, likewise. With -6 only, there is no IPv4.",
                metavar="[LABEL@]ADDR[=NAME]",
                is_repeatable=True,
            ),
            Option(
                "-A",
                "advertised",
                "What replies print in place of the two addresses of bridge mode.",
                metavar="NAME/NAME",
                more="Outside bridge mode it has no effect, as in the C RTPproxy, and a warning says so; "
                "there ADDR=NAME does it.",
            ),
            Option("-m", "low", "Lowest media port.", metavar="PORT", default="35000", read=_PORT),
            Option("-M", "high", "Highest media port.", metavar="PORT", default="65000", read=_PORT),
            Option("-b", "is_sequential", "Allocate ports in ascending order, not in a random one."),
            Option(
                "--ports",
                "ports",
                "How media ports are owned: a few sockets for all of them (steered; needs BPF), a socket a stream "
                "(bound), or the former where it can be had (auto).",
                metavar="|".join(mode.value for mode in PortsMode),
                default="auto",
                read=one_of(*(mode.value for mode in PortsMode)),
            ),
            Option("--no_resolve", "is_numeric", "Accept numeric addresses only, and ask no name server."),
        ),
    ),
    Group(
        "Media",
        (
            Option(
                "-t",
                "tos",
                "TOS octet, in IPv6 the traffic class, of media packets, decimal.",
                metavar="N",
                default=str(DEFAULT_TOS),
                read=_OCTET,
                more="Its upper six bits are the DSCP, the lower two, ECN, are sent as 0; 184 is expedited forwarding.",
            ),
            Option(
                "--latching",
                "latching",
                "How the source of a stream is learned: as the C RTPproxy does (compatible), or so that nobody else "
                "can take a stream over (strict).",
                metavar="|".join(mode.value for mode in LatchingMode),
                default="compatible",
                read=one_of(*(mode.value for mode in LatchingMode)),
            ),
            Option(
                "--force_asymmetric",
                "is_asymmetric",
                "Send to where the command says, not to where packets come from, unless the command asks otherwise.",
            ),
            Option("-2", "is_doubling", "Send packets shorter than 128 bytes twice; they stay in userspace."),
            Option("--bridge_symmetric", "is_bridge_symmetric", "Do learn sources in bridge mode, which does not."),
        ),
    ),
    Group(
        "Kernel",
        (
            Option(
                "--offload",
                "offload",
                "Who forwards packets: the kernel where it can, by XDP or else by TC (auto), by one of them on every "
                "interface or do not start (xdp, tc), userspace (off).",
                metavar="|".join(mode.value for mode in OffloadMode),
                default="auto",
                read=one_of(*(mode.value for mode in OffloadMode)),
            ),
            Option(
                "--interface",
                "interfaces",
                "Interface for the kernel to forward on, instead of those that carry a media address. Any number of "
                "times.",
                metavar="NAME",
                is_repeatable=True,
            ),
        ),
    ),
    Group(
        "Control",
        (
            Option(
                "-s",
                "sockets",
                "Control socket: unix:PATH (a command a connection), cunix:PATH (a command a line), udp:HOST:PORT, "
                "udp6:HOST:PORT, tcp:HOST:PORT, tcp6:HOST:PORT, systemd: (the first socket that a service manager "
                "hands over), stdio: or stdioc: (standard input and output, with -f). Any number of times. "
                f"Default: unix:{DEFAULT_CONTROL_PATH}.",
                metavar="SOCKET",
                is_repeatable=True,
                more="The port is 22222 unless it is given; * as HOST means any address.",
            ),
            Option(
                "-w",
                "mode",
                "Permission bits of Unix control sockets, octal. Only with a group in -u, and then 0755 by default.",
                metavar="MODE",
                read=read_mode,
                more="The C RTPproxy reads a decimal number here. What can only have been meant so is refused with "
                "what to write instead.",
            ),
            Option(
                "-n",
                "notify",
                "Where to tell that a session has timed out: unix:PATH, tcp:HOST:PORT, or tcp:%%CC_SELF%%:PORT for the "
                "host that the command came from. Any number of times.",
                metavar="TARGET",
                is_repeatable=True,
            ),
        ),
    ),
    Group(
        "Timers",
        (
            Option(
                "-T",
                "idle_timeout_s",
                "End an established session after so long without media.",
                metavar="SECONDS",
                default="60",
                read=_SECONDS,
            ),
            Option(
                "-W",
                "setup_timeout_s",
                "End a session that nobody answered after so long. Default: as -T.",
                metavar="SECONDS",
                read=_SECONDS,
            ),
            Option("-i", "is_independent", "A timer for each direction; the session ends when either runs out."),
        ),
    ),
    Group(
        "Process",
        (
            Option("-f", "is_foreground", "Stay in the foreground and log to standard error."),
            Option(
                "-u",
                "user",
                "Once everything is open, become this user, and this group or else the user's own. Needs root.",
                metavar="USER[:GROUP]",
                read=read_user,
                more="No supplementary group stays. Of root's capabilities, those stay that are used while it runs: "
                "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF unless --ports bound is given, and CAP_NET_BIND_SERVICE when "
                "there are media ports below 1024. Control sockets belong to the user. They and the pid file are "
                "removed at exit only from a directory that the user may write to.",
            ),
            Option("-F", "is_root_allowed", "Run as root although a control socket is reached by UDP."),
            Option("-p", "pid_file", "File for the process number.", metavar="FILE", default=DEFAULT_PID_FILE),
            Option("-D", "keeps_directory", "As a daemon, stay in the working directory."),
            Option("--no_redirect", "keeps_descriptors", "As a daemon, keep standard input, output and error."),
            Option(
                "-L",
                "file_limit",
                "Number of files that may be open.",
                metavar="N",
                read=number_between(MIN_FILES, _MOST_FILES),
                more="Both the soft and the hard limit are set to it. "
                f"The relay does not start with fewer than {MIN_FILES}, however they are limited.",
            ),
            Option(
                "--nice", "nice", "Scheduling priority, -20 (first) to 20.", metavar="N", read=number_between(-20, 20)
            ),
            Option("-c", "realtime_policy", "Real-time scheduling.", metavar="fifo|rr", read=one_of("fifo", "rr")),
        ),
    ),
    Group(
        "Log",
        (
            Option(
                "-d",
                "log_level",
                f"Log from this level up: {', '.join(LEVELS)}. The facility is syslog's, for a daemon.",
                metavar="LEVEL[:FACILITY]",
                default="ERR",
                read=read_level,
                more="Without a facility it is DAEMON.",
            ),
        ),
    ),
    Group(
        "Information",
        (
            Option("-v", "shows_protocol", "Print the protocol version and extensions, and exit."),
            Option("-V", "shows_version", "Print the software version, and exit."),
            Option("-C", "shows_clock", "Print the name of the clock in use, and exit."),
            Option("--help", "shows_help", "Print this text, and exit."),
        ),
    ),
    Group(
        "Of the C RTPproxy, refused so far",
        (
            Option("-r", "recording", "Directory for recordings.", "DIR", read=read_nothing("recording is")),
            Option("-S", "spool", "Spool directory for recordings.", "DIR", read=read_nothing("recording is")),
            Option("-a", "records_all", "Record every session.", read=read_nothing("recording is")),
            Option("--config", "modules", "Configuration of modules.", "FILE", read=read_nothing("modules are")),
            Option("--dso", "module", "Load a module.", "FILE", read=read_nothing("modules are"), is_repeatable=True),
        ),
    ),
    Group(
        "Of the C RTPproxy, accepted without effect",
        (
            Option("-P", "records_pcap", "Record as pcap; nothing is recorded."),
            Option("-R", "records_no_rtcp", "Do not record RTCP; nothing is recorded."),
            Option(
                "--overload_prot",
                "overload",
                "Overload protection, which does nothing there, either.",
                metavar="LIMITS",
                may_lack_argument=True,
            ),
        ),
    ),
)
WITHOUT_EFFECT = {option.field: option.flag for option in GROUPS[-1].options}
"""Fields and flags of the options that a warning answers."""
