"""Says what a run found out: as a table for people, as JSON for programs, and in sentences what was wrong."""

from typing import Any

import numpy as np

from generator.accounts import DELAY_BIN_NS, Account
from generator.run import Outcome

_COLUMNS = ("sent", "received", "lost", "opening", "doubled", "reordered", "late", "wrong")
_STREAM_LINES = 50


def totals(account: Account) -> dict[str, int]:
    """Add up the streams of an account."""
    return {name: int(values.sum()) for name, values in _by_stream(account).items()}


def delays_us(account: Account) -> dict[str, int | None]:
    """Work out how long packets were on their way, in microseconds; None if none arrived."""
    count = int(account.delays.sum())
    if not count:
        return {"median": None, "p99": None, "max": None}
    reached = np.cumsum(account.delays)
    step = DELAY_BIN_NS // 1000
    at = {name: int(np.searchsorted(reached, share * count)) for name, share in (("median", 0.5), ("p99", 0.99))}
    longest = account.max_delay_ns // 1000
    last = len(reached) - 1
    shares = {name: longest if number == last else min(longest, (number + 1) * step) for name, number in at.items()}
    return {**shares, "max": longest}


def faults(outcome: Outcome) -> list[str]:
    """List what was wrong, a sentence each; nothing if the run was as it should be."""
    found = list(outcome.faults)
    if outcome.stopped_by is None and not outcome.accounts and not found:
        found.append("nothing was sent")
    for account in outcome.accounts:
        found += _account_faults(account, outcome)
    if outcome.judge.strays:
        places = ", ".join(sorted(outcome.judge.strays_by_phone)[:3])
        found.append(f"{outcome.judge.strays} strays reached phones, as at {places}")
    found += _own_faults(outcome)
    all_streams = sum(len(account.sent) for account in outcome.accounts)
    if outcome.settings.expects_kernel and outcome.stopped_by is None and (outcome.takeover.streams or 0) < all_streams:
        streams = "an unknown number" if outcome.takeover.streams is None else outcome.takeover.streams
        found.append(f"at the end, the kernel forwarded {streams} of {all_streams} streams")
    return found


def _own_faults(outcome: Outcome) -> list[str]:
    """Say which of the missing packets may not be the relay's fault."""
    found = []
    missing = sum(totals(account)["lost"] for account in outcome.accounts)
    if outcome.dropped:
        found.append(
            f"{outcome.dropped} frames arrived that this program was too slow to take; of {missing} missing packets, as"
            " many were not lost by the relay: send less, or give the generator a core of its own"
        )
    if outcome.interface_drops:
        found.append(
            f"{outcome.interface_drops} frames were dropped by the interface before they left this host; of {missing}"
            " missing packets, as many never reached the relay"
        )
    return found


def notes(outcome: Outcome) -> list[str]:
    """List what is no fault of the relay's, but is to be known."""
    told = []
    sent = sum(int(account.sent.sum()) for account in outcome.accounts)
    if outcome.sent_late:
        told.append(
            f"this program could not keep its rate: of {sent + outcome.strays_sent} packets, {outcome.sent_late} were"
            " sent more than 10 ms after they were due"
        )
    if outcome.judge.refused:
        told.append(f"{outcome.judge.refused} answers of ICMP said that a destination is unreachable")
    if outcome.strays_sent:
        told.append(f"{outcome.strays_sent} strays were sent")
    early = sum(int(account.early_reordered.sum()) for account in outcome.accounts)
    if early:
        told.append(f"{early} packets were overtaken by later ones during the opening, as when the kernel takes over")
    old = sum(int(account.old_place.sum()) for account in outcome.accounts)
    if old:
        told.append(f"{old} packets went to where a phone had been before, while the relay could not know better")
    withheld = sum(int(schedule.withheld.sum()) for schedule in outcome.withheld)
    if withheld:
        told.append(f"{withheld} packets were withheld (--loss)")
    if outcome.stopped_by is not None:
        told.append(f"stopped by signal {outcome.stopped_by}; the calls were ended")
    return told


def as_json(outcome: Outcome, *, all_streams: bool) -> dict[str, Any]:
    """Everything that is known, as plain values. Streams without fault are left out unless `all_streams`."""
    settings = outcome.settings
    found = faults(outcome)
    return {
        "format": 1,
        "name": settings.name,
        "relays": [str(control) for control in settings.controls],
        "calls": settings.calls,
        "duration_s": settings.duration_s,
        "codec": settings.codec.name,
        "rate": settings.rate,
        "size": settings.size,
        "late_ms": settings.late_ms,
        "is_right": not found,
        "faults": found,
        "notes": notes(outcome),
        "stopped_by": outcome.stopped_by,
        "takeover_s": outcome.takeover_s,
        "kernel_streams": outcome.takeover.streams,
        "expected_streams": sum(len(account.sent) for account in outcome.accounts),
        "strays": {"sent": outcome.strays_sent, "arrived": outcome.judge.strays},
        "generator": {
            "sent_late": outcome.sent_late,
            "receive_drops": outcome.dropped,
            "interface_drops": outcome.interface_drops,
        },
        "totals": [
            {
                "direction": account.name[0],
                "kind": account.name[1],
                "streams": len(account.sent),
                **totals(account),
                "delay_us": delays_us(account),
            }
            for account in outcome.accounts
        ],
        "streams": [
            row for account in outcome.accounts for row in _streams(account, outcome, only_faulty=not all_streams)
        ],
        "examples": outcome.judge.examples,
    }


def table(result: dict[str, Any], before: dict[str, Any] | None = None) -> str:
    """Show the JSON of a run to people, beside that of an earlier run if given."""
    runs = [result] if before is None else [before, result]
    is_own_fault = any(run["generator"]["receive_drops"] or run["generator"]["interface_drops"] for run in runs)
    rows = [["missing" if is_own_fault and heading == "lost" else heading for heading in _HEADINGS]]
    for number in range(len(result["totals"])):
        for run in runs:
            if number < len(run["totals"]):
                rows.append(_total_row(run, run["totals"][number], is_named=before is not None))
    lines = _aligned(rows) if len(rows) > 1 else []
    for run in runs:
        if not run["totals"]:
            continue
        label = f"{_name(run)}: " if before is not None else ""
        lines.append(f"{label}{_takeover_line(run)}")
    if result["streams"]:
        lines += ["", *_stream_lines(result["streams"])]
    lines += [f"note: {note}" for note in result["notes"]]
    lines += [f"wrong frame: {example}" for example in result["examples"]]
    if before is not None:
        lines += [f"WRONG with {_name(before)}: {fault}" for fault in before["faults"]]
    lines += [f"WRONG: {fault}" for fault in result["faults"]]
    if result["is_right"]:
        lines.append("stopped before the end" if result["stopped_by"] else "everything was right")
    return "\n".join(lines)


_HEADINGS = ["", "kind", "streams", *_COLUMNS, "delay: median", "99 %", "longest"]


def _total_row(run: dict[str, Any], total: dict[str, Any], *, is_named: bool) -> list[str]:
    label = f"{_name(run)}: {total['direction']}" if is_named else total["direction"]
    delays = [_milliseconds(total["delay_us"][name]) for name in ("median", "p99", "max")]
    return [label, total["kind"], str(total["streams"]), *(str(total[name]) for name in _COLUMNS), *delays]


def _name(run: dict[str, Any]) -> str:
    return str(run["name"] or ", ".join(run["relays"]))


def _takeover_line(run: dict[str, Any]) -> str:
    if run["kernel_streams"] is None:
        return "the kernel's part: unknown (the relay does not answer It)"
    if run["takeover_s"] is None:
        return f"at the end, the kernel forwarded {run['kernel_streams']} of {run['expected_streams']} streams"
    return (
        f"the kernel had all RTP streams after {run['takeover_s'] * 1000:.0f} ms;"
        f" at the end, {run['kernel_streams']} of {run['expected_streams']} streams"
    )


def _milliseconds(microseconds: int | None) -> str:
    return "-" if microseconds is None else f"{microseconds / 1000:.2f} ms"


def _stream_lines(streams: list[dict[str, Any]]) -> list[str]:
    rows = [["call", "stream", "kind", *_COLUMNS, "fields that were wrong"]]
    for stream in streams[:_STREAM_LINES]:
        fields = ", ".join(f"{name} ({count})" for name, count in stream["fields"].items())
        numbers = [str(stream[name]) for name in _COLUMNS]
        rows.append([str(stream["call"]), stream["direction"], stream["kind"], *numbers, fields])
    lines = _aligned(rows)
    left = len(streams) - _STREAM_LINES
    return [*lines, f"and {left} more streams: see --json"] if left > 0 else lines


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < 2 or not cell[:1].isdigit() else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _by_stream(account: Account) -> dict[str, Any]:
    received, opening = account.received(), account.opening()
    return {
        "sent": account.sent,
        "received": received,
        "lost": account.sent - received - opening,
        "opening": opening,
        "doubled": account.doubled,
        "reordered": account.reordered,
        "reordered_opening": account.early_reordered,
        "late": account.late,
        "wrong": account.wrong,
    }


def _streams(account: Account, outcome: Outcome, *, only_faulty: bool) -> list[dict[str, Any]]:
    columns = _by_stream(account)
    is_late_wrong = outcome.settings.is_late_wrong
    rows = []
    for call in range(len(account.sent)):
        row = {name: int(values[call]) for name, values in columns.items()}
        counted = ["lost", "doubled", "reordered", "wrong", *(["late"] if is_late_wrong else [])]
        is_faulty = any(row[name] for name in counted) or not row["sent"] or not row["received"]
        if is_faulty or not only_faulty:
            fields = dict(account.faults.get(call, {}))
            rows.append({"call": call, "direction": account.name[0], "kind": account.name[1], **row, "fields": fields})
    return rows


def _account_faults(account: Account, outcome: Outcome) -> list[str]:
    name = " ".join(account.name)
    columns = _by_stream(account)
    found = []
    if outcome.stopped_by is None:
        unsent, unheard = (
            int((columns["sent"] == 0).sum()),
            int(((columns["received"] == 0) & (columns["sent"] > 0)).sum()),
        )
        if unsent:
            found.append(f"{name}: {unsent} of {len(account.sent)} streams sent nothing")
        if unheard:
            found.append(f"{name}: of {unheard} of {len(account.sent)} streams nothing arrived")
    words = {
        "lost": "packets are missing" if outcome.dropped or outcome.interface_drops else "packets were lost",
        "doubled": "packets arrived more than once",
        "reordered": "packets were overtaken by later ones",
        "wrong": "packets arrived with something wrong in them",
    }
    if outcome.settings.is_late_wrong:
        words["late"] = f"packets took more than {outcome.settings.late_ms:g} ms"
    for column, text in words.items():
        count = int(columns[column].sum())
        if count:
            found.append(f"{name}: {count} {text}")
    return found
