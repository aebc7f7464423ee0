"""Writes `docs/benchmarks.md` from the results that `make bench` keeps in `docs/benchmarks.json`.

`python -m tests.bench.page` writes the page anew, as after a change of its text.
"""
# ruff: noqa: E501 - a table's row is one line

import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_DOCS = Path(__file__).parent.parent.parent / "docs"
RESULTS = _DOCS / "benchmarks.json"
PAGE = _DOCS / "benchmarks.md"

Results = dict[str, Any]
QUIET_LOAD = 0.5
"""Load of a machine that does nothing else."""
_LONGEST_US = 8380
"""What the sink's histogram holds; longer delays count as this one."""
_ABOUT = "format", "date", "commit", "is_quick", "machine", "options"
"""What results tell of the run as a whole."""
_FAMILY_NAMES = {"4-4": "IPv4", "6-6": "IPv6", "4-6": "IPv4 to IPv6", "6-4": "IPv6 to IPv4"}

_INTRODUCTION = """\
<!-- Written by `make bench ARGS=--publish` from benchmarks.json. Its text is in tests/bench/page.py. -->

# Benchmarks

How fast packets and commands go through the relay, beside other ways to do the same on the same machine. All figures come
from one run of `make bench` on the machine below, but those of a section that names a run of its own. Another machine gives other figures, so read them as ratios, or measure
yours; it should do nothing else meanwhile.

| command | measures |
|---|---|
| `make bench` | everything below; prints the tables and writes `bench.json` |
| `make bench ARGS=--quick` | a rough version, in about three minutes |
| `make bench ARGS=--only=forwarding` | one part: `forwarding`, `program`, `recorded`, `watched`, `reported`, `userspace`, `control`, `loaded`, `playback`, `churn` or `resources` |
| `make bench BEFORE=../other` | also the kernel tiers of another checkout of this relay, in turn with this one |
| `make bench PEER="rtpproxy -d ERR"` | also media in userspace and call set-ups of another program with the same command line |
| `make bench ARGS=--publish` | everything below, and writes this page and `benchmarks.json`; with the option for one part as well, puts that part into this page, as a run of its own |

## Method

Three network namespaces, joined by veth pairs, stand for the caller, the relay and the callee. In the caller's, an XDP
program makes RTP packets (PCMA, 160 bytes of payload, 12 of RTP header) and sends one of each call in turn. In the
callee's, another XDP program, the sink, counts and drops them. It notices losses and wrong lengths, and checks the
checksums of every 64th packet; a wrong packet ends the benchmark. Calls are set up through the control socket with random
local ports, and the relay learns the callers' addresses from packets, as it does with real phones.

- **One core carries the media.** The generator, the relay's kernel programs and the sink all run there. The controller,
  and with it relaying in userspace, has the other core.
- **Relays run in turn**, because a machine's speed changes from second to second. All relays of a table are set up at the
  same time; in each of {rounds} rounds, each runs for {run_s} s. A ratio or a difference is taken within each round. The
  tables show the median over all rounds, and in brackets the range of the middle half of the rounds.
- **Bare redirect** is the least a relay in the kernel can do: an XDP program that gives every frame the same two MAC
  addresses and sends it on. It looks nothing up, counts nothing and leaves the IP header alone.
- **ns added** is the time that a relay takes for a packet beyond a bare redirect: the difference of 1/rate, in
  nanoseconds. Unlike the ratio of rates, it doesn't depend on how much time generator and sink take.
- **Generator alone** is a run in which the relay's interface drops every frame at once, so that nothing but the
  generator and the first veth pair takes time.
- **Kernel NAT** is Linux doing the same by its own means: forwarding, connection tracking, and an nftables map from port
  to callee.
- **Delay** is measured from generator to sink at a steady pace: {paced_rate} packets/s unless the table says otherwise.
"""

_NOT_SHOWN = """\
## What this doesn't show

- **Network cards.** A veth pair has no DMA, no interrupts and no receive queues, and its packets are in a near cache. A
  NIC's driver adds its own time, to a bare redirect as to the relay.
- **More than one core.** A NIC spreads calls over its queues and so over cores. Every call's row and counters are
  separate, so cores don't wait for one another, but this isn't measured.
- **Other relays.** The C RTPproxy is in no package of Debian 12, and rtpengine speaks another protocol. Name your build of
  the C RTPproxy as `PEER`.
- **A fast userspace tier.** It is written in Python and close to its limit at 60,000 to 100,000 packets/s; the C RTPproxy relays
  more. It carries the first packets of each stream, or all where BPF cannot be loaded.
- **Neighbours on the same host.** A virtual machine shares caches with others. The rows of many calls don't fit into a
  core's own cache, so the more calls, the more the figures vary from run to run."""


def render(results: Results) -> str:
    """The whole page."""
    options = results["options"]
    introduction = _INTRODUCTION.format(
        rounds=options["rounds"], run_s=options["run_s"], paced_rate=f"{options['paced_rate']:,}"
    )
    return "\n\n".join([introduction.rstrip(), _machine(results), *_tables(results), _NOT_SHOWN]) + "\n"


def with_parts(published: Results, results: Results) -> Results:
    """Put the parts that a run measured into the place of those published before; each names the run that it is of."""
    about = {name: results[name] for name in _ABOUT}
    parts = {name: value for name, value in results.items() if name not in _ABOUT}
    return {**published, **parts, "runs": {**published.get("runs", {}), **dict.fromkeys(parts, about)}}


def render_tables(results: Results) -> str:
    """Machine and tables only, as the benchmark prints them."""
    return "\n\n".join([_machine(results), *_tables(results)])


def _tables(results: Results) -> list[str]:
    """A section for each part that was measured."""
    sections = (
        ("forwarding", _forwarding),
        ("relays", _before),
        ("program", _program),
        ("recorded", _recorded),
        ("watched", _watched),
        ("reported", _reported),
        ("userspace", _userspace),
        ("peer", _peer),
        ("control", _control),
        ("loaded", _loaded),
        ("playback", _playback),
        ("churn", _churn),
        ("memory", _resources),
    )
    measured = {*results, *results.get("before", {})}
    return [section(results) + _own_run(results, name) for name, section in sections if name in measured]


def _own_run(results: Results, name: str) -> str:
    """A paragraph on the run that a part comes from, if it was measured and published alone."""
    run = results.get("runs", {}).get(name)
    if run is None:
        return ""
    machine = run["machine"]
    busy = ", so the machine had other work, with less priority" if machine["load"] > QUIET_LOAD else ""
    return "\n\n" + _paragraph(
        f"*In a run of its own on {run['date']}: commit {run['commit']}, {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}; load {machine['load']} when it began{busy}.*"
    )


def _machine(results: Results) -> str:
    machine = results["machine"]
    family, model = machine["cpu_family_model"]
    kind = "virtual machine" if machine["is_virtual"] else "machine"
    options = ", ".join(f"{name} {_plain(value)}" for name, value in results["options"].items())
    rows = [
        ("processor", f"{machine['cpu']} (family {family}, model {model}), {machine['l2_kb']:,} KB of L2 cache"),
        ("machine", f"{kind}, {machine['cores']} cores, {machine['memory_gb']} GB"),
        ("load when the run began", str(machine["load"])),
        ("kernel", f"Linux {machine['kernel']}, driver {machine['driver']}"),
        ("compiler", f"bcc {machine['bcc']}, clang {machine['clang']}"),
        ("Python", machine["python"]),
        ("commit", results["commit"] or "unknown"),
        ("date", results["date"] + (" (a quick run)" if results["is_quick"] else "")),
        ("options", options),
    ]
    return _section("Machine", "", _table(("", ""), rows))


def _forwarding(results: Results) -> str:
    rows = [
        (
            _relay(row["relay"]),
            f"{row['calls']:,}",
            _millions(row["packets_per_s"]),
            f"{row['packet_ns']:.0f}",
            _with_range(row, "added_ns"),
            _ratio(row.get("of_bare")),
            _ratio(row.get("of_nat")),
            _share(row.get("lost")),
            _delays(row),
        )
        for row in results["forwarding"]
    ]
    head = "relay", "calls", "packets/s", "ns", "ns added (middle half)", "of bare", "of NAT", "lost", "delay p50, p99"
    return _section(
        "In the kernel",
        "*ns* is the time that generator, relay and sink take for a packet; *ns added* is how much more it is than with a "
        "bare redirect of the caller's family; *of bare* and *of NAT* are ratios of packets/s; *lost* is the worst of all "
        "runs.",
        _table(head, rows),
        _where_they_go(results),
    )


def _where_they_go(results: Results) -> str:
    """The generator's and the sink's part in a bare redirect, at the first number of calls."""
    first = {row["relay"]: row for row in reversed(results["forwarding"])}
    alone, bare = first["generator alone"]["packet_ns"], first["bare redirect 4-4"]["packet_ns"]
    return (
        f"Generator, bare redirect and sink together take {bare:.0f} ns a packet. The generator alone takes "
        f"{alone:.0f} ns, most of it in the kernel, which recycles the frame and passes it through the first veth pair."
    )


def _before(results: Results) -> str:
    before = results["before"]
    rows = [
        (
            _relay(row["relay"]),
            f"{row['calls']:,}",
            f"{row['before']['added_ns']:.0f}",
            f"{row['now']['added_ns']:.0f}",
            _with_range(row, "more_ns", sign="+"),
            _share(row["before"]["lost"]),
            _share(row["now"]["lost"]),
        )
        for row in before["relays"]
    ]
    head = "relay", "calls", "ns added before", "ns added now", "now - before (middle half)", "lost before", "lost now"
    return _section(
        "Before and now",
        f"Commit {before['commit'] or 'unknown'} of this relay (*before*) and commit {results['commit'] or 'unknown'} "
        "(*now*), in turn in the same run. *now - before* is the median of the rounds' differences, in nanoseconds. "
        "At 7,500 calls, two daemons with the same programs have differed by up to 12 ns; the next table compares the "
        "programs more exactly.",
        _table(head, rows),
    )


def _program(results: Results) -> str:
    before = f"XDP, commit {results.get('before', {}).get('commit')}"
    rows = [
        (
            {"now": "XDP", "before": before}[row["relay"]],
            f"{row['rows']:,}",
            _with_range(row, "program_ns"),
            f"{row['walking_ns']:.0f}",
        )
        for row in sorted(results["program"], key=lambda row: row["rows"])
    ]
    most = max(row["rows"] for row in results["program"])
    return _section(
        "The XDP program alone",
        "The time that the XDP program takes for a packet by `BPF_PROG_TEST_RUN`, with which the kernel runs a program "
        f"over and over without any interface. It is the program of a running daemon with {most:,} calls over IPv4, and "
        "it reads and counts in that daemon's tables. A small program runs before it and turns the frame into the next "
        "call's next packet, so that the rows of so many calls are visited in turn, at random places in the table. A "
        "single row stays in the nearest cache; a row and its counters take 128 bytes, so 2,000 take 256 KB and 30,000 "
        "take 3.8 MB. The time of the small program and of the kernel's loop is measured by the same walk with an empty "
        "program at its end, and subtracted.",
        _table(("program", "rows", "ns (middle half of the walks)", "ns of the walk itself, subtracted"), rows),
    )


def _recorded(results: Results) -> str:
    recorded = results["recorded"]
    steady = max(one["recorded"] for one in recorded["speed"][0]["recorded"])
    at_full_speed = [
        (
            row["relay"],
            row["format"],
            _millions(row["others_per_s"]),
            *(_with_range(one, "of_none", digits=2) for one in row["recorded"]),
            f"{row['packets']:,}",
            f"{row['missing']:,}",
            _share(row["lost"]),
        )
        for row in recorded["speed"]
    ]
    teed = [
        (
            row["relay"],
            f"{row['packet_ns']:.0f}",
            _with_range(row, "added_ns"),
            f"{row['packets']:,}",
            f"{row['missing']:,}",
        )
        for row in recorded["added"]
    ]
    written = [
        (
            row["format"],
            f"{row['recorded']:,}",
            f"{row['packets_per_s']:,}",
            f"{row['packets']:,}",
            f"{row['missing']:,}",
            _share(row["lost"]),
            f"{row['core_share']:.0%}",
            f"{row['packet_us']:.1f}" if row["is_whole"] else "",
        )
        for row in recorded["written"]
    ]
    counts = [f"{one['recorded']:,} recorded (middle half)" for one in recorded["speed"][0]["recorded"]]
    return "\n\n".join(
        (
            "## Recorded calls",
            _paragraph(
                f"{recorded['calls']:,} calls, of which some are recorded by commands (`R`, of both sides) in files that are in "
                "memory. One stream of each call sends 100 packets/s, as many as both directions of a call. The media has a "
                "core of its own as above. The process that writes has the other, beside controller and benchmark, which have "
                "nothing to do meanwhile. Afterwards all files are read, and the packets of each call counted: *missing* are "
                "those that were sent and are in no file; the benchmark ends if `It` or the log tells another number."
            ),
            _paragraph(
                f"**The others at full speed**: {steady:,} calls at their usual rate, {steady * 100:,} packets/s, and the others as "
                "fast as possible; none, some and all of the first are recorded in turn. The ratios are those of the "
                "others' packets/s to none recorded."
            ),
            _table(
                ("relay", "format", "others, none recorded", *counts, "packets for files", "missing", "lost"),
                at_full_speed,
            ),
            _paragraph(
                f"**A recorded packet**: {steady:,} calls alone, as fast as possible, recorded and not recorded in turn, for as "
                "many packets as three quarters of the ring hold. *ns* is the time that generator, relay and sink take for a packet, *ns added* how much "
                "longer it is when all are recorded."
            ),
            _table(("relay", "ns", "ns added (middle half)", "packets for files", "missing"), teed),
            _paragraph(
                f"**The process that writes**: all {recorded['calls']:,} calls at their usual rate by XDP, for some seconds, and more and "
                f"more of them recorded, up to the first number with which packets are missing, or with which the process takes over {recorded['keeps_up']:.0%} "
                "of its core: it would fall behind, which the ring hides for a while."
            ),
            _table(
                ("format", "recorded", "packets/s", "packets for files", "missing", "lost", "of a core", "µs a packet"),
                written,
            ),
        )
    )


def _watched(results: Results) -> str:
    rows = [
        (
            row["relay"],
            f"{row['streams']:,}",
            f"{row['packet_ns']:.0f}",
            _with_range(row, "added_ns", sign="+"),
            _ratio(row["of_unwatched"]),
            _share(row["lost"]),
            f"{row['events']:,}",
            f"{row['missing']:,}",
            f"{row['watcher_us']:.1f}",
        )
        for row in results["watched"]
    ]
    head = (
        *("relay", "watched", "ns", "ns added (middle half)", "of those not watched", "lost"),
        *("events told", "packets missing", "µs a packet of an event"),
    )
    return _section(
        "Streams watched for DTMF",
        "Of the calls of one relay, one half is watched for events of a payload type (`&& M3:1`) that the packets do not have. Both halves send as fast "
        "as possible in turn, before and while one is watched. *ns* is the time that generator, relay and sink take for a packet of a stream that is not "
        "watched; *ns added* is how much longer one of a watched stream takes, less what the halves differed by before; *of those not watched* is the "
        "ratio of packets/s, likewise. Then each watched stream sends an event of seven packets, and each must be told once. *µs* is the processor time "
        "of the process that watches.",
        _table(head, rows),
    )


def _reported(results: Results) -> str:
    reported = results["reported"]
    names = {"none": "none", "udp": "UDP", "tcp": "TCP"}
    rows = [
        (
            names[one["way"]],
            f"{one['reports']:,}",
            _percents(one, "relay_share"),
            _percents(one, "process_share"),
            f"{one['packet_us']:.0f}" if one["reports"] else "",
        )
        for one in reported["ways"]
    ]
    return _section(
        "RTCP to a collector",
        f"{reported['calls']:,} calls in the kernel by XDP, whose callers send {reported['packets_per_s']:,} RTCP packets/s (a sender "
        "report with a block and a description of the source) for "
        f"{reported['seconds']:.0f} s in each of {reported['rounds']} rounds. Relays that send them to a collector by HEP (`--hep`) and one that does not "
        "run in turn. Every packet must arrive at the callee, and every report at the collector, or the benchmark ends. The shares are "
        "of a core, of all processor time that the kernel puts down to the relay and to the process that reports.",
        _table(("collector", "reports", "relay (middle half)", "process (middle half)", "µs a packet"), rows),
    )


def _userspace(results: Results) -> str:
    rows = [
        (
            f"{row['calls']:,}",
            f"{row['offered_per_s']:,}",
            f"{row['packets_per_s']:,.0f}",
            _share(row["lost"]),
            _delays(row),
        )
        for row in results["userspace"]
    ]
    return _section(
        "In userspace",
        "Packets that the controller relays itself (`--offload off`). In service these are the first of every stream, or "
        "all where BPF cannot be loaded.",
        _table(("calls", "offered/s", "packets/s", "lost", "delay p50, p99"), rows),
    )


def _peer(results: Results) -> str:
    rows = [
        (
            row["relay"],
            f"{row['calls']:,}",
            f"{row['offered_per_s']:,}",
            f"{row['packets_per_s']:,.0f}",
            _share(row["lost"]),
            _delays(row),
        )
        for row in results["peer"]
    ]
    return _section(
        "In userspace, beside another program",
        "*peer* is the other program, in turn with this relay's userspace tier.",
        _table(("program", "calls", "offered/s", "packets/s", "lost", "delay p50, p99"), rows),
    )


def _control(results: Results) -> str:
    kinds = {"udp": "UDP", "unix": "Unix, a connection for each command"}
    has_peer = any("of_peer" in row for row in results["control"])
    rows = [
        (
            *([row["program"]] if has_peer else []),
            kinds[row["transport"]],
            str(row["in_flight"]),
            f"{row['set_ups_per_s']:,}",
            *([_ratio(row.get("of_peer"))] if has_peer else []),
            f"{row['p50_us'] / 1000:.2f}, {row['p99_us'] / 1000:.2f} ms",
        )
        for row in results["control"]
    ]
    head = ["control socket", "commands in flight", "call set-ups/s", "delay of a command p50, p99"]
    if has_peer:
        head = ["program", *head[:3], "of peer", head[3]]
    held = results["options"]["controlled_calls"]
    return _section(
        "Call set-ups",
        f"A client sets calls up and ends them (`U`, `L`, `D`) while the relay holds {held:,} others. The client, written "
        "in Python, has the other core.",
        _table(head, rows),
    )


def _loaded(results: Results) -> str:
    rows = [
        (
            row["relay"],
            "yes" if row["is_loaded"] else "no",
            f"{row['calls']:,}",
            f"{row['packets_per_s']:,}",
            f"{row['set_ups_per_s']:,}" if row["is_loaded"] else "",
            _share(row["lost"]),
            _delays(row),
        )
        for row in results["loaded"]
    ]
    in_flight = results["options"]["loaded_in_flight"]
    return _section(
        "Media while calls are set up",
        f"Media at a steady pace, first alone, then while {in_flight} commands are in flight all the time.",
        _table(("media by", "commands", "calls", "packets/s", "set-ups/s", "lost", "delay p50, p99"), rows),
    )


def _playback(results: Results) -> str:
    playback = results["playback"]
    rows = [
        (
            f"{run['set_ups_per_s']:,}",
            f"{run['packets']:,}",
            f"{run['lost']:,}",
            f"{run['p50_ms']:.2f}, {run['p99_ms']:.2f}, {run['p999_ms']:.2f}, {run['max_ms']:.2f} ms",
            f"{run['within']:.2%}",
            f"{run['drift_ms']:.2f} ms",
            f"{run['core_share']:.0%}",
        )
        for run in playback["runs"]
    ]
    return _section(
        "Prompts",
        f"{playback['prompts']:,} prompts at once ({playback['codec']}, packets of 20 ms) for {playback['seconds']:.0f} s, alone and "
        "while another process sets calls up and ends them (`U`, `L`, `D`), 5,000 a second or as many as are answered. "
        "Packets are timed by the kernel of the phone that gets them. *Drift* is how much longer or shorter than its packets "
        "say the stream took that is worst; *core* is what the relay took of its one, set-ups included.",
        _table(("set-ups/s", "packets", "lost", "gap p50, p99, p99.9, max", "within 3 ms", "drift", "core"), rows),
    )


def _churn(results: Results) -> str:
    churn = results["churn"]
    rows = [
        (
            f"{run['routes']:,} in {run['seconds']} s" if run["routes"] else "none",
            f"{run['packets_per_s']:,}",
            _share(run["lost"]),
            _delays(run),
            f"{run['command_p50_ms']}, {run['command_p99_ms']}, {run['command_worst_ms']} ms",
        )
        for run in churn["runs"]
    ]
    share = churn["recheck_ms"] / 1000
    return _section(
        "While the network changes",
        f"Routes are added and removed as fast as `ip` can, while userspace relays {churn['calls']} calls and commands "
        "come one by one.",
        _table(("routes added and removed", "packets/s", "lost", "delay p50, p99", "command p50, p99, worst"), rows),
        f"Looking at what no event tells (MTUs of paths, silent neighbours) takes {share:.1%} of a core with "
        f"{churn['peers']:,} peers that are all neighbours, {churn['turn_ms']} ms at the most before others get their turn.",
    )


def _resources(results: Results) -> str:
    idle, memory = results["idle_check"], results["memory"]
    rows = [
        (
            f"idle check of {idle['streams']:,} streams",
            f"{idle['median_ms']} ms (worst of {idle['checks']}: {idle['worst_ms']} ms)",
        ),
        ("memory, idle, default range of ports", f"{memory['default_mb']:.0f} MB"),
        ("memory, idle, 63,000 ports", f"{memory['widest_mb']:.0f} MB"),
        (f"memory, a call, {memory['calls']:,} held", f"{memory['call_kb']} KB"),
        (f"files open, {memory['calls']:,} calls held", str(memory["files"])),
    ]
    return _section("Memory and the idle check", "", _table(("", ""), rows))


def _section(title: str, text: str, table: str, after: str = "") -> str:
    """A heading, a paragraph, a table and perhaps another paragraph."""
    parts = f"## {title}", _paragraph(text), table, _paragraph(after)
    return "\n\n".join(part for part in parts if part)


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _relay(name: str) -> str:
    kind, _, families = name.rpartition(" ")
    return f"{kind}, {_FAMILY_NAMES[families]}" if families in _FAMILY_NAMES else name


def _millions(rate: float) -> str:
    return f"{rate / 1e6:.2f} M"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(value: float | None) -> str:
    """A share lost; a small one is not shown as none."""
    if value is None:
        return ""
    return "0" if value <= 0 else f"{value:.4%}" if value >= 0.000001 else "under 0.0001%"


def _delays(row: Results) -> str:
    if "p50_us" not in row:
        return ""
    p50, p99 = row["p50_us"], row["p99_us"]
    if p99 < 1000:
        return f"{p50:.1f}, {p99:.1f} µs"
    if p50 > _LONGEST_US:
        return "over 8 ms"
    return f"{p50 / 1000:.2f}, {f'{p99 / 1000:.2f}' if p99 < _LONGEST_US else 'over 8'} ms"


def _with_range(row: Results, name: str, sign: str = "", digits: int = 0) -> str:
    """A median, and the values between which the middle half lies."""
    if name not in row:
        return ""
    low, high = row[f"{name}_quartiles"]
    return f"{row[name]:{sign}.{digits}f} ({low:{sign}.{digits}f} to {high:{sign}.{digits}f})"


def _percents(row: Results, name: str) -> str:
    """A share of a core, with its quartiles."""
    low, high = row[f"{name}_quartiles"]
    return f"{row[name]:.1%} ({low:.1%} to {high:.1%})"


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return "/".join(map(str, value))
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(render(json.loads(RESULTS.read_text())))
