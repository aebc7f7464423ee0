"""Writes reports of RTCP in the JSON that Homer stores and shows (protocol.md 13.2).

The keys of a report are those of the C RTPproxy, in its order. Those of descriptions (`sdes_…`) are rtpengine's, that
of VoIP metrics (`report_blocks_xr`) is heplify's: Homer's own agents send them so.
"""

import json

from rtpproxy.rtp.rtcp import EXTENDED_REPORT, Item, Report, ReportBlock, Rtcp, SenderInformation, VoipMetrics

_encode = json.JSONEncoder().encode
"""Encodes a text, in ASCII."""


def bodies(rtcp: Rtcp) -> list[str]:
    """Write one body for each report, because Homer takes no two in one.

    Descriptions and VoIP metrics are in the first. Metrics without a report (RFC 5506) have a body of their own. What
    has neither has no body.
    """
    more = _sources(rtcp) + _metrics(rtcp.metrics)
    if not rtcp.reports:
        if rtcp.metrics is None:
            return []
        about = f'{{"ssrc":{rtcp.metrics.reporter},"type":{EXTENDED_REPORT},"report_blocks":[],"report_count":0'
        return [f"{about}{more}}}"]
    first, *others = rtcp.reports
    return [f"{_report(first)}{more}}}", *(f"{_report(one)}}}" for one in others)]


def _report(report: Report) -> str:
    """Write a report but for the last brace."""
    kind, ssrc, sender, blocks = report
    return (
        f'{{"ssrc":{ssrc},{"" if sender is None else _sender(sender)}"type":{kind},'
        f'"report_blocks":[{",".join(map(_block, blocks))}],"report_count":{len(blocks)}'
    )


def _sender(sender: SenderInformation) -> str:
    seconds, fraction, rtp_timestamp, packets, octets = sender
    return (
        f'"sender_information":{{"ntp_timestamp_sec":{seconds},"ntp_timestamp_usec":{fraction},'
        f'"rtp_timestamp":{rtp_timestamp},"packets":{packets},"octets":{octets}}},'
    )


def _block(block: ReportBlock) -> str:
    ssrc, fraction_lost, packets_lost, highest, jitter, last_report, delay = block
    return (
        f'{{"source_ssrc":{ssrc},"fraction_lost":{fraction_lost},"packets_lost":{packets_lost},'
        f'"highest_seq_no":{highest},"ia_jitter":{jitter},"lsr":{last_report},"dlsr":{delay}}}'
    )


def _sources(rtcp: Rtcp) -> str:
    if rtcp.describer is None:
        return ""
    items = ",".join(map(_item, rtcp.items))
    return f',"sdes_ssrc":{rtcp.describer},"sdes_report_count":{rtcp.chunks},"sdes_information":[{items}]'


def _item(item: Item) -> str:
    ssrc, kind, text = item
    return f'{{"sdes_chunk_ssrc":{ssrc},"type":{kind},"text":{_encode(text.decode(errors="replace"))}}}'


def _metrics(metrics: VoipMetrics | None) -> str:
    if metrics is None:
        return ""
    return (
        f',"report_blocks_xr":{{"type":7,"id":{metrics.ssrc},"fraction_lost":{metrics.loss_rate},'
        f'"fraction_discard":{metrics.discard_rate},"burst_density":{metrics.burst_density},'
        f'"gap_density":{metrics.gap_density},"burst_duration":{metrics.burst_duration},'
        f'"gap_duration":{metrics.gap_duration},"round_trip_delay":{metrics.round_trip_delay},'
        f'"end_system_delay":{metrics.end_system_delay}}}'
    )
