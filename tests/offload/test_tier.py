"""What the kernel tier does that no network in a namespace can show; the rest is in tests/netns_call."""

import asyncio
import contextlib

import pytest

from rtpproxy.config import Config, ListenAddress
from rtpproxy.offload.programs import Programs
from rtpproxy.offload.syscall import map_write, possible_cpus
from rtpproxy.offload.tier import KernelTier
from tests.offload.relay_network import Foreground
from tests.running import own_namespace

pytestmark = [pytest.mark.root, pytest.mark.kernel]

ANY = ListenAddress()


def test_lack_of_headroom_is_told_once(caplog):
    """A driver's, which no test can have; the counter stands for it."""
    config = Config(listen=(ANY,), lowest_port=30000, highest_port=30099)
    with (
        own_namespace(),
        contextlib.closing(Programs(config)) as programs,
        contextlib.closing(asyncio.new_event_loop()) as loop,
    ):
        tier = KernelTier(config, programs, lambda: None, loop, Foreground())
        tier.start()
        layout, others = programs._loaded.layouts["verdicts"], possible_cpus() - 1
        key = layout.key.pack_number(0)
        for count in (0, 1, 1, 2):
            counts = layout.value.pack({"up_no_headroom": count}) + others * layout.value.pack({})
            map_write(programs._loaded.map_fds["verdicts"], key, counts)
            tier.tick()
            told = [message for message in caplog.messages if "leaves no room before its frames" in message]
            assert len(told) == min(count, 1)
        tier.close()
