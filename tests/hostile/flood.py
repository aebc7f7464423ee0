"""A flood of frames out of a host's interface, up to a million and more a second."""

import math
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from bcc import BPF

from tests.netns import Phone
from tests.waiting import wait_for

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent
_DEADLINE_S = 600.0
_TEMPLATE_BYTES = 96
"""First bytes of a frame that are written each time: its headers."""


class Flood:
    """Sends one frame over and over, out of an attacker's interface. A context manager.

    With several ports, the destination port at `port_at` goes up with each packet, and with several sources, the source
    address of an untagged IPv4 frame does. The UDP checksum must be absent.
    """

    def __init__(
        self, attacker: Phone, frame: bytes, *, ports: int = 1, port_at: int = 0, sources: int = 1, cpu: int = 0
    ) -> None:
        self._attacker = attacker
        self._cpu = cpu
        self._process: subprocess.Popen | None = None
        assert len(frame) >= _TEMPLATE_BYTES
        self._frame = frame
        self._bpf = _compile(attacker.ifindex, ports, port_at, sources)
        self._program = self._bpf.load_func(b"flood", BPF.XDP)
        templates = self._bpf[b"templates"]
        leaf = templates.Leaf()
        leaf.words[:] = [int.from_bytes(self._frame[at : at + 8], sys.byteorder) for at in range(0, _TEMPLATE_BYTES, 8)]
        templates[0] = leaf

    def __enter__(self) -> "Flood":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._bpf.cleanup()

    def start(self, packets: int, a_second: int = 0) -> None:
        """Begin to send so many packets, so many a second or as fast as possible for 0."""
        rows = self._bpf[b"run"]
        rows[0] = rows.Leaf(wanted=packets, interval_ns=1_000_000_000 // a_second if a_second else 0)
        arguments = [self._program.fd, len(self._frame), self._cpu, math.ceil(_DEADLINE_S)]
        self._process = self._attacker.popen(
            [sys.executable, "-m", "tests.hostile.live", *arguments], pass_fds=[self._program.fd], cwd=_ROOT
        )
        wait_for(lambda: self._has_ended() or self.sent, _DEADLINE_S, "the flood's first packet")

    def finish(self) -> None:
        """Wait until all are sent."""
        wanted = self._bpf[b"run"][0].wanted
        wait_for(lambda: self._has_ended() or self.sent >= wanted, _DEADLINE_S, f"{wanted} packets to be sent")
        self.stop()

    @property
    def sent(self) -> int:
        """Packets sent since `start`."""
        return int(self._bpf[b"run"][0].sent)

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def _has_ended(self) -> bool:
        if self._process and self._process.poll() is not None:
            raise RuntimeError(f"the flood's process ended with {self._process.returncode}")
        return False


def _compile(egress_ifindex: int, ports: int, port_at: int, sources: int) -> BPF:
    defines = {
        "EGRESS_IFINDEX": egress_ifindex,
        "TEMPLATE_BYTES": _TEMPLATE_BYTES,
        "PORTS": ports,
        "PORT_AT": port_at,
        "SOURCES": sources,
    }
    multiarch = sysconfig.get_config_var("MULTIARCH")
    flags = [f"-D{name}={value}" for name, value in defines.items()]
    system = ["-isystem", "/usr/include", "-isystem", f"/usr/include/{multiarch}"]
    os.environ["BCC_KERNEL_SOURCE"] = str(_ROOT / "bpf" / "kernel")
    return BPF(src_file=str(_HERE / "flood.c").encode(), cflags=[*flags, *system])
