"""What copies and taps have in common, in the process that writes, sends and watches: how far they are."""

from typing import Protocol

from rtpproxy.recording.messages import Sent


class About(Protocol):
    """The message that began it: `messages.OpenCopy` or `messages.OpenTap`."""

    @property
    def output(self) -> int: ...
    @property
    def given(self) -> int: ...
    @property
    def packets(self) -> int: ...
    @property
    def withheld(self) -> int: ...
    @property
    def teed(self) -> int: ...


class LiveOutput:
    """Does with packets what is to be done as they come, and tells how many they were."""

    def __init__(self, about: About) -> None:
        self.packets = about.packets
        """Packets that are done with."""
        self.withheld = about.withheld
        """Of these, packets of which nothing was made."""
        self.teed = 0
        """Packets of the ring that belong to it."""
        self.lost = 0
        """Packets that should have come, and did not."""
        self.why = ""
        """What went wrong, in words; empty while all is well."""
        self.is_over = False
        """True once nothing more is done."""
        self._begun = about
        self._told = self.packets

    def begin(self, unread: int = 0) -> None:
        """Find out what is lost of an output that another process began.

        That one is known not to have read `unread` packets of the ring: they are still to come.
        """
        self.teed = max(0, self._begun.teed - unread)
        self.miss(max(0, self._begun.given + self.teed - self.packets))

    def miss(self, packets: int) -> None:
        """Take note of packets that were lost on the way."""
        self.lost += packets

    def progress(self) -> Sent | None:
        """Tell how far it is, if it went on since this was asked last."""
        if self.packets == self._told:
            return None
        self._told = self.packets
        return Sent(self._begun.output, self.packets, self.withheld)
