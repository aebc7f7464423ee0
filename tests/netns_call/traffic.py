"""Numbered streams at a constant rate while something changes: what was sent, what arrived, where, how often."""

import errno
import select
import threading
import time
from collections import Counter

from tests.netns_call.call import DEADLINE_S, Address, Call, PhonePort, Way, number_of, numbered, paused
from tests.waiting import wait_for

INTERVAL_S = 1 / 2000
"""Between two packets of a stream, unless a test says otherwise."""


class Stream:
    """Numbered packets from one port of a phone to the relay, and the ports where they may come out."""

    def __init__(self, sender: PhonePort, to: Address, *receivers: PhonePort) -> None:
        self.sender = sender
        self.to = to
        self.receivers = receivers
        self.sent = 0
        self.arrived: dict[PhonePort, list[int]] = {receiver: [] for receiver in receivers}

    @property
    def missing(self) -> set[int]:
        """Numbers sent that arrived nowhere."""
        return set(range(self.sent)).difference(*self.arrived.values())

    @property
    def doubled(self) -> list[int]:
        """Numbers that arrived more than once, without those of other packets that the call sent before."""
        counts = Counter(number for numbers in self.arrived.values() for number in numbers)
        return [number for number, count in counts.items() if count > 1 and number < self.sent]

    def send(self) -> None:
        """Send the next, unless the phone's link is down: no way out, or packets pile up before it."""
        try:
            self.sender.send(numbered(self.sent), self.to)
        except OSError as error:
            if error.errno not in (errno.ENETUNREACH, errno.ENETDOWN, errno.EAGAIN):
                raise
        else:
            self.sent += 1


def both_ways(call: Call) -> tuple[Stream, Stream]:
    """A stream from either phone to the other."""
    caller, callee = call.caller, call.callee
    return Stream(caller.rtp, caller.to, callee.rtp), Stream(callee.rtp, callee.to, caller.rtp)


class Traffic:
    """Streams under way, from entering the context until `finish` or its end."""

    def __init__(self, *streams: Stream, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._streams = streams
        self._by_receiver = {receiver: stream for stream in streams for receiver in stream.receivers}
        self._is_sending = True
        self._is_open = True
        self._failures: list[Exception] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_open = False
        self._thread.join()

    def more(self, count: int = 400) -> None:
        """Wait until so many more packets of each stream were sent."""
        targets = [stream.sent + count for stream in self._streams]
        self._wait(
            lambda: all(stream.sent >= target for stream, target in zip(self._streams, targets, strict=True)),
            f"{count} packets to be sent",
        )

    def resumed(self, count: int = 400) -> None:
        """Wait until so many packets of each stream that are sent from now on arrived."""
        marks = [stream.sent for stream in self._streams]
        self._wait(
            lambda: all(
                _arrived_since(stream, mark) >= count for stream, mark in zip(self._streams, marks, strict=True)
            ),
            "traffic to resume",
        )

    def finish(self) -> None:
        """Stop sending and wait until everything sent has arrived."""
        self.stop_sending()
        self._wait(lambda: not any(stream.missing for stream in self._streams), "every packet to arrive")

    def stop_sending(self) -> None:
        self._is_sending = False

    def _wait(self, condition, what: str) -> None:
        wait_for(lambda: self._failures or condition(), DEADLINE_S, what)
        assert not self._failures, self._failures

    def _run(self) -> None:
        try:
            due = time.monotonic()
            while self._is_open:
                now = time.monotonic()
                # Behind time, a few packets follow each other at once; what was missed before that is left out.
                due = max(due, now - 20 * self._interval_s)
                while self._is_sending and due <= now:
                    for stream in self._streams:
                        stream.send()
                    due += self._interval_s
                self._receive(max(0.0, due - time.monotonic()) if self._is_sending else self._interval_s)
        except Exception as error:  # raised again by the waiting thread
            self._failures.append(error)

    def _receive(self, timeout_s: float) -> None:
        readable, _, _ = select.select(list(self._by_receiver), [], [], timeout_s)
        for receiver in readable:
            numbers = self._by_receiver[receiver].arrived[receiver]
            numbers.extend(number_of(data) for data, _ in receiver.take())


def in_the_kernel_again(call: Call, way: Way, traffic: Traffic) -> None:
    """Wait until traffic flows both ways; where it is the kernel's, without the relay's process."""
    traffic.resumed()
    if way.is_kernel:
        call.wait_offloaded(*call.rtp_ports)
        with paused(call.relay):
            traffic.resumed()


def _arrived_since(stream: Stream, mark: int) -> int:
    return sum(number >= mark for numbers in stream.arrived.values() for number in numbers)
