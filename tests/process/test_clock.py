"""How far the monotonic clock is from the kernel's; netns_call/test_time_namespace has calls in a time namespace."""

import pytest

from rtpproxy.errors import StartError
from rtpproxy.process.clock import monotonic_offset_ns


@pytest.fixture
def process(tmp_path):
    """Makes a directory that stands for /proc/self of a process in a time namespace."""

    def make(offsets, *, children="time:[4026531834]"):
        (tmp_path / "timens_offsets").write_text(offsets)
        (tmp_path / "ns").mkdir()
        (tmp_path / "ns/time").symlink_to("time:[4026531834]")
        (tmp_path / "ns/time_for_children").symlink_to(children)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ("monotonic           0         0\nboottime            0         0\n", 0),
        ("monotonic  1000000000         0\nboottime            7         0\n", 1_000_000_000 * 10**9),
        ("monotonic         -90 500000000\nboottime            0         0\n", -89_500_000_000),
        ("boottime            5         0\nmonotonic           0         1\n", 1),
    ],
)
def test_offset(process, offsets, expected):
    assert monotonic_offset_ns(process(offsets)) == expected


def test_kernel_without_time_namespaces(tmp_path):
    assert monotonic_offset_ns(tmp_path) == 0


def test_process_between_two_namespaces(process):
    with pytest.raises(StartError, match=r"^this process is in another time namespace .* \(unshare --fork\)$"):
        monotonic_offset_ns(process("monotonic 5 0\nboottime 0 0\n", children="time:[4026532450]"))


def test_offset_of_the_process_that_tests():
    assert monotonic_offset_ns() == 0
