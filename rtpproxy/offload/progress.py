"""Judges a child process by its own processor time: on a busy machine it may take any time by the clock."""

from enum import Enum

MOST_PROCESSOR_S = 300.0
"""Compiling takes two seconds of processor time, and thirty times as many on a machine that is emulated (QEMU without
KVM). A compiler that takes five times as many again is in an endless loop."""
MOST_IDLE_S = 30.0
"""A child that waits for the processor gets some of it within this time, however busy the machine is."""


class Judgement(Enum):
    """What to do with the child."""

    WAIT = "it goes on"
    LOOPS = "the compiler does not come to an end"
    HANGS = "the compiler does nothing"


class Progress:
    """Follows one child."""

    def __init__(self, most_processor_s: float = MOST_PROCESSOR_S, most_idle_s: float = MOST_IDLE_S) -> None:
        self._most_processor_s = most_processor_s
        self._most_idle_s = most_idle_s
        self._processor_s = 0.0
        self._idle_s = 0.0

    def judge(self, processor_s: float, waited_s: float) -> Judgement:
        """Judge by the processor time that the child has used so far, after waiting once more for so long."""
        self._idle_s = 0.0 if processor_s > self._processor_s else self._idle_s + waited_s
        self._processor_s = processor_s
        if processor_s > self._most_processor_s:
            return Judgement.LOOPS
        return Judgement.HANGS if self._idle_s >= self._most_idle_s else Judgement.WAIT
