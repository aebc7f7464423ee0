"""Makes the kernel ask whether neighbours are still there, as if a packet were sent to each.

The kernel does not learn that from the frames that our programs forward.
"""

import logging
from collections.abc import Callable, Iterable
from itertools import islice

from rtpproxy.errors import OffloadError
from rtpproxy.network.background import Runner
from rtpproxy.network.messages import neighbour_request, state_of_neighbour, use_of_neighbour
from rtpproxy.network.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, Rtnetlink
from rtpproxy.network.rtnl import RTM_GETNEIGH, RTM_NEWNEIGH

log = logging.getLogger(__name__)

_CERTAIN = 0x02 | 0x80
"""States of neighbours that were heard from, or that are permanent."""
_AT_ONCE = 128
"""Neighbours in one call to the kernel."""

NeighbourKey = tuple[int, str]
"""Interface index and neighbour address."""


class Confirmations:
    """Neighbours to be confirmed, each once however often it was added. The kernel answers when its lock is free."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._netlink = Rtnetlink()
        self._pending: dict[NeighbourKey, None] = {}
        self._is_asking = False

    def close(self) -> None:
        """Close the socket. To be called after the runner was closed."""
        self._netlink.close()

    def add(self, neighbours: Iterable[NeighbourKey]) -> None:
        """Let the kernel resolve neighbours that it does not know, and probe those that it has not heard from."""
        self._pending.update(dict.fromkeys(neighbours))
        self._go_on()

    def _go_on(self) -> None:
        if self._is_asking or not self._pending:
            return
        batch = list(islice(self._pending, _AT_ONCE))
        for neighbour in batch:
            del self._pending[neighbour]
        self._is_asking = True
        self._runner.run(lambda: self._ask(batch), self._on_done)

    def _ask(self, batch: list[NeighbourKey]) -> list[str]:
        """Confirm those of the neighbours that need it. Returns a line for each that the kernel refused.

        Their states are asked for: what is known from events may be old, and a permanent neighbour that is used in
        this way is permanent no more.
        """
        known = self._netlink.ask_each(RTM_GETNEIGH, [neighbour_request(*neighbour) for neighbour in batch])
        batch = [neighbour for neighbour, answer in zip(batch, known, strict=True) if not _is_certain(answer)]
        requests = [use_of_neighbour(*neighbour) for neighbour in batch]
        answers = self._netlink.ask_each(RTM_NEWNEIGH, requests, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
        return [
            f"cannot confirm neighbour {host}: {answer}"
            for (_, host), answer in zip(batch, answers, strict=True)
            if isinstance(answer, OffloadError)
        ]

    def _on_done(self, refused: Callable[[], list[str]]) -> None:
        self._is_asking = False
        try:
            for line in refused():
                log.debug("%s", line)
        finally:
            self._go_on()


def _is_certain(answer: bytes | OffloadError) -> bool:
    return not isinstance(answer, OffloadError) and bool(state_of_neighbour(answer) & _CERTAIN)
