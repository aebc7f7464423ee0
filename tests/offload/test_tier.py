"""What a relay does where programs load and something after that fails. The rest: tests/netns_call and tests/bpf."""

import asyncio
import contextlib
import gc
import os
import struct

import pytest

from rtpproxy.config import Config, ListenAddress
from rtpproxy.errors import OffloadError
from rtpproxy.offload.syscall import map_write, possible_cpus
from rtpproxy.offload.tier import KernelTier, Programs
from tests.running import own_namespace

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ANY, ONE = ListenAddress(), ListenAddress("10.0.0.1")


def refuse(reason, listen):
    """Loading fails for that reason, and nothing stays open or mapped."""

    def held():
        gc.collect()
        with open("/proc/self/maps") as maps:
            return os.listdir("/proc/self/fd"), sum("bpf-map" in line for line in maps)

    before = held()
    with pytest.raises(OffloadError, match=f"^{reason}$"):
        Programs(Config(listen=(listen,), lowest_port=30000, highest_port=30099))
    assert held() == before


def test_nothing_is_left_when_memory_is_short(monkeypatch):
    def map_nothing(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("rtpproxy.offload.tables.mmap.mmap", map_nothing)
    refuse("cannot map the tables: Cannot allocate memory", ANY)


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_machines_with_another_order_of_stores_are_refused(monkeypatch, machine):
    """Rows are written with plain stores; and nothing is left when an address cannot be written."""
    other = os.uname_result((*os.uname()[:4], machine))
    monkeypatch.setattr(os, "uname", lambda: other)
    refuse(f"only x86-64 is supported, and this machine is {machine}", ONE)


def test_lack_of_headroom_is_told_once(caplog):
    """A driver's, which no test can have; the counter stands for it."""
    config = Config(listen=(ANY,), lowest_port=30000, highest_port=30099)
    with (
        own_namespace(),
        contextlib.closing(Programs(config)) as programs,
        contextlib.closing(asyncio.new_event_loop()) as loop,
    ):
        tier = KernelTier(config, programs, lambda: None)
        tier.start(loop)
        layout = programs._loaded.layouts["verdicts"]
        counts = bytearray(layout.size * possible_cpus())
        for count in (0, 1, 1, 2):
            struct.pack_into("=Q", counts, layout.members["up_no_headroom"][1], count)
            map_write(programs._loaded.map_fds["verdicts"], bytes(4), bytes(counts))
            tier.tick()
            told = [message for message in caplog.messages if "leaves no room before its frames" in message]
            assert len(told) == min(count, 1)
        tier.close()
