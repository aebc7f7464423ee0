"""A virtual machine: QEMU, its monitor, the console, and three network interfaces.

Everything that it needs of the host is a descriptor or a device of the network namespace: no file names, no sockets in
the file system. It ends with the process that started it.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.lines import JsonLines
from lab.roots import Image

CPUS = 2
MEMORY_MB = 1536
QUEUES = 2 * CPUS
"""Of each virtio-net interface: as many as the kernel uses by itself, and one more for each processor.

Native XDP sends on the latter (drivers/net/virtio_net.c, virtnet_xdp_set).
"""
_CONSOLE_LINES = 200
_MONITOR_DEADLINE_S = 60.0

_PATIENCE = {
    "kvm": "",
    "tcg": "tsc=reliable nosoftlockup rcupdate.rcu_cpu_stall_suppress=1 sysctl.kernel.hung_task_timeout_secs=0",
}
"""For the kernel's command line. An emulated processor may stand still for a minute while its host is busy. Its time
stamp counters run alike, but do not say so; without that the kernel reads the time from emulated hardware."""


@dataclass(frozen=True)
class Nic:
    """One interface: `name` in the guest, `tap` outside, its QEMU model, its place on the bus."""

    name: str
    tap: str
    model: str
    number: int

    @property
    def mac(self) -> str:
        return f"52:54:00:00:{self.number:02}:01"

    @property
    def device(self) -> dict[str, Any]:
        """Properties for `-device` and `device_add`."""
        common = {"id": self.name, "netdev": self.tap, "mac": self.mac, "addr": f"0x{8 + self.number:x}"}
        if self.model != "virtio-net-pci":
            return {"driver": self.model, "romfile": "", **common}
        # XDP wants whole packets with finished checksums: no host that joins packets or leaves checksums to the guest.
        offloads = ("guest_csum", "guest_tso4", "guest_tso6", "guest_ecn", "guest_ufo")
        return {
            "driver": self.model,
            "romfile": "",
            "mq": True,
            "vectors": 2 * QUEUES + 2,
            **dict.fromkeys(offloads, False),
            **common,
        }


NICS = (
    Nic("in0", "out0", "virtio-net-pci", 0),
    Nic("in1", "out1", "virtio-net-pci", 1),
    Nic("in2", "out2", "e1000", 2),
)
"""The names in the guest are given by its files in `guest/files/etc/systemd/network`, by MAC."""


def accelerator() -> str:
    """`kvm` where it can be used, else `tcg`: emulation in software, ten times as slow. `VM_TEST_ACCEL` overrules.

    A device alone says little: in a virtual machine without nesting it may be there, and its guests stand still.
    """
    has_extensions = any(flag in Path("/proc/cpuinfo").read_text().split() for flag in ("vmx", "svm"))
    is_usable = has_extensions and os.access("/dev/kvm", os.R_OK | os.W_OK)
    return os.environ.get("VM_TEST_ACCEL") or ("kvm" if is_usable else "tcg")


class Machine:
    """A running machine, as a context manager. `files` are handed in as further disks, as they are (vdb, vdc, …)."""

    def __init__(self, image: Image, log: Path, files: Sequence[Path] = ()) -> None:
        self._image = image
        self._files = files
        self._log = log
        self._last: deque[str] = deque(maxlen=_CONSOLE_LINES)
        self._watcher: Callable[[bytes], object] | None = None

    def __enter__(self) -> "Machine":
        monitor, agent, console = (socket.socketpair() for _ in range(3))
        theirs = [pair[1] for pair in (monitor, agent, console)]
        for nic in NICS:
            _ip("tuntap", "add", "dev", nic.tap, "mode", "tap", *(["multi_queue"] if _queues(nic) > 1 else []))
        self._process = subprocess.Popen(
            self._command([one.fileno() for one in theirs]),
            pass_fds=[one.fileno() for one in theirs],
            stdin=subprocess.DEVNULL,
        )
        for one in theirs:
            one.close()
        self.console = console[0]
        self.agent = JsonLines(agent[0])
        self._monitor = JsonLines(monitor[0])
        self._reader = threading.Thread(target=self._read_console, daemon=True)
        self._reader.start()
        self._monitor.receive(_MONITOR_DEADLINE_S)  # the greeting
        self.monitor("qmp_capabilities")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self.console.close()
        self.agent.close()
        self._monitor.close()

    def monitor(self, command: str, **arguments: Any) -> Any:
        """Give a command to QEMU's monitor; what it returns. AnswerError if it refuses."""
        message = {
            "execute": command,
            "arguments": {name.replace("_", "-"): value for name, value in arguments.items()},
        }
        return self._monitor.ask(message, _MONITOR_DEADLINE_S)

    def set_carrier(self, nic: Nic, *, up: bool) -> None:
        """Take the link of an interface down or up, as a pulled cable does."""
        self._monitor.ask({"execute": "set_link", "arguments": {"name": nic.name, "up": up}}, _MONITOR_DEADLINE_S)

    def unplug(self, nic: Nic, deadline_s: float) -> bool:
        """Unplug an interface; false if the guest has not let go of it in time: its kernel decides when."""
        self.monitor("device_del", id=nic.name)
        return self._wait_for_event("DEVICE_DELETED", ("device", nic.name), deadline_s)

    def wait_for_reset(self, deadline_s: float) -> bool:
        """Wait until the guest has reset the machine; false if it has not in time."""
        return self._wait_for_event("RESET", ("guest", True), deadline_s)

    def _wait_for_event(self, name: str, detail: tuple[str, object], deadline_s: float) -> bool:
        """Wait for an event of the monitor that has this detail, or take one that came before; false if none comes."""
        end = time.monotonic() + deadline_s
        while True:
            for event in self._monitor.events:
                if event["event"] == name and detail in event.get("data", {}).items():
                    self._monitor.events.remove(event)
                    return True
            arrived = self._monitor.receive(max(0.0, end - time.monotonic()))
            if arrived is None:
                return False
            self._monitor.events.append(arrived)

    def plug(self, nic: Nic) -> None:
        """Put an interface that was unplugged in again."""
        self._monitor.ask({"execute": "device_add", "arguments": nic.device}, _MONITOR_DEADLINE_S)

    def tail(self, count: int = 25) -> str:
        """The last lines of the console."""
        return "\n".join(list(self._last)[-count:])

    def watch(self, watcher: Callable[[bytes], object] | None) -> None:
        """Hand what the console says from now on to a function, called in another thread."""
        self._watcher = watcher

    @property
    def has_panicked(self) -> bool:
        return any("Kernel panic" in line for line in self._last)

    @property
    def status(self) -> int | None:
        """The exit status of QEMU, None while it runs."""
        return self._process.poll()

    def _read_console(self) -> None:
        rest = ""
        with open(self._log, "ab", buffering=0) as log:
            while content := self._receive():
                log.write(content)
                if self._watcher:
                    self._watcher(content)
                *lines, rest = (rest + content.decode(errors="replace")).split("\n")
                self._last.extend(line.rstrip("\r") for line in lines)

    def _receive(self) -> bytes:
        try:
            return self.console.recv(65536)
        except OSError:
            return b""

    def _command(self, descriptors: list[int]) -> list[str]:
        monitor, agent, console = descriptors
        image = self._image
        kernel_options = f"console=ttyS0 root=/dev/vda rw fsck.mode=skip {image.options} {_PATIENCE[accelerator()]}"
        command = [
            *["qemu-system-x86_64", "-accel", accelerator(), "-cpu", "max", "-smp", str(CPUS), "-m", f"{MEMORY_MB}M"],
            *["-nodefaults", "-display", "none", "-no-user-config", "-machine", "pc"],
            *["-kernel", str(image.kernel), "-append", kernel_options],
            *(["-initrd", str(image.initrd)] if image.initrd else []),
            *["-drive", f"file={image.disk},format=raw,if=virtio,snapshot=on"],
            *(part for file in self._files for part in ("-drive", f"file={file},format=raw,if=virtio,readonly=on")),
            *["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"],
            *["-chardev", f"socket,id=agent,fd={agent}"],
            *["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"],
            *["-chardev", f"socket,id=console,fd={console}", "-serial", "chardev:console"],
            *["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"],
        ]
        for nic in NICS:
            queues = f",queues={_queues(nic)}" if _queues(nic) > 1 else ""
            command += ["-netdev", f"tap,id={nic.tap},ifname={nic.tap},script=no,downscript=no,vhost=off{queues}"]
            options = ",".join(f"{name}={_written(value)}" for name, value in nic.device.items() if name != "driver")
            command += ["-device", f"{nic.model},{options}"]
        return command


def missing_tools() -> list[str]:
    """What is not installed, as Debian packages."""
    tools = {
        "qemu-system-x86_64": "qemu-system-x86",
        "mmdebstrap": "mmdebstrap",
        "mke2fs": "e2fsprogs",
        "unshare": "util-linux",
        "ip": "iproute2",
        "git": "git",
    }
    if os.geteuid() != 0:
        tools["newuidmap"] = "uidmap"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [package for tool, package in tools.items() if shutil.which(tool, path=path) is None]


def _queues(nic: Nic) -> int:
    return QUEUES if nic.model == "virtio-net-pci" else 1


def _written(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)
