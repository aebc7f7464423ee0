"""What is written of known sources, byte by byte."""

import pytest

from rtpproxy.offload.maps import CalledMap
from rtpproxy.session.latch import KnownSource

pytestmark = [pytest.mark.root, pytest.mark.kernel]

PORT = 19000


def written(loaded, tables):
    called = CalledMap(loaded.map_fds["port_sources"], loaded.layouts["port_sources"])
    return called.layout.value.unpack(called.read(tables.sources.row(PORT)))


@pytest.mark.vm
@pytest.mark.parametrize(
    ("host", "packed"),
    [
        ("192.0.2.1", bytes(10) + b"\xff\xff\xc0\0\2\1"),
        ("2001:db8::1", b"\x20\1\x0d\xb8" + bytes(11) + b"\1"),
        ("fe80::1%3", b"\xfe\x80" + bytes(13) + b"\1"),
    ],
)
def test_a_source(loaded, tables, host, packed):
    tables.sources.expect(PORT, KnownSource(host, 0x1234, True, 0xCAFEF00D), 500)
    told = {"host": packed, "port": 0x3412, "ssrc": 0xCAFEF00D, "most": 500, "is_known": 1, "is_locked": 1}
    others = {"other_hosts": bytes(32), "other_ports": bytes(4), "is_contested": 0}
    assert written(loaded, tables) == {**told, **others, "reserved": 0}


def test_others_who_may_take_the_stream(loaded, tables):
    others = (("192.0.2.7", 0x1234), ("2001:db8::7", 5))
    tables.sources.expect(PORT, KnownSource("192.0.2.1", 4000, True, 7, others), 500)
    told = written(loaded, tables)
    assert told["other_hosts"] == bytes(10) + b"\xff\xff\xc0\0\2\7" + b"\x20\1\x0d\xb8" + bytes(11) + b"\7"
    assert told["other_ports"] == b"\x12\x34\0\5"
    tables.sources.expect(PORT, KnownSource("", 0, True, None, others[:1], is_contested=True), 500)
    told = written(loaded, tables)
    assert told["other_hosts"] == bytes(10) + b"\xff\xff\xc0\0\2\7" + bytes(16)
    assert told["other_ports"] == b"\x12\x34\0\0"
    assert (told["host"], told["port"], told["is_known"], told["is_contested"]) == (bytes(16), 0, 1, 1)


def test_any_port_and_no_memory(loaded, tables):
    tables.sources.expect(PORT, KnownSource("192.0.2.1", 0, False, None), 5000)
    told = written(loaded, tables)
    assert (told["port"], told["ssrc"], told["most"], told["is_locked"]) == (0, 0, 5000, 0)


def test_nobody(loaded, tables):
    tables.sources.expect(PORT, KnownSource("192.0.2.1", 5, True, 1), 5)
    tables.sources.expect(PORT, None, 5)
    assert set(written(loaded, tables).values()) == {0, bytes(16), bytes(32), bytes(4)}
