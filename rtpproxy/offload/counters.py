"""Reads what the kernel counted, by port and by verdict, and writes the state from which its RTP statistics go on.

Ports come as keys, which also tell the port space (`session.local`). Nanoseconds become seconds here.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rtpproxy.offload.entry import PortCounters
from rtpproxy.offload.layout import BitRing, ByPort, MapLayout
from rtpproxy.offload.maps import CalledMap, MappedArray
from rtpproxy.offload.syscall import possible_cpus
from rtpproxy.rtp.statistics import MAX_JUMP, RtpState, RtpTotals

_NS = 1_000_000_000
_GAP_NS = 1024
"""The unit of gaps (GAP_SHIFT in `bpf/account.h`)."""
_JITTER_UNITS = 256
"""Parts of a timestamp unit that jitter is counted in (`jitter_elapsed` in `bpf/jitter.h`)."""
_FIRST_NUMBER = 1 << 16
"""Added by the kernel to the sequence number that a run starts with (`run_start` in `bpf/run.h`)."""
_WORD = (1 << 32) - 1


class CounterTables(ByPort):
    """Counters of all ports and of all verdicts of one running relay."""

    def __init__(
        self, map_fds: Mapping[str, int], layouts: Mapping[str, MapLayout], first_port: int, last_port: int
    ) -> None:
        """Map the arrays. Raises OSError."""
        super().__init__(first_port, last_port)
        self._counters, self._events = (
            MappedArray(map_fds[name], layouts[name]) for name in ("port_counters", "port_events")
        )
        self._verdicts = CalledMap(map_fds["verdicts"], layouts["verdicts"])
        self._cpus = possible_cpus()
        state = (
            *("ssrc", "last_seen_ns", "arrived_ns", "highest", "timestamp", "jitter", "jitter_max", "longest_gap"),
            *("is_running", "is_jitter_new", "payload_type"),
        )
        counters, events = self._counters.layout, self._events.layout
        self._counter_struct = counters.packer("packets", "jitter_sum", "jitter_count", *state)
        self._state_struct, self._state_at = counters.packer(*state), counters.offset(state[0])
        run = "lowest", "settled", "missing"
        self._event_struct = events.packer(
            *("ssrc_changed_ns", "sequence_set_ns", "sequence", "lost", "duplicates", "parse_errors"),
            *run,
        )
        self._event_at = events.offset("ssrc_changed_ns")
        self._ssrc_changes_of = self._events.numbers("ssrc_changes")
        self._run_struct, self._run_at = events.packer(*run), events.offset(run[0])
        self._ring = BitRing(events.member_bytes("missing"))
        self._packets_of, self._seen_ns_of = (self._counters.numbers(name) for name in ("packets", "last_seen_ns"))
        self._tee_missed_of = self._events.numbers("tee_missed")
        self._tee_chosen_of = self._events.numbers("tee_chosen")
        self._last_seen_ns = self._counters.column("last_seen_ns")
        self._packets = self._counters.column("packets")
        self._parse_errors = self._events.column("parse_errors")
        self._total_forwarded = 0

    def close(self) -> None:
        """Unmap everything. No method may be called afterwards."""
        del self._last_seen_ns, self._packets, self._parse_errors
        tee = self._tee_missed_of, self._tee_chosen_of
        for numbers in (self._packets_of, self._seen_ns_of, self._ssrc_changes_of, *tee):
            numbers.release()
        for array in (self._counters, self._events):
            array.close()

    def counters(self, key: int) -> PortCounters:
        """Return what the kernel counted at this port up to now.

        `packets` is read first, and written last by the kernel, so that the rest is as new as these packets or newer.
        """
        row = self.row(key)
        packets, jitter_sum, jitter_count, ssrc, seen, arrived, highest, timestamp, jitter, jitter_max, gap, *flags = (
            self._counter_struct.unpack_from(self._counters.memory, self._counters.offset(row))
        )
        changed, refreshed, sequence, lost, duplicates, parse_errors, lowest, settled, missing = (
            self._event_struct.unpack_from(self._events.memory, self._events.offset(row) + self._event_at)
        )
        is_running, is_jitter_new, payload_type = flags
        state = RtpState(
            ssrc if is_running else None,
            highest,
            lowest,
            self._ring.unpack(missing, max(lowest, highest - MAX_JUMP), min(settled, highest)),
            seen / _NS,
            gap * _GAP_NS / _NS,
            timestamp,
            arrived / _NS,
            jitter / _JITTER_UNITS,
            jitter_max / _JITTER_UNITS,
            bool(is_jitter_new),
            payload_type if is_running else RtpState().payload_type,
        )
        return PortCounters(
            packets=packets,
            ssrc=ssrc,
            sequence=sequence,
            ssrc_changed_at=changed / _NS,
            sequence_set_at=refreshed / _NS,
            state=state,
            totals=RtpTotals(
                *(lost, duplicates, parse_errors, jitter_sum / _JITTER_UNITS, jitter_count),
                ssrc_changes=self._ssrc_changes_of[row],
            ),
        )

    def write_state(self, row: int, state: RtpState) -> None:
        """Set the state from which the RTP statistics of a row go on. The row must be held meanwhile."""
        highest = _FIRST_NUMBER + state.highest % _FIRST_NUMBER
        shift = highest - state.highest
        self._state_struct.pack_into(
            self._counters.memory,
            self._counters.offset(row) + self._state_at,
            state.ssrc or 0,
            int(state.seen_at * _NS),
            int(state.arrived_at * _NS),
            highest,
            state.timestamp,
            _bounded(state.jitter * _JITTER_UNITS),
            _bounded(state.jitter_max * _JITTER_UNITS),
            _bounded(state.longest_gap_s * _NS / _GAP_NS),
            state.ssrc is not None,
            state.is_jitter_new,
            max(state.payload_type, 0),
        )
        self._run_struct.pack_into(
            self._events.memory,
            self._events.offset(row) + self._run_at,
            max(state.lowest + shift, highest - self._ring.bits),
            highest,
            self._ring.pack([number + shift for number in state.missing]) if state.missing else self._ring.empty,
        )

    def forwarded(self, key: int) -> int:
        """Packets that the kernel forwarded from this port up to now."""
        return self._packets_of[self.row(key)]

    def seen_at(self, key: int) -> float:
        """Time that a packet was last forwarded from this port: seconds, monotonic, 0.0 for never."""
        return self._seen_ns_of[self.row(key)] / _NS

    def tee_missed(self, key: int) -> int:
        """Packets forwarded from this port that were to be written into the tee's ring, but found no room there.

        Those with more payload than 9,152 bytes are among them. The number has 32 bits.
        """
        return self._tee_missed_of[self.row(key)]

    def tee_chosen(self, key: int) -> int:
        """Packets forwarded from this port that were written into the tee's ring for their payload type; 32 bits."""
        return self._tee_chosen_of[self.row(key)]

    def total_forwarded(self) -> int:
        """Packets forwarded from all ports since the programs were loaded, without those that drivers did not send."""
        # These are counted a moment after they were forwarded; the total must not run backwards then.
        sent = int(self._packets.sum()) - self.count("dropped_not_sent")
        self._total_forwarded = max(self._total_forwarded, sent)
        return self._total_forwarded

    def total_dropped(self) -> int:
        """Packets dropped at all ports since the programs were loaded, for whatever reason."""
        return sum(count for name, count in self.unforwarded_by_verdict().items() if name.startswith("dropped_"))

    def total_parse_errors(self) -> int:
        """Packets forwarded from all RTP ports though they are not RTP."""
        return int(self._parse_errors.sum())

    def last_seen(self) -> npt.NDArray[np.float64]:
        """Time of the last packet forwarded from each port: seconds, 0.0 for never; index is `row(key)`."""
        return self._last_seen_ns / _NS

    def count(self, verdict: str) -> int:
        """Frames of one verdict that `bpf/verdict.h` names, over all CPUs."""
        return self.unforwarded_by_verdict()[verdict]

    def verdicts(self) -> dict[str, int]:
        """Frames by verdict: `forwarded`, and the reasons that `bpf/verdict.h` names, over all CPUs."""
        return {"forwarded": self.total_forwarded(), **self.unforwarded_by_verdict()}

    def unforwarded_by_verdict(self) -> dict[str, int]:
        """Frames that were not forwarded, by the reasons that `bpf/verdict.h` names, over all CPUs."""
        return self._verdicts.read_sums(0, self._cpus)


def _bounded(value: float) -> int:
    return min(round(value), _WORD)
