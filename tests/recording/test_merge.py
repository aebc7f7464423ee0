"""What comes by several ways is put into the order of its times."""

from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.recording.merge import Merge


def test_order_and_time():
    merge = Merge()
    for time_ns, thing in ((5, "e"), (1, "a"), (3, "c")):
        merge.add(time_ns, thing)
    assert list(merge.ripe(0)) == []
    assert list(merge.ripe(3)) == [(1, "a"), (3, "c")]
    assert len(merge) == 1
    merge.add(4, "d")
    assert list(merge.ripe(9)) == [(4, "d"), (5, "e")]


def test_things_of_one_time_keep_their_order():
    merge = Merge()
    for thing in "xyz":
        merge.add(1, thing)
    merge.add(0, "w")
    assert [thing for _, thing in merge.ripe(1)] == ["w", "x", "y", "z"]


def test_what_is_too_late_follows_at_once():
    merge = Merge()
    merge.add(10, "b")
    merge.ripe(10)
    merge.add(5, "a")
    assert list(merge.ripe(10)) == [(5, "a")]


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans())))
def test_nothing_is_lost_and_all_is_in_order_within_the_window(steps):
    merge, now, out, put = Merge(), 0, [], []
    for number, (behind, is_time) in enumerate(steps):
        if is_time:
            now += behind
            out += merge.ripe(now - 50)
        else:
            merge.add(now - behind, number)
            put.append((now - behind, number))
    out += merge.ripe(now)
    assert out == sorted(put)
    assert not merge
