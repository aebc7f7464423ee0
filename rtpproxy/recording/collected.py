"""What became of the reports that went to Homer's collectors, as the relay counts and logs it. Without I/O."""

import logging
from collections.abc import Mapping

from rtpproxy.recording.messages import Collected, Reports

log = logging.getLogger(__name__)


class CollectedCounts:
    """Adds up what the process tells, through its deaths."""

    def __init__(self) -> None:
        self._total = Reports()

    def take(self, message: Collected) -> None:
        """Add what changed; tell of what is lost, each time that this has doubled."""
        before = self._total
        self._total = before.plus(message.changes)
        if self._total.lost.bit_length() > before.lost.bit_length():
            log.error("RTCP to Homer: %d packets lost so far: %s", self._total.lost, message.why)

    def counts(self) -> Mapping[str, int]:
        """Count packets to collectors, and datagrams that were not reported as they are; empty before the first."""
        total = self._total
        if not any(total):
            return {}
        return {
            "hep_sent": total.sent,
            "hep_lost": total.lost,
            "hep_malformed": total.malformed,
            "hep_srtcp": total.encrypted,
            "hep_without_report": total.without_report,
        }

    def log_end(self) -> None:
        """Tell how much it was in all, when the relay ends."""
        if any(self._total):
            log.log(
                logging.ERROR if self._total.lost else logging.INFO,
                "RTCP to Homer: %d packets sent, %d lost; of what came, %d malformed, %d SRTCP, %d without a report",
                *self._total,
            )
