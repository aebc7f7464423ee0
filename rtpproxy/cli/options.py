"""The options, described once: command line, `--help`, manual page and docs/options.md are made from this table.

Defaults are not here: they are those of `config.Config`. Source: protocol.md 12.1 for the options of the C RTPproxy.
These have short names; long names are ours, except for the few that the C RTPproxy has, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from rtpproxy.cli.modules import read_module_file
from rtpproxy.cli.networks import read_media_network, read_network
from rtpproxy.cli.readers import (
    member_of,
    number_between,
    one_of,
    read_collector,
    read_level,
    read_mode,
    read_overload,
    read_path,
    read_tee_memory,
    read_user,
)
from rtpproxy.config import (
    DEFAULT_CAPTURE_ID,
    DEFAULT_CDR_FILE,
    DEFAULT_CONTROL_PORT,
    DEFAULT_SOCKET_MODE,
    FIRST_FREE_PORT,
    MIN_FILES,
    SHORT_BYTES,
    Config,
    LatchingMode,
    OffloadMode,
    OverloadLimits,
    PortsMode,
    RecordFormat,
)
from rtpproxy.process.syslog import DEFAULT_FACILITY, LEVELS

_MOST_SECONDS = 1 << 31
_MOST_FILES = 1 << 30
_MOST_WAIT_MS = 60_000
_FIRST_NICE, _LAST_NICE = -20, 20
_LIMITS = OverloadLimits()
_LAST_CAPTURE_ID = 0xFFFFFFFF
DEFAULTS = {field.name: field.default for field in fields(Config)}
"""The value of each field of the configuration when no option sets it."""


def written(value: object) -> str:
    """Write a default as it would be given on the command line; empty for none."""
    if value is None or value is False or value == "":
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(written, value))
    return str(value.value if isinstance(value, Enum) else value)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line."""

    flag: str
    field: str
    """The field of `Config` that it sets, or a name of its own where it sets none."""
    help: str
    """Whole sentences, without the default."""
    metavar: str = ""
    """Name of its argument; empty when it has none."""
    read: Callable[[str], object] = str
    """Turns the argument into the value. Raises ConfigError with what is wrong with it."""
    write: Callable[[Any], str] = written
    """Turns the default of the field into text."""
    alias: str = ""
    """Another way to write the flag; empty for none."""
    is_repeatable: bool = False
    may_lack_argument: bool = False
    """The argument is optional, and is given as `--flag=ARGUMENT`."""
    more: str = ""
    """Further sentences, for the manual page and docs/options.md only."""

    @property
    def flags(self) -> list[str]:
        """All ways to write the flag."""
        return [self.flag, self.alias] if self.alias else [self.flag]

    @property
    def argument(self) -> str:
        """The argument as it is written after the flag: ` PORT`; empty when there is none."""
        if not self.metavar:
            return ""
        return f"[={self.metavar}]" if self.may_lack_argument else f" {self.metavar}"

    @property
    def synopsis(self) -> str:
        """The option as it is written: `-m PORT`."""
        return f"{', '.join(self.flags)}{self.argument}"

    @property
    def default(self) -> str:
        """The default of its field in `Config`, as text; empty for none."""
        return self.write(DEFAULTS[self.field]) if self.metavar and self.field in DEFAULTS else ""

    @property
    def text(self) -> str:
        """The description with the default."""
        return f"{self.help} [default: {self.default}]" if self.default else self.help


@dataclass(frozen=True, slots=True)
class Group:
    """Options that belong together, under a heading."""

    title: str
    options: tuple[Option, ...]
    note: str = ""
    """A sentence about all of them, for the manual page and docs/options.md only."""


def _words_of(kind: type[Enum]) -> str:
    return "|".join(member.value for member in kind)


_PORT = number_between(1, 65535)
_SECONDS = number_between(1, _MOST_SECONDS)
_OCTET = number_between(0, 255)
_ANY_TIMES = "The option may be given any number of times."

GROUPS = (
    Group(
        "Media addresses and ports",
        (
            Option(
                "-l",
                "listen",
                "IPv4 address for media ports; * means all addresses of the host. NAME is printed in replies in place "
                f"of the address. {_ANY_TIMES} Every address but the first needs a LABEL, by which commands select "
                "it. A/B in place of an address is bridge mode, between the internal address A and the external "
                "address B.",
                metavar="[LABEL@]ADDR[=NAME]",
                write=lambda _: "*",
                is_repeatable=True,
                more="Host names are resolved once, at start. Name an address, not an interface. The two ends of a "
                "bridge may also be given as -l A -6 /B or -6 A -l /B; they come first, and have neither LABEL nor "
                "=NAME. Further addresses need a LABEL, as without a bridge.",
            ),
            Option(
                "-6",
                "listen6",
                "IPv6 address for media ports, as -l. If only -6 is given, the relay does not use IPv4 for media.",
                metavar="[LABEL@]ADDR[=NAME]",
                is_repeatable=True,
            ),
            Option(
                "-A",
                "advertised",
                "The names that replies print in place of the two addresses of bridge mode.",
                metavar="NAME/NAME",
                more="Outside bridge mode it has no effect, as in the C RTPproxy, and a warning says so; write "
                "ADDR=NAME in -l or -6 there.",
            ),
            Option("-m", "lowest_port", "Lowest media port.", metavar="PORT", read=_PORT),
            Option(
                "-M",
                "highest_port",
                "Highest media port.",
                metavar="PORT",
                read=_PORT,
                more="Every call needs four ports: RTP and RTCP on each side.",
            ),
            Option("-b", "is_sequential", "Allocate ports in ascending order; without it they are chosen at random."),
            Option(
                "--ports",
                "ports",
                "How the relay owns media ports. steered: a few sockets take the packets of all ports, which needs "
                "BPF. bound: a socket for each port, without BPF; the kernel then forwards nothing, and userspace "
                "relays all packets. auto: steered where BPF can be used, else bound.",
                metavar=_words_of(PortsMode),
                read=member_of(PortsMode),
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
                "TOS octet of media packets (in IPv6 the traffic class), a decimal number.",
                metavar="N",
                read=_OCTET,
                more="The upper six bits are the DSCP; the lower two, ECN, are always sent as 0. "
                f"{DEFAULTS['tos']} is expedited forwarding.",
            ),
            Option(
                "--latching",
                "latching",
                "How the relay learns where a phone sends from. compatible: as the C RTPproxy. strict: so that nobody "
                "else can take over a stream.",
                metavar=_words_of(LatchingMode),
                read=member_of(LatchingMode),
            ),
            Option(
                "--media-allow",
                "media_allow",
                "Network that media may be sent to, although --media-deny names one around it; PORTS is a port or a "
                f"range. Of several the longest prefix decides, and of two alike --media-deny. {_ANY_TIMES}",
                metavar="NET[:PORTS]",
                read=read_media_network,
                is_repeatable=True,
                more="What no network holds is allowed: --media-deny 0.0.0.0/0 --media-deny ::/0 allows nothing else. "
                "IPv6 with ports is [2001:db8::/32]:PORTS. Loopback addresses are allowed if this option names them "
                "(127.0.0.0/8, ::1), or where the stream's own address is loopback (-l 127.0.0.1). Media are never "
                "sent to multicast, broadcast or unspecified addresses, to a control socket of this relay, or to "
                f"ports below {FIRST_FREE_PORT} and the SIP ports of this host, whatever is given here.",
            ),
            Option(
                "--media-deny",
                "media_deny",
                "Network that media may not be sent to: a command that names such an address is taken as one without "
                f"an address, and a phone there is not learned from its packets. {_ANY_TIMES}",
                metavar="NET[:PORTS]",
                read=read_media_network,
                is_repeatable=True,
                more="For example a management network: --media-deny 10.0.0.0/24.",
            ),
            Option(
                "--max-wait",
                "max_wait_ms",
                "Drop packets that userspace, for want of processor time, could not relay within this time of their "
                "arrival, so that overload is heard as gaps and not as delay. 0 relays them however late.",
                metavar="MS",
                read=number_between(0, _MOST_WAIT_MS),
                more="They are counted as dropped_waited_too_long. What the kernel forwards does not wait.",
            ),
            Option(
                "--force_asymmetric",
                "is_asymmetric",
                "Send media to the address in the command, not to where packets come from, unless the command asks "
                "otherwise.",
            ),
            Option(
                "-2",
                "is_doubling",
                f"Send packets shorter than {SHORT_BYTES} bytes twice. Userspace relays such packets.",
            ),
            Option(
                "--bridge_symmetric",
                "is_bridge_symmetric",
                "In bridge mode, send media to where packets come from; without this option, bridge mode does not.",
            ),
        ),
    ),
    Group(
        "Kernel",
        (
            Option(
                "--offload",
                "offload",
                "Whether the kernel forwards packets. auto: where it can, by XDP or else by TC. xdp, tc: by this "
                "program on every interface, or the relay does not start. off: userspace relays them all.",
                metavar=_words_of(OffloadMode),
                read=member_of(OffloadMode),
                more="With --ports bound the kernel forwards nothing, whatever is given here.",
            ),
            Option(
                "--interface",
                "interfaces",
                f"Interface on which the kernel forwards, in place of those that carry a media address. {_ANY_TIMES}",
                metavar="NAME",
                is_repeatable=True,
            ),
            Option(
                "--tee-memory",
                "tee_memory_mb",
                "Memory for packets of recorded, copied and tapped streams, on their way from the kernel to the "
                "process that writes and sends them: megabytes, a power of two.",
                metavar="MB",
                read=read_tee_memory,
                more="It is taken when a stream that the kernel forwards is first recorded, copied or tapped (--hep, "
                "DTMF). The default holds what 1,000 calls send in 1.2 s, 100 packets a second each. Packets that find "
                "no room are missing in the recording, the copy or the reports, and counted.",
            ),
        ),
    ),
    Group(
        "Control",
        (
            Option(
                "-s",
                "control",
                "Control socket, which the SIP proxy sends commands to: unix:PATH (one command per connection), "
                "cunix:PATH (one command per line), udp:HOST:PORT, udp6:HOST:PORT, tcp:HOST:PORT, tcp6:HOST:PORT, "
                "systemd: (all sockets that the service manager passes), stdio: or stdioc: (standard input and "
                f"output, with -f). {_ANY_TIMES}",
                metavar="SOCKET",
                is_repeatable=True,
                more=f"Without a port, {DEFAULT_CONTROL_PORT} is used; * as HOST means all addresses of this host. "
                "stdioc: ends the relay when its input ends. systemd: takes UDP sockets, and listening stream sockets "
                "with one command per connection; it needs -f. An argument without a prefix is the path of a unix: "
                "socket.",
            ),
            Option(
                "--control-allow",
                "control_allow",
                "Execute commands that come to UDP and TCP control sockets from this address or network (ADDR/BITS), "
                f"IPv4 or IPv6, and ignore all others. {_ANY_TIMES}",
                metavar="NET",
                read=read_network,
                write=lambda _: "commands from anywhere",
                is_repeatable=True,
                more="There is no password: whoever can send a command can end every call and redirect its media. A "
                "warning says so where a control socket has an address that is not loopback and this option is not "
                "given. Datagrams from others get no answer, and their connections are closed; the log has their "
                "number. The sender of a datagram can be forged: filter at the border of your network, too. It does "
                "not apply to Unix sockets, for which -w does.",
            ),
            Option(
                "-w",
                "socket_mode",
                "Permission bits of Unix control sockets, octal. Whoever may write to the socket can use the relay.",
                metavar="MODE",
                read=read_mode,
                write=lambda _: f"as the umask gives; 0{DEFAULT_SOCKET_MODE:o} if -u names a group",
                more="For a SIP proxy that is not root: -u rtpproxy:kamailio -w 0770 lets in the members of the group "
                "kamailio, in which Debian's Kamailio runs. The C RTPproxy reads a decimal number here, and ignores "
                "it without a group; a number that makes sense in decimal only is refused, and the error says what "
                "to write instead.",
            ),
            Option(
                "-n",
                "notify",
                "Where to report that a session has timed out: unix:PATH, tcp:HOST:PORT, or tcp:%%CC_SELF%%:PORT for "
                f"the host that the command came from. {_ANY_TIMES}",
                metavar="TARGET",
                is_repeatable=True,
                more="For a command that came over IPv6, %%CC_SELF%% is 127.0.0.1, as in the C RTPproxy, and the host "
                "itself only where nobody listens there.",
            ),
        ),
    ),
    Group(
        "Recording",
        (
            Option(
                "-r",
                "record_directory",
                "Directory for recordings, which R and C commands start. Without it nothing is recorded.",
                metavar="DIR",
                more="It must exist, and files must be permitted there for the user that the relay runs as (-u). A "
                "process of its own, without privileges, writes them. A file is there once it is complete; until then "
                "it is in .unfinished in there, or in the directory of -S.",
            ),
            Option(
                "-S",
                "spool_directory",
                "Directory for recordings that go on, in place of .unfinished in that of -r; each is moved when it "
                "ends. Needs -r.",
                metavar="DIR",
                more="Both must be on one file system. What a killed relay left there is finished and moved at the "
                "next start.",
            ),
            Option(
                "-a",
                "records_all",
                "Record every session, both sides, from its beginning.",
                more="In pcap formats, all of a session is in one file.",
            ),
            Option("-R", "leaves_rtcp_out", "Record and copy RTP only, and leave RTCP out."),
            Option(
                "--record-format",
                "record_format",
                "Format of recordings. adhoc: RTPproxy's own, which its extractaudio reads. pcap: for tshark and "
                "Wireshark. pcapng: as pcap, and the file tells how many packets are missing, and where.",
                metavar=_words_of(RecordFormat),
                read=member_of(RecordFormat),
            ),
            Option("-P", "is_pcap", "Record as pcap, as --record-format pcap."),
        ),
    ),
    Group(
        "Prompts",
        (
            Option(
                "--prompt-directory",
                "prompt_directory",
                "Directory that prompts must be in, which P commands play. Without it they may name any file that the "
                "relay can read.",
                metavar="DIR",
                more="Names in commands are relative to it, or begin with it. Neither .. nor symbolic links lead out "
                "of it. It needs Linux 5.6. Without it, names are relative to the directory of the process: / for a "
                "daemon, if -D is not given.",
            ),
        ),
    ),
    Group(
        "Call records, RTCP reports and DTMF",
        (
            Option(
                "--cdr",
                "cdr",
                "Append a line for each session that ends to this file (CSV, as module acct_csv).",
                metavar="FILE",
                read=read_path,
                more="Sessions that a relay still has when it stops get their line, too. A file that was moved away or "
                "removed is replaced; for that, the user of -u must be permitted to make files in its directory. A "
                "thread of its own writes, so that no call waits for a disk.",
            ),
            Option(
                "--hep",
                "hep",
                "Send the RTCP reports of all sessions to this collector, such as Homer, by HEP version 3 (as module "
                "acct_rtcp_hep).",
                metavar="[udp:|tcp:]HOST:PORT",
                read=read_collector,
                more="Without a prefix they go over UDP. A name is looked up once calls come, and again for each "
                "connection; a collector that is down, slow or unknown costs nothing but its reports.",
            ),
            Option(
                "--hep-id",
                "hep_id",
                "Number by which the collector of --hep tells this relay from others.",
                metavar="N",
                read=number_between(0, _LAST_CAPTURE_ID),
                more=f"Without this option it is {DEFAULT_CAPTURE_ID}.",
            ),
            Option(
                "--dtmf-notify",
                "dtmf_notify",
                "Report DTMF (as module catch_dtmf) for the sessions whose commands ask for it (&& M3:1), to the "
                "notification target of the session or, where it has none, to this one: unix:PATH, tcp:HOST:PORT, or "
                "tcp:%%CC_SELF%%:PORT for the host that the command came from.",
                metavar="TARGET",
                more="With --config or --dso for catch_dtmf as well, that module gets this target.",
            ),
            Option(
                "--config",
                "config_file",
                "Start the modules that this file names, in the form of the C RTPproxy: modules { acct_csv {} }.",
                metavar="FILE",
                read=read_path,
                more="The modules are built in: load = FILE in a section names one by the base name of its file, which "
                "need not exist. acct_rtcp_hep has the keys capt_host, capt_port, capt_ptype and capt_id; acct_csv "
                f"writes to {DEFAULT_CDR_FILE} in the directory that the relay is started in. Other sections are "
                "ignored. dtls_gw and ice_lite are not supported, and prevent the start.",
            ),
            Option(
                "--dso",
                "module_files",
                f"Start the module of this file of the C RTPproxy, such as rtpp_acct_csv.so. {_ANY_TIMES}",
                metavar="FILE",
                read=read_module_file,
                is_repeatable=True,
                more="The file need not exist. acct_rtcp_hep is refused here: it needs --hep or --config instead.",
            ),
        ),
    ),
    Group(
        "Timers",
        (
            Option(
                "-T",
                "idle_timeout_s",
                "End a session after this time without media.",
                metavar="SECONDS",
                read=_SECONDS,
                more="RTP and RTCP of either side count, and so does every U and L command for the session. A call on "
                "hold ends, too, if neither phone sends anything.",
            ),
            Option(
                "-W",
                "setup_timeout_s",
                "End a session that only one side has joined (a call that nobody answered) after this time.",
                metavar="SECONDS",
                read=_SECONDS,
                write=lambda _: "as -T",
                more="Every U and L command for the session restarts the time. It should be longer than a phone may "
                "ring: otherwise the session is gone when the call is answered.",
            ),
            Option(
                "-i",
                "is_independent",
                "Give each direction a timer of its own; the session ends when either one runs out.",
                more="A call then ends even if only one of the two phones falls silent.",
            ),
        ),
    ),
    Group(
        "Process",
        (
            Option("-f", "is_foreground", "Stay in the foreground and log to standard error."),
            Option(
                "-u",
                "user",
                "Become this user once everything is open, and this group or else the user's own. Needs root.",
                metavar="USER[:GROUP]",
                read=read_user,
                more="Control sockets belong to this user and group: with -u rtpproxy:kamailio -w 0770 a Kamailio that "
                "runs as user and group kamailio can open them. Let no other program run as this user: it could "
                "send commands. Supplementary groups are dropped. The relay "
                "keeps the capabilities that it uses while it runs: CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF unless "
                "--ports bound is given, and CAP_NET_BIND_SERVICE if there are media ports below "
                f"{FIRST_FREE_PORT}. At exit, control sockets and the pid file are removed only from a directory "
                "that the user may write to.",
            ),
            Option(
                "-F",
                "is_root_allowed",
                "Allow the relay to run as root with a UDP control socket.",
                more="Without -F and -u the relay does not start: whoever reaches that socket would control a process "
                "that runs as root.",
            ),
            Option(
                "-p",
                "pid_file",
                "File for the process ID.",
                metavar="FILE",
                more="If FILE is given and cannot be written, the relay does not start; if the default cannot be "
                "written, it logs that and goes on.",
            ),
            Option("-D", "keeps_directory", "Keep a daemon in the directory that it was started in."),
            Option(
                "--no_redirect",
                "keeps_descriptors",
                "Keep standard input, output and error of a daemon, which go to /dev/null otherwise.",
            ),
            Option(
                "-L",
                "file_limit",
                "Number of files that the relay may have open.",
                metavar="N",
                read=number_between(MIN_FILES, _MOST_FILES),
                more="Sets both the soft and the hard limit. The relay does not start with fewer than "
                f"{MIN_FILES}, even without this option. Where ports are bound, every call needs four more.",
            ),
            Option(
                "--nice",
                "nice",
                f"Scheduling priority, {_FIRST_NICE} (first) to {_LAST_NICE}.",
                metavar="N",
                read=number_between(_FIRST_NICE, _LAST_NICE),
            ),
            Option(
                "-c",
                "realtime_policy",
                "Real-time scheduling, which lets the relay run before all ordinary processes. Needs root.",
                metavar="fifo|rr",
                read=one_of("fifo", "rr"),
            ),
            Option(
                "--overload_prot",
                "overload",
                "Refuse new sessions (E98) while the relay has too little processor time for those that it has.",
                metavar="LOW/HIGH",
                read=read_overload,
                may_lack_argument=True,
                more="They are refused once the load is above HIGH, until it is below LOW: "
                f"{_LIMITS.low:.2f}/{_LIMITS.high:.2f} without the argument. A load of 1 is one full processor. "
                "Sessions that exist are not touched. See [when to use it](operations.md#refuse-calls-under-overload).",
            ),
        ),
    ),
    Group(
        "Log",
        (
            Option(
                "-d",
                "log_level",
                f"Log messages of this level and above: {', '.join(LEVELS)}. A daemon logs to this syslog facility.",
                metavar="LEVEL[:FACILITY]",
                read=read_level,
                more="INFO logs how each interface forwards, every session, and refused commands; DBUG adds every "
                f"command and reply. Without a facility it is {DEFAULT_FACILITY}; in the foreground it means nothing.",
            ),
        ),
    ),
    Group(
        "Information",
        (
            Option("-v", "shows_protocol", "Print the protocol version and extensions, and exit."),
            Option("-V", "shows_version", "Print the software version, and exit.", alias="--version"),
            Option("-C", "shows_clock", "Print the name of the clock in use, and exit."),
            Option("-h", "shows_help", "Print this text, and exit.", alias="--help"),
        ),
    ),
)
