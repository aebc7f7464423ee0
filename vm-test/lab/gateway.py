"""The gateway: a booted machine with its networks, and relays that run in it as users run them."""

import contextlib
import itertools
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from lab.guest import Guest, GuestError
from lab.machine import NICS, Machine, Nic
from lab.progress import say
from lab.roots import Image
from tests.waiting import wait_for

BOOT_S = 60.0
"""Until a system with KVM has surely booted. `slowness` multiplies this, like all deadlines here."""
EVERYWHERE = ("-l", "'*'", "-6", "six@::")
"""Options of a relay with media ports on all addresses of both families; for a shell."""
CONTROL = ("10.3.0.1", 22222)
"""The control socket: on the interface that calls use least."""
SOURCE = "/usr/src/rtpproxy"
USER = "rtpproxy"
UNIT = "rtpproxy-under-test"
_UNIT_FILE = """
[Unit]
After=network-online.target
Wants=network-online.target

[Service]
ExecStart={program}
Restart=on-failure

[Install]
WantedBy=multi-user.target
"""
_ADDRESSES = {"in0": "1", "in1": "2", "in2": "3", "in1.100": "100", "in1.200.100": "200"}
"""Of the guest, by interface: N in 10.N.0.1/24 and fd00:N::1/64, as its files in `guest/files` say."""
_ANSWER_S = 2.0
_cookies = itertools.count(1)


def relay_address(ifname: str, *, ipv6: bool = False) -> str:
    """The guest's address on one of its interfaces."""
    number = _ADDRESSES[ifname]
    return f"fd00:{number}::1" if ipv6 else f"10.{number}.0.1"


class Relay:
    """A relay that runs in the gateway, asked over its UDP control socket."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway

    def ask(self, command: str) -> str:
        """Send a command until it is answered; the answer without its cookie."""
        return wait_for(lambda: self.ask_once(command), self._gateway.deadline_s(20), f"an answer to {command!r}")

    def ask_once(self, command: str) -> str:
        """Send a command once; the answer without its cookie, nothing if none came."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(_ANSWER_S)
            try:
                asker.connect(CONTROL)
                asker.send(f"vm{next(_cookies)} {command}".encode())
                return asker.recv(65535).decode().partition(" ")[2].rstrip("\n")
            except OSError:  # lost, refused, or no way there at the moment
                return ""

    def counters(self) -> dict[str, int]:
        """The numbers of `It`, by what they count."""
        found = re.findall(r"^(.+): (\d+)$", self.ask("It"), re.MULTILINE)
        return {name: int(number) for name, number in found}

    @property
    def log(self) -> str:
        """All lines so far."""
        return self._gateway.guest.shell(f"journalctl --unit {UNIT} --output cat --boot")


class Gateway:
    """One boot of one image, as a context manager.

    The networks outside are the taps `out0` to `out2`: 10.N.0.2/24 and fd00:N::2/64 are this side's own addresses.
    """

    def __init__(self, image: Image, report: Path, tree: Path, slowness: float) -> None:
        self.report = report
        self.slowness = slowness
        self._boots = 1
        # What an emulated machine's userspace relays comes late; here it has to come.
        self._common = f"-s udp:{CONTROL[0]}:{CONTROL[1]} -u {USER} --max-wait 0"
        self._machine = Machine(image, report / "console.log", [tree])

    def deadline_s(self, seconds: float) -> float:
        """So many seconds on a machine with KVM, made longer for this one."""
        return seconds * self.slowness

    def __enter__(self) -> "Gateway":
        with contextlib.ExitStack() as stack:
            self.machine = stack.enter_context(self._machine)
            for nic in NICS:
                network = _ADDRESSES[nic.name]
                _ip("addr", "add", f"10.{network}.0.2/24", "dev", nic.tap)
                _ip("addr", "add", f"fd00:{network}::2/64", "dev", nic.tap, "nodad")
                _ip("link", "set", nic.tap, "up")
            self.guest = Guest(self.machine, self.slowness)
            self.start_up()
            self.guest.shell(f"tar -C {SOURCE} --no-same-owner -xf /dev/vdb && touch {SOURCE}/.venv/*.ok")
            self.kernel = self.guest.shell("uname -r").strip()
            self.kernel_errors_at_boot = self.kernel_errors()
            stack.callback(self.save_journal)
            self._stack = stack.pop_all()
        say(f"Linux {self.kernel} is up")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start_up(self) -> None:
        """Wait until a boot has come to its end and the networks are there."""
        self.guest.wait_until_up(BOOT_S)
        self.guest.shell("systemctl is-system-running --wait", BOOT_S * self.slowness, check=False)
        has_vlans = self.guest.run("modinfo", "8021q", check=False).status == 0
        for ifname in _ADDRESSES:
            if has_vlans or "." not in ifname:
                self.wait_for_addresses(ifname)

    def wait_for_addresses(self, ifname: str) -> None:
        """Wait until an interface is up and has its addresses, duplicate address detection done."""
        network = _ADDRESSES[ifname]

        def are_there() -> bool:
            shown = self.guest.shell(f"ip -o addr show dev {ifname} up", check=False)
            return f"10.{network}.0.1/24" in shown and f"fd00:{network}::1/64" in shown and "tentative" not in shown

        wait_for(are_there, self.deadline_s(30), f"the addresses of {ifname}")

    @contextlib.contextmanager
    def relay(self, *options: str) -> Iterator[Relay]:
        """Run a relay with these options, by `make run`; wait until it serves, and at the end until it is gone."""
        arguments = " ".join([self._common, *options])
        # `make` hands the signal on: the relay must get one, for a second means at once.
        command = ["systemd-run", f"--unit={UNIT}", "--quiet", "--collect", "--property=KillMode=mixed"]
        self.guest.run(*command, "make", "-s", "-C", SOURCE, "run", f"ARGS={arguments}")
        relay = Relay(self)
        try:
            self.wait_until_served(relay)
            yield relay
        finally:
            with contextlib.suppress(GuestError):
                self._keep(f"# {arguments}\n{relay.log}\n")
            self.guest.run("systemctl", "stop", UNIT, check=False)

    def wait_until_served(self, relay: Relay) -> None:
        """Wait until a relay answers; it may have to compile first."""

        def serves() -> bool:
            assert self.guest.run("systemctl", "is-active", UNIT, check=False).status == 0, relay.log
            return relay.ask_once("V") != ""

        wait_for(serves, self.deadline_s(60), "a relay that serves")

    @contextlib.contextmanager
    def installed(self, *options: str) -> Iterator[Relay]:
        """Run a relay by a unit of the service manager, which starts it at each boot."""
        program = f"{SOURCE}/.venv/bin/rtpproxy -f -d INFO {self._common} {' '.join(options)}"
        unit = _UNIT_FILE.format(program=program.replace("'", ""))
        path = f"/etc/systemd/system/{UNIT}.service"
        self.guest.shell(f"cat > {path} <<'END'\n{unit}END\nsystemctl daemon-reload; systemctl enable --now {UNIT}")
        relay = Relay(self)
        try:
            self.wait_until_served(relay)
            yield relay
        finally:
            with contextlib.suppress(GuestError):
                self._keep(f"# {program}\n{relay.log}\n")
            self.guest.shell(f"systemctl disable --now {UNIT}; rm {path}; systemctl daemon-reload", check=False)

    def reboot(self) -> None:
        """Reboot the system, as its own command does."""
        self.save_journal()
        self._boots += 1
        self.guest.reboot(BOOT_S)
        self.start_up()

    def relay_pid(self) -> int:
        """The relay's process."""
        return int(self.guest.shell("cat /run/rtpproxy.pid"))

    def wait_for_carrier(self, nic: Nic, *, up: bool) -> None:
        """Wait until the guest has noticed that a cable was pulled or put back."""

        def is_so() -> bool:
            return self.guest.shell(f"cat /sys/class/net/{nic.name}/carrier").strip() == str(int(up))

        wait_for(is_so, self.deadline_s(20), f"carrier of {nic.name}: {up}")

    def wait_for_frames(self, ifname: str, count: int) -> None:
        """Wait until an interface has received so many frames more."""

        def received() -> int:
            return int(self.guest.shell(f"cat /sys/class/net/{ifname}/statistics/rx_packets"))

        before = received()
        wait_for(lambda: received() >= before + count, self.deadline_s(20), f"{count} frames at {ifname}")

    def kernel_errors(self) -> list[str]:
        """What the kernel reported as errors since it booted."""
        return self.guest.shell("dmesg --level=emerg,alert,crit,err --notime").splitlines()

    def program(self, ifname: str) -> str:
        """Who forwards what arrives by an interface, as the kernel says: `native XDP`, `generic XDP`, `TC` or ``."""
        link = self.guest.shell(f"ip -d link show dev {ifname}", check=False)
        if re.search(r"\bprog/xdpgeneric\b|\bxdpgeneric\b", link):
            return "generic XDP"
        if re.search(r"\bprog/xdp\b", link):
            return "native XDP"
        filters = self.guest.shell(f"tc filter show dev {ifname} ingress", check=False)
        return "TC" if "rtpp_t_" in filters else ""

    def _keep(self, lines: str) -> None:
        with open(self.report / "relay.log", "a") as kept:
            kept.write(lines)

    def save_journal(self) -> None:
        """Keep the kernel's log of all boots."""
        with contextlib.suppress(GuestError):
            (self.report / f"kernel-{self._boots}.log").write_text(
                self.guest.shell("journalctl --dmesg --output short-monotonic")
            )


def _ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)
