import pytest
from generator.signalling import Dialog, Place, RefusedError, family_modifiers, read_kernel_streams, read_port_line

DIALOG = Dialog("c1", "f", "t")
V4, V6 = Place("10.0.1.10", 40000), Place("fd00::10", 40000)


def test_commands_are_those_of_kamailio():
    assert DIALOG.offer(V4, "") == "U c1 10.0.1.10 40000 f;1"
    assert DIALOG.offer(V4, "", is_again=True) == "U c1 10.0.1.10 40000 f;1 t;1"
    assert DIALOG.answer(V6, "6") == "L6 c1 fd00::10 40000 f;1 t;1"
    assert DIALOG.end() == "D c1 f t"


def test_modifiers_tell_the_families():
    assert family_modifiers(V4, V4) == ""
    assert family_modifiers(V6, V6) == "6"
    assert family_modifiers(V4, V6) == "r[fd00::10]"
    assert family_modifiers(V6, V4) == "6r10.0.1.10"
    assert family_modifiers(V6, V4, "ei") == "6ei"
    assert family_modifiers(V4, V6, "") == ""


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        ("35000", Place("", 35000)),
        ("35000 10.0.1.1", Place("10.0.1.1", 35000)),
        ("35000 fd00::1 6", Place("fd00::1", 35000)),
    ],
)
def test_port_lines(reply, place):
    assert read_port_line("U", reply) == place


@pytest.mark.parametrize("reply", ["0", "E72", "", "35000 a b c"])
def test_other_answers(reply):
    with pytest.raises(RefusedError, match="'U c1' was answered"):
        read_port_line("U c1", reply)


def test_streams_of_the_kernel():
    answer = "active sessions: 3\nstreams by XDP: 4\nstreams by TC: 2\nstreams by userspace: 6\nframes forwarded: 9"
    assert read_kernel_streams(answer) == 6
    assert read_kernel_streams("active sessions: 3\nstreams by userspace: 6") == 0
    assert read_kernel_streams("E18") is None
