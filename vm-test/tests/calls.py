"""Calls through the gateway, placed and judged outside by `vm-test/traffic.py`."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from lab.gateway import CONTROL, relay_address
from lab.progress import say

from tests.waiting import wait_for

TRAFFIC = Path(__file__).parents[1] / "traffic.py"
TAPS = {
    "in0": ("out0", ""),
    "in1": ("out1", ""),
    "in2": ("out2", ""),
    "in1.100": ("out1", "100"),
    "in1.200.100": ("out1", "200.100"),
}
"""Where phones are that the guest reaches by an interface: our end of the cable, and the tags on it."""
NOT_MEDIA = {"up_not_ip", "up_not_udp", "up_not_ours", "up_vlan", "up_extension_header"}
"""Verdicts on what else there is on a network: ARP, neighbour discovery, commands to the relay."""
FAMILIES = {"4-4": (False, False), "4-6": (False, True), "6-4": (True, False), "6-6": (True, True)}
FORWARDED = "frames forwarded"
"""Its line is not there until there was one."""
_LONGEST_S = 600.0
ENOUGH = 300
"""Frames that the kernel has to forward while userspace sees none."""


@dataclass(frozen=True)
class Way:
    """The interfaces of the gateway that a call goes by, and whether the phones there have IPv6 addresses."""

    caller: str = "in0"
    callee: str = "in1"
    ipv6: tuple[bool, bool] = (False, False)

    @property
    def options(self) -> list[str]:
        """For traffic.py. The relay listens on all addresses, so its replies name none."""
        options = []
        for side, ifname, ipv6 in zip(("caller", "callee"), (self.caller, self.callee), self.ipv6, strict=True):
            tap, vlan = TAPS[ifname]
            relay = relay_address(ifname, ipv6=ipv6)
            first, last = (f"{relay[:-1]}{end}" for end in (("10", "13") if side == "caller" else ("20", "23")))
            options += [f"--{side}", tap, f"--{side}-address", f"{first}-{last}", f"--{side}-relay", relay]
            options += [f"--{side}-vlan", vlan] if vlan else []
        if all(self.ipv6):
            # Without a label it would be the address that was used last for IPv6 (protocol.md 7.4), of whatever call.
            options += ["--offer-modifiers=6l{six}", "--answer-modifiers=6l{six}"]
        return options


class Talking:
    """Calls that go on for as long as the block; all must have been right.

    A minimum is for what the judge has to see by itself. How long the rest takes depends on the machine.
    """

    def __init__(self, gateway, way, *options, calls=4, minimum_s=0.0):
        self.streams = 4 * calls  # RTP and RTCP, two directions
        self._gateway = gateway
        self._json = gateway.report / "traffic.json"
        self._json.unlink(missing_ok=True)
        control = f"udp:{CONTROL[0]}:{CONTROL[1]}"
        self._command = [sys.executable, str(TRAFFIC), "--control", control, *way.options, f"--calls={calls}", "--rtcp"]
        self._command += ["--rtcp-interval=0.5", f"--duration={_LONGEST_S}", f"--opening={gateway.deadline_s(2)}"]
        self._command += [f"--json={self._json}", *options]
        self._minimum_s = minimum_s

    def __enter__(self):
        self._end = time.monotonic() + self._minimum_s
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self

    def __exit__(self, kind, *_):
        if not kind:
            wait_for(lambda: time.monotonic() >= self._end or not self.is_going_on, _LONGEST_S, "enough of the calls")
        stopped_early = self.is_going_on
        self._process.send_signal(signal.SIGINT)  # it ends its calls, and judges
        try:
            self.output, _ = self._process.communicate(timeout=self._gateway.deadline_s(30))
        finally:
            self._process.kill()
        if kind:
            print(self.output)
        else:
            result = self.result()
            assert stopped_early, f"they ended by themselves: {self.output[-2000:]}"
            assert self._process.returncode == 130, self.output[-2000:]
            assert result["faults"] == [], (result["faults"], result["examples"], self.output[-2000:])
            assert sum(total["received"] for total in result["totals"]) > 0

    @property
    def is_going_on(self):
        return self._process.poll() is None

    def result(self):
        """What the judge wrote, once it is over."""
        return json.loads(self._json.read_text()) if self._json.exists() else {}

    def _expect_going_on(self, what):
        if not self.is_going_on:
            raise AssertionError(f"the calls ended before {what}: {self._process.stdout.read()[-2000:]}")

    def wait_in_kernel(self, relay, tier="XDP"):
        """Wait until a program of the kernel forwards all streams."""

        def has_taken_over():
            self._expect_going_on("the kernel had all streams")
            return relay.counters().get(f"streams by {tier}", 0) >= self.streams

        try:
            wait_for(has_taken_over, self._gateway.deadline_s(10), f"{self.streams} streams by {tier}")
        except AssertionError:
            print(relay.ask("It"))
            raise

    def expect_kernel_alone(self, relay):
        """Wait until the kernel forwards many frames while userspace sees none of the media."""
        before = relay.counters()

        def is_alone():
            nonlocal before
            self._expect_going_on("the kernel had forwarded enough")
            counters = relay.counters()
            if counters.get(FORWARDED, 0) < before.get(FORWARDED, 0) + ENOUGH:
                return False
            stood_still = media_to_userspace(counters) == media_to_userspace(before)
            before = counters
            return stood_still

        wait_for(is_alone, self._gateway.deadline_s(30), "frames by the kernel only")


def media_to_userspace(counters):
    """The verdicts by which media went to userspace."""
    return {name: number for name, number in counters.items() if "up_" in name and name.split()[1] not in NOT_MEDIA}


def talk_in_kernel(gateway, relay, way, *options, tier="XDP", **more):
    """Make calls that the kernel takes over, and see that userspace is rid of them; the judge's result."""
    with Talking(gateway, way, "--expect-kernel", *options, **more) as talking:
        talking.wait_in_kernel(relay, tier)
        talking.expect_kernel_alone(relay)
    result = talking.result()
    say(f"the kernel had taken over after {result['takeover_s']:.2f} s")
    return result
