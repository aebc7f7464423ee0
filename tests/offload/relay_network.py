"""The parts of the kernel tier that follow the network, at work in a namespace; next hop rows are a dictionary."""

from collections.abc import Callable

from rtpproxy.offload.attach import Interfaces
from rtpproxy.offload.entry import NextHop
from rtpproxy.offload.netlink import Events, Rtnetlink
from rtpproxy.offload.nexthop import NextHops
from tests.netns import Host
from tests.waiting import wait_for

CAPACITY = 8
_DEADLINE_S = 5.0


class RelayNetwork:
    """Everything is made in the namespace; sockets stay there, so that any thread may go on."""

    def __init__(self, host: Host, program_fd: int, program: str) -> None:
        self.host = host
        self.rows: dict[int, NextHop | None] = {}
        self.written: list[tuple[int, NextHop | None]] = []
        host.call(self._build, program_fd, program)

    def _build(self, program_fd: int, program: str) -> None:
        self.netlink, self.events = Rtnetlink(), Events()
        self.interfaces = Interfaces(self.netlink, program_fd, program)
        self.next_hops = NextHops(self.netlink, self.interfaces, self._write, CAPACITY)

    def _write(self, number: int, hop: NextHop | None) -> None:
        self.rows[number] = hop
        self.written.append((number, hop))

    def ip(self, *commands: str) -> None:
        """Run iproute2 commands in the namespace."""
        for command in commands:
            self.host.run(["ip", *command.split()])

    def take_events(self) -> list[str]:
        """Hand waiting events to the parts that want them, as `kernel.KernelTier` does; their names."""
        messages = self.events.read()
        assert messages is not None
        for message in messages:
            if message["event"] in ("RTM_NEWNEIGH", "RTM_DELNEIGH"):
                self.next_hops.on_neighbour(message)
            elif message["event"] in ("RTM_NEWLINK", "RTM_DELLINK"):
                index = self.interfaces.on_event(message)
                if index is not None:
                    self.next_hops.on_link(index)
        return [message["event"] for message in messages]

    def follow(self, condition: Callable[[], bool], what: str) -> None:
        """Take events until `condition` holds."""
        wait_for(lambda: self.take_events() is not None and condition(), _DEADLINE_S, what)

    def reroute(self) -> list[tuple[str, str]]:
        """Ask for all routes again; the peers whose route is another."""
        self.take_events()
        self.next_hops.start_reroute()
        return self.next_hops.reroute(CAPACITY)

    def xdp_programs(self) -> dict[str, str]:
        """Interface to what `ip` says of the XDP program on it."""
        lines = self.host.run(["ip", "-d", "-o", "link"]).stdout.splitlines()
        named = ((line.split(":")[1].strip().partition("@")[0], line) for line in lines)
        return {name: line.partition("prog/xdp ")[2].partition(" \\")[0] for name, line in named if "prog/xdp" in line}

    def close(self) -> None:
        """Detach, and close all sockets."""
        self.interfaces.detach_all()
        self.interfaces.close()
        self.events.close()
        self.netlink.close()
