"""The command line of the generator: options to `Settings`, the outcome to table, JSON and exit status."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import click

from generator.addresses import AddressRange, read_control, read_range, read_tags
from generator.codecs import CODECS
from generator.differences import Expectations
from generator.reading import ADDRESS, Value, read_flood, read_hold, read_rebinding, read_tos, read_ttl
from generator.report import as_json, table
from generator.run import Stopping, execute
from generator.schedule import Impairments
from generator.settings import Flood, Settings, SettingsError, SideSettings

WRONG = 1
"""Exit status; click's is 2."""

HELP = """Place calls through an RTPproxy, send their media, and judge what arrives.

The relay is asked for ports by its control protocol, as a SIP proxy does it. The phones exist in frames only: this
program sends and receives whole Ethernet frames by the interfaces --caller and --callee and answers ARP and neighbour
discovery for the phones' addresses, which need not be addresses of this host. Every frame that arrives is compared,
byte for byte, with the one that the relay should have sent. Needs root, or CAP_NET_RAW.

My relay, with its interfaces on two networks that this host is on, too:

\b
  traffic.py --control udp:192.0.2.1:22222 --calls 100 --duration 30 --rtcp \\
      --caller eth1 --caller-address 10.0.1.10-10.0.1.19 \\
      --callee eth2 --callee-address fd00:2::10

The relays of a SIP proxy's set, each of which gets its share of the calls:

\b
  traffic.py --control udp:192.0.2.1:22222 --control udp:192.0.2.2:22222 ...

A comparison of two relays, with the same calls:

\b
  traffic.py --control unix:/run/first.sock --name first --json first.json ...
  traffic.py --control unix:/run/second.sock --name second --compare first.json ...

Exit status: 0 if everything was right; 1 if anything was lost, doubled, overtaken or wrong, if strays arrived, if a
command was not answered as it should be, or if nothing was sent or nothing arrived; 2 for a wrong command line or a
missing privilege; 130 or 143 after a signal. The calls are ended in any case. docs/traffic.md explains all of it.
"""


def _side_options(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Options of the phones of a side."""
    first_port = 40000 if name == "caller" else 50000
    options = [
        click.option(
            f"--{name}", f"{name}_interface", metavar="IFNAME", required=True, help=f"Interface of the {name}'s phones."
        ),
        click.option(
            f"--{name}-address",
            metavar="ADDR[-ADDR]",
            type=Value("address", read_range),
            required=True,
            help="Their addresses (also ADDR/BITS), IPv4 or IPv6, which they take in turns.",
        ),
        click.option(
            f"--{name}-port", default=first_port, show_default=True, help="Their first RTP port, an even number."
        ),
        click.option(
            f"--{name}-vlan",
            metavar="VLAN",
            type=Value("vlan", read_tags),
            default=(),
            help="Tag of their frames: a number, or OUTER.INNER for QinQ (802.1ad and 802.1Q).",
        ),
        click.option(
            f"--{name}-gateway",
            metavar="ADDR",
            type=ADDRESS,
            default="",
            help="Router between them and the relay. Mind --ttl.",
        ),
        click.option(
            f"--{name}-relay",
            metavar="ADDR",
            type=ADDRESS,
            multiple=True,
            help="Relay's address as they see it, if not that of its replies; with several --control, one for each.",
        ),
    ]

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command(help=HELP, context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]})
@click.option(
    "--control",
    "controls",
    metavar="SOCKET",
    type=Value("control", read_control),
    multiple=True,
    required=True,
    help="The relay's control socket: unix:PATH, udp:HOST:PORT, tcp:HOST:PORT (IPv6 hosts in brackets). "
    "Given several times, the calls take turns.",
)
@_side_options("caller")
@_side_options("callee")
@click.option(
    "--interface-mac",
    is_flag=True,
    help="Phones have the MAC address of the interface. By default they have one of their own, for which the "
    "interface is made promiscuous.",
)
@click.option("--calls", default=1, show_default=True, help="Calls at a time.")
@click.option("--duration", default=10.0, show_default=True, metavar="SECONDS", help="Length of the media.")
@click.option(
    "--codec",
    type=click.Choice(sorted(CODECS), case_sensitive=False),
    default="pcmu",
    show_default=True,
    help="Payload type, clock, and the defaults of --rate and --size.",
)
@click.option("--rate", type=float, metavar="PPS", help="RTP packets a second of each stream; two streams a call.")
@click.option("--size", type=int, metavar="BYTES", help="Payload of an RTP packet, 12 to 1400.")
@click.option("--rtcp", is_flag=True, help="Send RTCP, too: a sender report with a report block, and a CNAME.")
@click.option(
    "--rtcp-interval", default=5.0, show_default=True, metavar="SECONDS", help="Between two RTCP packets of a stream."
)
@click.option(
    "--nat", "is_nat", is_flag=True, help="The phones signal private addresses: the relay must learn where they are."
)
@click.option(
    "--offer-modifiers", metavar="TEXT", help="Modifiers of U instead of r…, such as ie for a relay in bridge mode."
)
@click.option("--answer-modifiers", metavar="TEXT", help="The same for L.")
@click.option("--loss", default=0.0, metavar="PERCENT", help="Packets that phones do not send.")
@click.option("--reorder", default=0.0, metavar="PERCENT", help="Packets that are sent after the next one.")
@click.option("--jitter", default=0.0, metavar="MS", help="The most that packets are sent later than they should be.")
@click.option("--seed", default=1, show_default=True, help="Of all that is random.")
@click.option(
    "--rebind",
    "rebinding",
    metavar="[SIDE:[WHAT:]]SECONDS",
    type=Value("rebind", read_rebinding),
    help="Then NAT gives the phones of a side (caller) another port for RTP, or another address: caller:address:5.",
)
@click.option(
    "--hold",
    metavar="AT:FOR",
    type=Value("hold", read_hold),
    help="Then, and so long, the caller has the call on hold (U with a null address): the callee is silent.",
)
@click.option(
    "--strays",
    metavar="PPS",
    type=float,
    default=0.0,
    help="RTP of a stranger to all ports of the calls, from the end of the opening on.",
)
@click.option(
    "--flood",
    "floods",
    metavar="PPS:AT:FOR",
    multiple=True,
    type=Value("flood", read_flood),
    help="The same at a rate of its own, for a time.",
)
@click.option(
    "--late-ms",
    type=float,
    metavar="MS",
    help="Packets that take longer are late [default: 20]. If given, late packets are wrong.",
)
@click.option(
    "--opening",
    "opening_s",
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="So long after its first packet, and after a rebinding, a stream that is not heard yet may lose packets.",
)
@click.option(
    "--deadline",
    "deadline_s",
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="For the answer to a command (UDP: five sends in this time), and for those of ARP and neighbour discovery.",
)
@click.option(
    "--tos",
    metavar="VALUE[/IPV6]",
    type=Value("tos", read_tos),
    default="0xb8",
    show_default=True,
    help="TOS and traffic class that the relay sends with, or any.",
)
@click.option(
    "--ttl",
    metavar="VALUE",
    type=Value("ttl", read_ttl),
    default="64",
    show_default=True,
    help="TTL and hop limit that arrive, or any.",
)
@click.option(
    "--df",
    type=click.Choice(["any", "set", "clear"]),
    default="any",
    show_default=True,
    help="The bit that forbids to fragment (IPv4).",
)
@click.option(
    "--expect-kernel", "expects_kernel", is_flag=True, help="It is wrong if the kernel has not taken over all streams."
)
@click.option("--name", default="", help="Of this run, in tables and JSON.")
@click.option(
    "--json",
    "json_path",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, allow_dash=True),
    help="Write the result there as JSON; - for standard output, instead of the table.",
)
@click.option(
    "--compare",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Show the result beside that of an earlier run (its JSON).",
)
@click.option("--all-streams", is_flag=True, help="Show all streams, not only those with something wrong.")
def main(**given: Any) -> None:
    """Read the options, do the run, report."""
    json_path, compare, all_streams = (given.pop(name) for name in ("json_path", "compare", "all_streams"))
    earlier = _read_earlier(compare)
    if json_path not in (None, "-") and not Path(json_path).parent.is_dir():
        raise click.BadParameter(f"{Path(json_path).parent} is no directory", param_hint="--json")
    try:
        settings = _settings(given)
        with _stopped_by_signals() as stopping:
            outcome = execute(settings, lambda text: click.echo(text, err=True), stopping)
    except SettingsError as error:
        raise click.UsageError(str(error)) from error
    result = as_json(outcome, all_streams=all_streams)
    if json_path != "-":
        click.echo(table(result, earlier))
    if json_path:
        text = json.dumps(result, indent=1) + "\n"
        if json_path == "-":
            click.echo(text, nl=False)
        else:
            Path(json_path).write_text(text)
    if outcome.stopped_by is not None:
        sys.exit(128 + outcome.stopped_by)
    sys.exit(0 if result["is_right"] else WRONG)


def _settings(given: dict[str, Any]) -> Settings:
    codec = CODECS[given["codec"].lower()]
    tos, tos6 = given["tos"]
    late_ms, opening_s, strays = given["late_ms"], given["opening_s"], given["strays"]
    floods = list(given["floods"])
    if strays:
        at_s = max(1.0, opening_s) + 0.5
        if given["duration"] <= at_s:
            raise SettingsError(f"--strays: they begin after {at_s:g} s; --duration must be longer")
        floods.append(Flood(strays, at_s, given["duration"] - at_s))
    return Settings(
        controls=given["controls"],
        caller=_side("caller", given),
        callee=_side("callee", given),
        codec=codec,
        rate=given["rate"] if given["rate"] is not None else codec.rate,
        size=given["size"] if given["size"] is not None else codec.size,
        calls=given["calls"],
        duration_s=given["duration"],
        rtcp_interval_s=_rtcp_interval_s(given),
        impairments=Impairments(given["loss"] / 100, given["reorder"] / 100, given["jitter"] / 1000),
        seed=given["seed"],
        is_nat=given["is_nat"],
        offer_modifiers=given["offer_modifiers"],
        answer_modifiers=given["answer_modifiers"],
        rebinding=given["rebinding"],
        hold=given["hold"],
        floods=tuple(floods),
        late_ms=20.0 if late_ms is None else late_ms,
        is_late_wrong=late_ms is not None,
        opening_s=opening_s,
        deadline_s=given["deadline_s"],
        expectations=Expectations(tos, tos6, given["ttl"], {"any": None, "set": True, "clear": False}[given["df"]]),
        expects_kernel=given["expects_kernel"],
        name=given["name"],
    )


def _rtcp_interval_s(given: dict[str, Any]) -> float:
    """Seconds between two RTCP packets, 0 for none."""
    if not given["rtcp"]:
        return 0.0
    if given["rtcp_interval"] <= 0:
        raise SettingsError("--rtcp-interval: must be more than 0")
    return float(given["rtcp_interval"])


def _side(name: str, given: dict[str, Any]) -> SideSettings:
    addresses: AddressRange = given[f"{name}_address"]
    return SideSettings(
        name=name,
        interface=given[f"{name}_interface"],
        addresses=addresses,
        first_port=given[f"{name}_port"],
        tags=given[f"{name}_vlan"],
        gateway=given[f"{name}_gateway"],
        relays=given[f"{name}_relay"],
        uses_interface_mac=given["interface_mac"],
    )


def _read_earlier(path: str | None) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        earlier = json.loads(Path(path).read_text())
        if earlier["format"] != 1:
            raise ValueError(f"format {earlier['format']}")
    except (ValueError, KeyError, TypeError) as error:
        raise click.BadParameter(f"{path} is no result of an earlier run: {error}", param_hint="--compare") from error
    return earlier  # type: ignore[no-any-return]


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[Stopping]:
    """Let SIGINT and SIGTERM ask for the end of the run, once; further ones would only leave calls behind."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    stopping = Stopping()

    def ask(number: int, _: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        stopping.ask(number)

    before = [signal.signal(number, ask) for number in numbers]
    try:
        yield stopping
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
