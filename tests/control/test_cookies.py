"""The cache of replies: how long each is kept, and how many (protocol.md 1.4)."""

import tracemalloc
from ipaddress import IPv4Address

import pytest

from rtpproxy.control.cookies import ENTRY_OVERHEAD_BYTES, ReplyCache

SENDER = ("192.0.2.7", 4000)


def test_unknown_cookie() -> None:
    assert ReplyCache().find(SENDER, b"c1", 0.0) is None


def test_lives_35_to_38_seconds() -> None:
    cache = ReplyCache()
    cache.find(SENDER, b"c1", 100.0)
    cache.store(SENDER, b"c1", b"E0\n", 100.0)
    assert cache.find(SENDER, b"c1", 134.9) == b"E0\n"  # a purge that finds nothing old enough
    assert cache.find(SENDER, b"c1", 137.8) == b"E0\n"  # the next one is not due yet
    assert cache.find(SENDER, b"c1", 137.9) is None


@pytest.mark.parametrize("step_s", [0.1, 1.0, 2.9, 3.5, 40.0])
def test_lifetime_whatever_the_traffic(step_s: float) -> None:
    cache = ReplyCache()
    cache.store(SENDER, b"c1", b"0\n", 0.0)
    for tick in range(1, 400):
        now = tick * step_s
        found = cache.find(SENDER, b"c1", now)
        assert (found is not None) or now >= 35.0
        assert (found is None) or now < 38.0


def test_a_hit_does_not_prolong() -> None:
    cache = ReplyCache()
    cache.store(SENDER, b"c1", b"0\n", 0.0)
    for now in range(0, 38, 2):
        cache.find(SENDER, b"c1", float(now))
    assert cache.find(SENDER, b"c1", 38.0) is None


def test_senders_have_cookies_of_their_own():
    cache = ReplyCache()
    cache.store(SENDER, b"c1", b"0\n", 0.0)
    others = [("192.0.2.7", 4001), ("192.0.2.8", 4000), ("fe80::1", 4000, 0, 2), ("fe80::1", 4000, 0, 3)]
    for number, other in enumerate(others):
        assert cache.find(other, b"c1", 0.0) is None
        cache.store(other, b"c1", b"%d\n" % number, 0.0)
    assert cache.find(SENDER, b"c1", 0.0) == b"0\n"
    assert [cache.find(other, b"c1", 0.0) for other in others] == [b"0\n", b"1\n", b"2\n", b"3\n"]


def test_memory_is_not_underestimated():
    """Senders and cookies as the socket makes them, none shared with another entry."""
    cache = ReplyCache()
    tracemalloc.start()
    try:
        for number in range(5000):
            sender = str(IPv4Address(0xC0000200 + number)), 40000 + number
            cache.store(sender, b"%032d" % number, b"%d 192.0.2.7\n" % (30000 + number), float(number))
        used_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cache.size_bytes / 1.6 < used_bytes < cache.size_bytes


def test_purge_forgets_only_the_old() -> None:
    cache = ReplyCache()
    cache.store(SENDER, b"old", b"0\n", 0.0)
    cache.store(SENDER, b"young", b"1\n", 20.0)
    assert cache.find(SENDER, b"young", 40.0) == b"1\n"
    assert len(cache) == 1
    assert cache.find(SENDER, b"young", 60.0) is None
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_storing_again_replaces() -> None:
    cache = ReplyCache()
    cache.store(SENDER, b"c1", b"0\n", 0.0)
    size_bytes = cache.size_bytes
    cache.store(SENDER, b"c1", b"1\n", 30.0)
    assert cache.find(SENDER, b"c1", 60.0) == b"1\n"
    assert cache.size_bytes == size_bytes


def test_beyond_the_limit_the_oldest_go() -> None:
    cache = ReplyCache(limit_bytes=10 * (ENTRY_OVERHEAD_BYTES + 4))
    for number in range(25):
        cache.store(SENDER, b"%02d" % number, b"0\n", 0.0)
    assert len(cache) == 10
    assert cache.find(SENDER, b"14", 0.0) is None
    assert cache.find(SENDER, b"15", 0.0) == b"0\n"
