"""Where a process runs, as notes tell it."""

import pytest

from rtpproxy.notes.contents import head_line, parse
from rtpproxy.notes.place import here
from tests.running import own_namespace


def test_it_is_the_same_each_time():
    assert here() == here()


def test_a_note_can_hold_it():
    contents = parse(head_line(1, here()) + "\n")
    assert contents is not None
    assert contents.place == here()


@pytest.mark.root
def test_network_namespaces_differ():
    before = here()
    with own_namespace():
        there = here()
    assert there.boot == before.boot
    assert there.namespace != before.namespace
