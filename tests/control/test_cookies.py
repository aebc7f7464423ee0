"""The memory of replies: how long, and how much of it (protocol.md 1.4)."""

import pytest

from rtpproxy.control.cookies import ENTRY_OVERHEAD_BYTES, ReplyCache


def test_unknown_cookie() -> None:
    assert ReplyCache().find(b"c1", 0.0) is None


def test_lives_35_to_38_seconds() -> None:
    cache = ReplyCache()
    cache.find(b"c1", 100.0)
    cache.store(b"c1", b"E0\n", 100.0)
    assert cache.find(b"c1", 134.9) == b"E0\n"  # a purge that finds nothing old enough
    assert cache.find(b"c1", 137.8) == b"E0\n"  # the next one is not due yet
    assert cache.find(b"c1", 137.9) is None


@pytest.mark.parametrize("step_s", [0.1, 1.0, 2.9, 3.5, 40.0])
def test_lifetime_whatever_the_traffic(step_s: float) -> None:
    cache = ReplyCache()
    cache.store(b"c1", b"0\n", 0.0)
    for tick in range(1, 400):
        now = tick * step_s
        found = cache.find(b"c1", now)
        assert (found is not None) or now >= 35.0
        assert (found is None) or now < 38.0


def test_a_hit_does_not_prolong() -> None:
    cache = ReplyCache()
    cache.store(b"c1", b"0\n", 0.0)
    for now in range(0, 38, 2):
        cache.find(b"c1", float(now))
    assert cache.find(b"c1", 38.0) is None


def test_purge_forgets_only_the_old() -> None:
    cache = ReplyCache()
    cache.store(b"old", b"0\n", 0.0)
    cache.store(b"young", b"1\n", 20.0)
    assert cache.find(b"young", 40.0) == b"1\n"
    assert len(cache) == 1
    assert cache.find(b"young", 60.0) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_storing_again_replaces() -> None:
    cache = ReplyCache()
    cache.store(b"c1", b"0\n", 0.0)
    size_bytes = cache.size_bytes
    cache.store(b"c1", b"1\n", 30.0)
    assert cache.find(b"c1", 60.0) == b"1\n"
    assert cache.size_bytes == size_bytes


def test_beyond_the_limit_the_oldest_go() -> None:
    cache = ReplyCache(limit_bytes=10 * (ENTRY_OVERHEAD_BYTES + 4))
    for number in range(25):
        cache.store(b"%02d" % number, b"0\n", 0.0)
    assert len(cache) == 10
    assert cache.find(b"14", 0.0) is None
    assert cache.find(b"15", 0.0) == b"0\n"
