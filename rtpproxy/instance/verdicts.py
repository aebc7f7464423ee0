"""Reports in the log what became of frames."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class VerdictReport:
    """Logs frame counters by verdict."""

    def __init__(self, read: Callable[[], dict[str, int]]) -> None:
        """`read` gives the kernel's counters."""
        self._sources = [read]
        self._logged: dict[str, int] = {}

    def add(self, read: Callable[[], dict[str, int]]) -> None:
        """Log further counters after the others."""
        self._sources.append(read)

    def log_changes(self) -> None:
        """Log the counters if they changed since they were logged last."""
        if not log.isEnabledFor(logging.INFO):
            return
        verdicts = {name: count for read in self._sources for name, count in read().items()}
        if verdicts != self._logged:
            self._logged = verdicts
            counts = ", ".join(f"{name} {count}" for name, count in verdicts.items() if count)
            log.info("frames by verdict: %s", counts or "none")
