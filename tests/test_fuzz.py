"""What `make fuzz` says of a failure is what to add to the tests."""

from tests.fuzz import lines_to_add

ARGUMENTS = """
    def test_sum(self, n, data, rest):
>       assert n < 5
E       assert 5 < 5
E       Failing test case: test_sum(
E           self=<tests.test_x.TestSum object at 0x7fee79db6290>,
E           n=5,
E           data=b'# no comment',
E           rest=[],  # or any other generated value
E       )
E       You can reproduce this test case by temporarily adding @reproduce_failure('6.170.17', b'AXic') as a decorator
"""
STEPS = """
E       assert 7 < 7
E       Failing test case: <state machine>
E       state = Machine()
E       state.add(number=2)
E       state.teardown()
"""


def test_example_of_a_test_with_arguments():
    assert lines_to_add(ARGUMENTS) == ["@example(n=5, data=b'# no comment', rest=[])"]


def test_steps_of_a_state_machine():
    (text,) = lines_to_add(STEPS)
    assert [line.strip() for line in text.splitlines()] == [
        *("as a test of its own:", "state = Machine()", "state.add(number=2)", "state.teardown()"),
    ]


def test_input_of_a_test_with_very_many():
    line = "xdp, became 2: 00: input 7 with SEED=1 FUZZ_INPUTS=10: bytes.fromhex('00')"
    assert lines_to_add(f">   raise AssertionError(failure(...))\nE   AssertionError: {line}\n") == [
        f"AssertionError: {line}"
    ]


def test_other_failures_have_no_line():
    assert lines_to_add("E       assert 1 == 2") == []
