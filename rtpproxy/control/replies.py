"""Encodes answers of the service as replies; the only place that knows the counters' wire names.

Source: protocol.md sections 2.6, 3 and 11.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rtpproxy.control.messages import ErrorCode, printable, refuse
from rtpproxy.service.answers import PortLine, SessionCounters, Tiers
from rtpproxy.session.totals import Totals


@dataclass(slots=True)
class CommandCounts:
    """Counts of commands, as `G` reports them (protocol.md 11.4)."""

    received: int = 0
    """Without repeated ones."""
    repeated: int = 0
    """UDP commands that were answered from the cache."""
    succeeded: int = 0
    failed: int = 0
    answered: int = 0


DEFAULT_COUNTERS = (b"ttl", b"npkts_ina", b"npkts_ino", b"nrelayed", b"ndropped")
"""Counters in the reply to `Q` without names, in this order."""

DONE = b"0"
FAILED = b"-1"
"""Result of a sub-command that failed."""

_MOST_REASONS = 20
_COUNTERS: dict[bytes, tuple[str, bytes]] = {
    b"ttl": ("seconds_left", b"%d"),
    b"npkts_ina": ("received_from_issuer", b"%d"),
    b"npkts_ino": ("received_from_peer", b"%d"),
    b"nrelayed": ("relayed", b"%d"),
    b"ndropped": ("dropped", b"%d"),
    b"longest_ipi": ("longest_gap_s", b"%f"),
    b"rtpa_jlast": ("jitter_last", b"%f"),
    b"rtpa_jmax": ("jitter_max", b"%f"),
    b"rtpa_javg": ("jitter_average", b"%f"),
    b"rtpa_nsent": ("sent", b"%d"),
    b"rtpa_nrcvd": ("received", b"%d"),
    b"rtpa_ndups": ("duplicates", b"%d"),
    b"rtpa_nlost": ("lost", b"%d"),
    b"rtpa_perrs": ("parse_errors", b"%d"),
}


_COMMAND_COUNTS: dict[bytes, str] = {
    b"ncmds_rcvd": "received",
    b"ncmds_rcvd_ndups": "repeated",
    b"ncmds_succd": "succeeded",
    b"ncmds_errs": "failed",
    b"ncmds_repld": "answered",
}

_TOTALS: dict[bytes, tuple[str, bytes]] = {
    b"nsess_created": ("sessions_created", b"%d"),
    b"nsess_destroyed": ("sessions_destroyed", b"%d"),
    b"nsess_timeout": ("sessions_timed_out", b"%d"),
    b"nsess_complete": ("sessions_completed", b"%d"),
    b"nsess_nortp": ("sessions_without_rtp", b"%d"),
    b"nsess_owrtp": ("sessions_with_one_way_rtp", b"%d"),
    b"nsess_nortcp": ("sessions_without_rtcp", b"%d"),
    b"nsess_owrtcp": ("sessions_with_one_way_rtcp", b"%d"),
    b"nplrs_created": ("players_created", b"%d"),
    b"nplrs_destroyed": ("players_destroyed", b"%d"),
    b"npkts_rcvd": ("packets_received", b"%d"),
    b"npkts_played": ("packets_played", b"%d"),
    b"npkts_relayed": ("packets_relayed", b"%d"),
    b"npkts_resizer_in": ("packets_to_repacketize", b"%d"),
    b"npkts_resizer_out": ("packets_repacketized", b"%d"),
    b"npkts_resizer_discard": ("packets_not_repacketized", b"%d"),
    b"npkts_discard": ("packets_discarded", b"%d"),
    b"total_duration": ("total_duration_s", b"%f"),
    b"rtpa_nsent": ("sent", b"%d"),
    b"rtpa_nrcvd": ("received", b"%d"),
    b"rtpa_ndups": ("duplicates", b"%d"),
    b"rtpa_nlost": ("lost", b"%d"),
    b"rtpa_perrs": ("parse_errors", b"%d"),
    b"pps_in": ("packets_per_second", b"%f"),
}


def encode_error(code: ErrorCode) -> bytes:
    """Encode `E<code>` (protocol.md 3.3). Like all encoders here, without the final LF."""
    return b"E%d" % code


def encode_port_line(line: PortLine) -> bytes:
    """Encode the reply to `U` and `L` (protocol.md 3.2): no address if the port is on all addresses of a family."""
    shown = line.local.shown
    if not shown:
        return b"%d" % line.port
    suffix = b" 6" if line.local.is_ipv6 else b""
    return b"%d %s%s" % (line.port, shown.encode(), suffix)


def encode_results(main: bytes, results: Sequence[bytes]) -> bytes:
    """Append the results of sub-commands to a reply (protocol.md 2.6), without empty ones at the end."""
    while results and not results[-1]:
        results = results[:-1]
    return b" && ".join([main, *(result or DONE for result in results)])


def encode_counters(counters: SessionCounters, names: Sequence[bytes], is_verbose: bool) -> bytes:
    """Encode the reply to `Q`: the named counters, or the default ones if none is named (protocol.md 11.1).

    Raises CommandError for an unknown name; case matters.
    """
    values = []
    for name in names or DEFAULT_COUNTERS:
        if name not in _COUNTERS:
            refuse(ErrorCode.COUNTER_UNKNOWN, f"no counter {printable(name)}")
        attribute, form = _COUNTERS[name]
        values.append((name, form % getattr(counters, attribute)))
    return _join(values, is_verbose)


def encode_stats(totals: Totals, commands: CommandCounts, names: Sequence[bytes], is_verbose: bool) -> bytes:
    """Encode the reply to `G`: the named totals, an empty line if none is named (protocol.md 11.3).

    Raises CommandError for an unknown name; case matters.
    """
    values = []
    for name in names:
        if name in _COMMAND_COUNTS:
            values.append((name, b"%d" % getattr(commands, _COMMAND_COUNTS[name])))
            continue
        if name not in _TOTALS:
            refuse(ErrorCode.STATS_COUNTER_UNKNOWN, f"no counter {printable(name)}")
        attribute, form = _TOTALS[name]
        values.append((name, form % getattr(totals, attribute)))
    return _join(values, is_verbose)


def _join(values: Sequence[tuple[bytes, bytes]], is_verbose: bool) -> bytes:
    return b" ".join(b"%s=%s" % pair if is_verbose else pair[1] for pair in values)


def encode_tiers(tiers: Tiers) -> bytes:
    """Encode what `It`, our extension, adds: streams by tier, those of userspace by reason, frames by verdict,
    what is recorded, and what overload protection did.
    """
    lines = [f"streams by {program}: {count}" for program, count in tiers.kernel.items()]
    lines.append(f"streams by userspace: {sum(tiers.userspace.values())}")
    reasons = sorted(tiers.userspace.items(), key=lambda pair: (-pair[1], pair[0]))
    lines += [f"userspace, {reason}: {count}" for reason, count in reasons[:_MOST_REASONS]]
    others = sum(count for _, count in reasons[_MOST_REASONS:])
    if others:
        lines.append(f"userspace, other reasons: {others}")
    lines += [f"frames {name}: {count}" for name, count in tiers.frames.items()]
    lines += [f"recording {name}: {count}" for name, count in tiers.recordings.items()]
    lines += [f"overload {name}: {count}" for name, count in tiers.overload.items()]
    return "\n".join(lines).encode()


def encode_totals(totals: Totals, with_load: bool) -> bytes:
    """Encode the reply to `I`: five lines, or six with the load (protocol.md 11.2)."""
    lines = [
        b"sessions created: %d" % totals.sessions_created,
        b"active sessions: %d" % totals.active_sessions,
        # RTP streams: a session counts as two even before it has its second leg.
        b"active streams: %d" % (2 * totals.active_sessions),
        b"packets received: %d" % totals.packets_received,
        b"packets transmitted: %d" % (totals.packets_relayed + totals.packets_played),
    ]
    if with_load:
        lines.append(b"average load: %f" % totals.load)
    return b"\n".join(lines)
