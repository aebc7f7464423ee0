"""Writes the record of a session that ended, a line of CSV (protocol.md 13.1)."""

import re
from collections.abc import Iterator

from rtpproxy.rtp.statistics import SequenceTracker
from rtpproxy.session.session import Session, Stream

VERSION = b"1.2"
COLUMNS = (
    *("rec_ver", "rtpp_node_id", "rtpp_pid", "sess_uid", "call_id", "from_tag", "setup_ts", "teardown_ts"),
    *("first_rtp_ts_ino", "last_rtp_ts_ino", "first_rtp_ts_ina", "last_rtp_ts_ina"),
    *("rtp_npkts_ina", "rtp_npkts_ino", "rtp_nrelayed", "rtp_ndropped"),
    *("rtcp_npkts_ina", "rtcp_npkts_ino", "rtcp_nrelayed", "rtcp_ndropped"),
    *("rtpa_nsent_ino", "rtpa_nrcvd_ino", "rtpa_ndups_ino", "rtpa_nlost_ino", "rtpa_perrs_ino"),
    *("rtpa_ssrc_last_ino", "rtpa_ssrc_cnt_ino", "rtpa_pt_last_ino"),
    *("rtpa_nsent_ina", "rtpa_nrcvd_ina", "rtpa_ndups_ina", "rtpa_nlost_ina", "rtpa_perrs_ina"),
    *("rtpa_ssrc_last_ina", "rtpa_ssrc_cnt_ina", "rtpa_pt_last_ina"),
    *("rtpa_jitter_last_ino", "rtpa_jitter_max_ino", "rtpa_jitter_avg_ino"),
    *("rtpa_jitter_last_ina", "rtpa_jitter_max_ina", "rtpa_jitter_avg_ina"),
    *("rtpp_rtp_rmt_ip_o", "rtpp_rtp_rmt_pt_o", "rtpp_rtp_rmt_ip_a", "rtpp_rtp_rmt_pt_a"),
    *("rtpp_rtcp_rmt_ip_o", "rtpp_rtcp_rmt_pt_o", "rtpp_rtcp_rmt_ip_a", "rtpp_rtcp_rmt_pt_a"),
    *("rtpp_hld_sts_o", "rtpp_hld_sts_a", "rtpp_hld_cnt_o", "rtpp_hld_cnt_a"),
)
"""Of the caller those in `_a` and `_ina`, of the callee those in `_o` and `_ino`."""
HEADER = ",".join(COLUMNS).encode() + b"\n"
_SPECIAL = re.compile(rb'[^\x21-\x7e]|[,"]')
_NOTHING = SequenceTracker()


def write_record(session: Session, number: int, node: bytes, process: int, now: float, wall_offset_s: float) -> bytes:
    """Write the record of a session that has ended `now`; everything that the kernel counted is absorbed.

    `number` is that of the session among those of the process; `node` is the name of this host. `wall_offset_s` is what
    the time of day, in seconds since 1970, is ahead of `now`.
    """
    callee, caller = session.legs
    times = (session.created_at, now, *_span(callee.rtp), *_span(caller.rtp))
    rtp, rtcp = (callee.rtp, caller.rtp), (callee.rtcp, caller.rtcp)
    trackers = [leg.rtp.tracker or _NOTHING for leg in session.legs]
    values: list[bytes | int] = [VERSION, plain(node), process, number, plain(session.call_id), plain(session.from_tag)]
    values += [b"%.6f" % (at + wall_offset_s if at else 0.0) for at in times]
    for streams in (rtp, rtcp):
        values += [stream.received_packets for stream in reversed(streams)]
        values += [sum(stream.relayed_packets for stream in streams), sum(stream.dropped_packets for stream in streams)]
    for tracker in trackers:
        values += _counts(tracker)
    for tracker in trackers:
        jitter = tracker.jitter
        values += [b"%.6f" % value for value in (jitter.last, jitter.maximum, jitter.average)]
    for streams in (rtp, rtcp):
        for stream in streams:
            values += _remote(stream)
    values += [b"t" if leg.is_on_hold else b"f" for leg in session.legs]
    values += [leg.holds for leg in session.legs]
    return b",".join(value if isinstance(value, bytes) else b"%d" % value for value in values) + b"\n"


def plain(text: bytes) -> bytes:
    """Write what would end a column or a line as %XX: commas, quotation marks, and all but printable ASCII."""
    return _SPECIAL.sub(lambda found: b"%%%02X" % found[0][0], text)


def _span(stream: Stream) -> tuple[float, float]:
    """Times of the first and of the last packet, 0.0 for none."""
    tracker = stream.tracker or _NOTHING
    return tracker.first_seen_at, tracker.seen_at


def _counts(tracker: SequenceTracker) -> Iterator[bytes | int]:
    yield from (tracker.sent, tracker.received, tracker.duplicates, tracker.lost, tracker.parse_errors)
    yield b"" if tracker.ssrc is None else b"0x%08X" % tracker.ssrc
    yield from (tracker.ssrc_changes, tracker.payload_type)


def _remote(stream: Stream) -> Iterator[bytes | int]:
    remote = stream.latch.remote
    # A link-local address names an interface, whose name may hold anything.
    yield from (b"", b"") if remote is None else (plain(remote.host.encode(errors="surrogateescape")), remote.port)
