"""Names of files (protocol.md 8.2), whatever bytes controllers send."""

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rtpproxy.errors import RecordingError
from rtpproxy.recording import names
from rtpproxy.session.session import Component, Role


def test_names_of_the_c_rtpproxy():
    assert names.automatic(b"call", b"f;1", Role.CALLER) == b"call=f.o"
    assert names.automatic(b"call", b"f", Role.CALLEE) == b"call=f.a"
    assert names.whole_call(b"call", b"f;1") == b"call=f"
    assert names.of_component(b"call=f.o", Component.RTP) == b"call=f.o.rtp"
    assert names.of_component(b"call=f.o", Component.RTCP) == b"call=f.o.rtcp"


def test_the_media_number_is_what_follows_the_last_semicolon():
    assert names.without_media_number(b"f;x;1") == b"f;x"
    assert names.without_media_number(b"f") == b"f"
    assert names.automatic(b"call", b"f;x;1", Role.CALLER, with_media_number=True) == b"call=f;x;1.o"
    assert names.whole_call(b"call", b"f;2", with_media_number=True) == b"call=f;2"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (b"", "empty"),
        (b"a/b", "slash"),
        (b"/etc/passwd", "slash"),
        (b"../x", "slash"),
        (b"..", "dot"),
        (b".", "dot"),
        (b".hidden", "dot"),
        (b"a\0b", "slash"),
        (b"x" * 256, "256 bytes"),
    ],
)
def test_bad_names(name, what):
    with pytest.raises(RecordingError, match=what):
        names.check(name)


@pytest.mark.parametrize("name", [b"a=f.o.rtp", b"x" * 255, b"\xff\x80 \x01\\", b"a..b", b"~", b"-rf"])
def test_good_names(name):
    names.check(name)


@given(call_id=st.binary(max_size=300), tag=st.binary(max_size=300), role=st.sampled_from(Role))
@example(call_id=b"..", tag=b"/..", role=Role.CALLER)
def test_no_name_leads_out_of_the_directory(call_id, tag, role):
    name = names.of_component(names.automatic(call_id, tag, role), Component.RTP)
    try:
        names.check(name)
    except RecordingError:
        return
    path = os.path.normpath(os.path.join(b"/directory", name))
    assert os.path.dirname(path) == b"/directory"
    assert os.path.basename(path) == name
    assert not name.startswith(b".")


def test_a_number_is_added_to_a_name_of_any_length():
    assert names.numbered(b"x.rtp", 7) == b"x.rtp.7"
    assert names.numbered(b"n" * 255, 12) == b"n" * 252 + b".12"
