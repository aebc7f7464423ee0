from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.outbound.backlog import Backlog


def filled(*messages: bytes) -> Backlog:
    backlog = Backlog(100, 10_000)
    for message in messages:
        assert backlog.append(message)
    return backlog


def test_messages_wait_in_order_until_they_are_written():
    backlog = filled(b"one", b"two")
    assert (len(backlog), backlog.batch()) == (2, b"onetwo")
    backlog.written(4)
    assert (len(backlog), backlog.batch()) == (1, b"wo")
    backlog.written(2)
    assert (len(backlog), backlog.batch()) == (0, b"")


def test_there_is_room_for_so_many_messages():
    backlog = Backlog(2, 100)
    assert [backlog.append(b"x") for _ in range(3)] == [True, True, False]
    backlog.written(1)
    assert [backlog.append(b"x") for _ in range(2)] == [True, False]


def test_there_is_room_for_so_many_bytes():
    backlog = Backlog(100, 10)
    assert [backlog.append(b"12345") for _ in range(3)] == [True, True, False]
    backlog.written(4)
    assert not backlog.append(b"1")
    backlog.written(1)
    assert backlog.append(b"12345")


def test_minor_messages_leave_room():
    backlog = Backlog(4, 100)
    assert [backlog.append(b"x", is_minor=True) for _ in range(3)] == [True, True, False]
    assert [backlog.append(b"x") for _ in range(3)] == [True, True, False]
    backlog = Backlog(100, 10)
    assert [backlog.append(b"123", is_minor=True) for _ in range(2)] == [True, False]
    assert backlog.append(b"1234567")


def test_batch_is_bounded():
    backlog = Backlog(100, 1 << 30)
    for _ in range(100):
        backlog.append(bytes(10_000))
    assert len(backlog.batch()) == 70_000


def test_what_was_not_acknowledged_is_written_again():
    backlog = filled(b"one", b"two", b"three")
    backlog.written(8)
    assert not backlog.confirm(8)
    assert backlog.confirm(5)
    backlog.take_back()
    assert backlog.batch() == b"twothree"


def test_message_of_which_a_part_was_acknowledged_is_written_again_whole():
    backlog = filled(b"one", b"two")
    backlog.written(6)
    backlog.confirm(1)
    backlog.take_back()
    assert backlog.batch() == b"two"


def test_confirmed_messages_take_no_room():
    backlog = Backlog(1, 100)
    for _ in range(10):
        assert backlog.append(b"x")
        backlog.written(1)
        assert backlog.confirm(0)


def test_clear_tells_what_is_lost():
    backlog = filled(b"one", b"two")
    backlog.written(3)
    assert backlog.clear() == 1
    assert (len(backlog), backlog.clear()) == (0, 0)
    assert backlog.append(b"three")


def test_message_after_a_clear_is_written_whole():
    backlog = filled(b"one", b"two")
    backlog.written(4)
    backlog.clear()
    backlog.append(b"three")
    assert backlog.batch() == b"three"


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=20), st.data())
def test_receivers_get_every_message_whole_and_in_order(messages, data):
    """On connections that break now and then, and acknowledge more and more until they do."""
    backlog = Backlog(100, 10_000)
    for message in messages:
        backlog.append(message)
    whole = b"".join(messages)
    taken, on_connection, acknowledged = b"", b"", 0
    while len(backlog):
        batch = backlog.batch()
        count = data.draw(st.integers(1, len(batch)))
        on_connection += batch[:count]
        backlog.written(count)
        acknowledged = data.draw(st.integers(acknowledged, len(on_connection)))
        backlog.confirm(len(on_connection) - acknowledged)
        if data.draw(st.booleans()):
            backlog.take_back()
            left = backlog.batch()
            assert whole.endswith(left)
            assert len(taken) + acknowledged + len(left) >= len(whole)
            taken, on_connection, acknowledged = whole[: len(whole) - len(left)], b"", 0
    assert taken + on_connection == whole
