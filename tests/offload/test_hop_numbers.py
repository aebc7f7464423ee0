"""Numbers of next hop rows: none is given out while a route uses it, or the row of a port may name it."""

from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.offload.hop_numbers import HopNumbers


def test_all_numbers_once():
    numbers = HopNumbers(3)
    assert [numbers.take() for _ in range(4)] == [0, 1, 2, None]
    numbers.give_back(1)
    assert [numbers.take(), numbers.take()] == [1, None]


def test_a_number_that_a_row_names_is_not_free():
    numbers = HopNumbers(1)
    numbers.start_naming(5000, numbers.take())
    numbers.named(5000, 0)
    numbers.give_back(0)
    assert (numbers.take(), numbers.is_named_by(5000)) == (None, True)
    numbers.unnamed(5000)
    assert (numbers.take(), numbers.is_named_by(5000)) == (0, False)


def test_a_row_that_changes_names_the_old_number_until_it_is_written():
    numbers = HopNumbers(2)
    for _ in range(2):
        numbers.take()
    numbers.start_naming(5000, 0)
    numbers.named(5000, 0)
    numbers.start_naming(5000, 1)
    numbers.give_back(0)
    assert numbers.take() is None
    numbers.named(5000, 1)
    assert numbers.take() == 0


def test_after_a_write_that_failed_the_row_may_name_either():
    numbers = HopNumbers(3)
    for number in (0, 1):
        numbers.start_naming(5000, numbers.take())
        numbers.give_back(number)
    assert [numbers.take(), numbers.take()] == [2, None]
    numbers.unnamed(5000)
    assert sorted([numbers.take(), numbers.take()]) == [0, 1]


def test_a_number_that_several_rows_name():
    numbers = HopNumbers(1)
    numbers.take()
    for key in (1, 2):
        numbers.start_naming(key, 0)
        numbers.named(key, 0)
    numbers.give_back(0)
    numbers.unnamed(1)
    assert numbers.take() is None
    numbers.unnamed(2)
    assert numbers.take() == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "give back", "start", "write", "withdraw"]), st.integers(0, 3), st.integers(0, 4)
    )
)


@given(STEPS)
def test_whatever_comes_between(steps):
    """A model: what each row names, and which numbers routes use."""
    numbers, used, rows, capacity = HopNumbers(5), set(), {}, 5
    for step, key, number in steps:
        match step:
            case "take":
                taken = numbers.take()
                busy = used.union(*rows.values())
                assert (taken is None) == (len(busy) == capacity)
                if taken is not None:
                    assert taken not in busy
                    used.add(taken)
            case "give back" if number in used:
                used.remove(number)
                numbers.give_back(number)
            case "start" if number in used:
                rows.setdefault(key, set()).add(number)
                numbers.start_naming(key, number)
            case "write" if number in rows.get(key, ()):
                rows[key] = {number}
                numbers.named(key, number)
            case "withdraw":
                rows.pop(key, None)
                numbers.unnamed(key)
