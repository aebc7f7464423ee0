"""The loaded XDP program with rows that a test owns: install an entry, run a frame, look at the outcome."""

import itertools
import mmap
import struct
import time
from typing import NamedTuple

from rtpproxy.offload.entry import ForwardingEntry, Ingress, NextHop
from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.maps import CalledMap
from rtpproxy.offload.tables import Tables
from tests.bpf.frames import (
    CALLEE,
    CALLEE6,
    CALLER,
    CALLER6,
    HOP,
    RELAY_IN,
    RELAY_IN6,
    RELAY_OUT,
    RELAY_OUT6,
)
from tests.bpf.prog_run import TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC, XDP_DROP, XDP_PASS, XDP_REDIRECT, run
from tests.conftest import RELAY_MAC, TOS, TTL

INGRESS = Ingress(1, RELAY_MAC)
"""Where frames come in when a program is run on them."""
_CALLED = ("port_budgets", "host_budgets", "learning_budgets")
"""Maps that cannot be mapped."""
_CLOCK_MONOTONIC_COARSE = 6
_ports = itertools.count(20000)
_hops = itertools.count(1)


WINDOW_SHIFT = 20
"""`window_since` counts units of 2^20 ns (bpf/types.h)."""
OVER_A_SECOND = 2_000_000_000 >> WINDOW_SHIFT
"""In the same units."""
AS_XDP = {TC_ACT_REDIRECT: XDP_REDIRECT, TC_ACT_SHOT: XDP_DROP, TC_ACT_UNSPEC: XDP_PASS}
"""Answers of TC, in XDP's words."""


class Outcome(NamedTuple):
    """The program's answer (in XDP's words), the frame as it left it, and the verdict counters that moved."""

    action: int
    frame: bytes
    counted: dict[str, int]


class DataPlane:
    """Gives out ports and next hops that no test used before, so that their counters start at 0."""

    def __init__(self, loaded: Loaded, tables: Tables, hook: str = "xdp") -> None:
        """`hook` is where frames arrive: `xdp`, `tc` or `tc_behind_xdp`."""
        self._loaded = loaded
        self.hook = hook
        self.ingress = INGRESS
        """Of entries that are installed from now on."""
        self.tables = tables
        self._open: list[int] = []
        self._memories: dict[str, mmap.mmap] = {}

    def __enter__(self) -> "DataPlane":
        return self

    def __exit__(self, *_: object) -> None:
        for port in self._open:
            self.tables.ports.withdraw(port)
            self.tables.ports.close_port(port)
        for memory in self._memories.values():
            memory.close()

    def open_port(self) -> int:
        """A port that belongs to a stream, without an entry."""
        port = next(_ports)
        self.tables.ports.open_port(port)
        self._open.append(port)
        return port

    def next_hop(self, hop: NextHop | None = HOP) -> int:
        """The number of a new next hop; where the table is small, one whose users are gone."""
        number = next(_hops) % self.tables.next_hops.capacity
        self.tables.next_hops.write(number, hop)
        return number

    def install(self, hop: NextHop | None = HOP, **changes: object) -> ForwardingEntry:
        """An installed entry from the caller to the callee, on a new port, leaving by a next hop of its own."""
        return self.install_by(self.next_hop(hop), **changes)

    def install_by(self, number: int, **changes: object) -> ForwardingEntry:
        """The same, leaving by next hop `number`."""
        fields = {
            "port": changes.get("port") or self.open_port(),
            "local_host": RELAY_IN,
            "source": CALLER,
            "is_any_source_port": False,
            "is_rtp": True,
            "from_host": RELAY_OUT,
            "from_port": 31000,
            "to": CALLEE,
            "tos": TOS,
        }
        entry = ForwardingEntry(**{**fields, **changes})
        self.tables.ports.install(entry, entry.from_host, number, TTL, self.ingress)
        return entry

    def install_between(
        self, is_ipv6: bool, is_to_ipv6: bool, hop: NextHop | None = HOP, **changes: object
    ) -> ForwardingEntry:
        """As `install`, for any pair of families."""
        source, local = (CALLER6, RELAY_IN6) if is_ipv6 else (CALLER, RELAY_IN)
        to, start = (CALLEE6, RELAY_OUT6) if is_to_ipv6 else (CALLEE, RELAY_OUT)
        return self.install(hop, **{"source": source, "local_host": local, "to": to, "from_host": start, **changes})

    @property
    def program_fd(self) -> int:
        """The program at the hook."""
        return int(getattr(self._loaded, f"{self.hook}_fd"))

    def run(self, frame: bytes, metadata_bytes: int = 0) -> Outcome:
        """Run the program on a frame."""
        before = self.tables.counts.verdicts()
        result = run(self.program_fd, frame, metadata_bytes=metadata_bytes)
        after = self.tables.counts.verdicts()
        moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        verdict = result.verdict if self.hook == "xdp" else AS_XDP[result.verdict]
        return Outcome(verdict, result.frame, moved)

    def run_often(self, frame: bytes, times: int) -> dict[str, int]:
        """Run the program so many times on a frame that it does not change. Returns the counters that moved."""
        before = self.tables.counts.verdicts()
        run(getattr(self._loaded, f"{self.hook}_fd"), frame, repeat=times)
        after = self.tables.counts.verdicts()
        return {name: after[name] - before[name] for name in after if after[name] != before[name]}

    def run_this_second(self, port: int, frame: bytes) -> Outcome:
        """Run the program on a frame that counts in the same second as those before it, however long they took."""
        self._begin_second(port, 0)
        return self.run(frame)

    def end_second(self, port: int) -> None:
        """Let the second be over that packets of a port were counted in."""
        self._begin_second(port, OVER_A_SECOND)

    def use_up(self, kind: int, most: int, port: int | None = None) -> None:
        """Count so many packets of a kind this second, at one port or, without one, for the whole host."""
        map_name, form = ("host_budgets", "=9I") if port is None else ("port_budgets", "=9H")
        index = 0 if port is None else port
        used = [0] * 9
        used[kind] = most
        self.poke(map_name, index, "used", struct.pack(form, *used))
        self.poke(map_name, index, "since", _now())

    def use_up_source(self, frame: bytes, most: int) -> None:
        """Run the program on a frame of a source that nobody expects, and count so many of this source this second."""
        buckets = range(self._loaded.layouts["learning_budgets"].entries)
        for bucket in buckets:
            self.poke("learning_budgets", bucket, "used", 0)
        self.run(frame)
        (used,) = [bucket for bucket in buckets if self.peek("learning_budgets", bucket, "used")]
        self.poke("learning_budgets", used, "used", most)
        self.poke("learning_budgets", used, "since", _now())

    def _begin_second(self, port: int, units_ago: int) -> None:
        since = (_now() - units_ago) % 2**32
        self.poke("port_events", port, "window_since", since)
        self.poke("port_budgets", port, "since", since)
        self.poke("host_budgets", 0, "since", since)

    def peek(self, map_name: str, index: int, member: str) -> int | bytes:
        """One number in a map, or one array as bytes; `index` is a key where the map is by port."""
        return self._access(map_name, index, member, None)

    def poke(self, map_name: str, index: int, member: str, value: int | bytes) -> None:
        """Write one member into a map past its writer."""
        self._access(map_name, index, member, value)

    def contents(self, map_name: str) -> bytes:
        """All of a map that can be mapped."""
        return self._memory(map_name)[:]

    def _access(self, map_name: str, index: int, member: str, value: int | bytes | None) -> int | bytes:
        layout = self._loaded.layouts[map_name].value
        if map_name.startswith("port_"):
            index = self.tables.ports.row(index)
        if map_name in _CALLED:
            called = CalledMap(self._loaded.map_fds[map_name], self._loaded.layouts[map_name])
            data = bytearray(called.read(index))
            if value is not None:
                layout.packer(member).pack_into(data, layout.offset(member), value)
                called.write(index, bytes(data))
            return layout.packer(member).unpack_from(data, layout.offset(member))[0]
        position = index * layout.size + layout.offset(member)
        memory = self._memory(map_name)
        if value is not None:
            layout.packer(member).pack_into(memory, position, value)
        return layout.packer(member).unpack_from(memory, position)[0]

    def _memory(self, map_name: str) -> mmap.mmap:
        memory = self._memories.get(map_name)
        if memory is None:
            layout = self._loaded.layouts[map_name]
            memory = mmap.mmap(self._loaded.map_fds[map_name], layout.value.size * layout.entries)
            self._memories[map_name] = memory
        return memory


def _now() -> int:
    """The time as the programs' coarse clock has it."""
    return (time.clock_gettime_ns(_CLOCK_MONOTONIC_COARSE) >> WINDOW_SHIFT) % 2**32
