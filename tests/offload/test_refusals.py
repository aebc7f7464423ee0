"""Frames that drivers refused, as the kernel's map counts them; what counts there is in tests/netns_call."""

import pytest

from rtpproxy.offload.refusals import Refusals
from rtpproxy.offload.syscall import map_write

pytestmark = [pytest.mark.root, pytest.mark.kernel, pytest.mark.vm]


def test_count_by_interface(loaded):
    refusals = Refusals(loaded)
    layout = loaded.layouts["refused_frames"]
    assert (refusals.count(7), refusals.count(8)) == (0, 0)
    map_write(loaded.map_fds["refused_frames"], layout.key.pack_number(7), layout.value.pack_number(1 << 40))
    assert (refusals.count(7), refusals.count(8)) == (1 << 40, 0)
    map_write(loaded.map_fds["refused_frames"], layout.key.pack_number(7), layout.value.pack_number(0))


def test_interface_beyond_the_map(loaded):
    assert Refusals(loaded).count(loaded.layouts["refused_frames"].entries) == 0
