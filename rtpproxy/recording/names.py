"""Names of recordings (protocol.md 8.2), and the rule that none of them leads out of the directory.

The law of this file: a name is bytes as a controller gave them, and becomes the name of a file only if `check` has
nothing to say against it. So whatever is in call-id, tags and targets, a recording is a file of that very name, in the
directory itself, and not hidden.
"""

from rtpproxy.errors import RecordingError
from rtpproxy.session.session import Component, Role

MOST_BYTES = 255
"""Longest name of a file that Linux takes (NAME_MAX)."""
_SIDES = {Role.CALLER: b"o", Role.CALLEE: b"a"}
"""The caller *originates* the call and the callee *answers* it."""
_SUFFIXES = {Component.RTP: b".rtp", Component.RTCP: b".rtcp"}


def automatic(call_id: bytes, from_tag: bytes, role: Role, *, with_media_number: bool = False) -> bytes:
    """Return the stem of the files of one side: `CALLID=TAG.o` for what the caller sends, `CALLID=TAG.a` else.

    TAG is the from-tag of the session, without its media number unless asked for.
    """
    return b"%s.%s" % (whole_call(call_id, from_tag, with_media_number=with_media_number), _SIDES[role])


def whole_call(call_id: bytes, from_tag: bytes, *, with_media_number: bool = False) -> bytes:
    """Return the stem of a file that holds both sides: `CALLID=TAG`."""
    tag = from_tag if with_media_number else without_media_number(from_tag)
    return b"%s=%s" % (call_id, tag)


def without_media_number(tag: bytes) -> bytes:
    """Return a tag up to its last semicolon."""
    before, semicolon, _ = tag.rpartition(b";")
    return before if semicolon else tag


def of_component(stem: bytes, component: Component) -> bytes:
    """Return the name of the file of one component: `STEM.rtp` or `STEM.rtcp`."""
    return stem + _SUFFIXES[component]


def numbered(name: bytes, number: int) -> bytes:
    """Return a name for a file that cannot have its own for now: that name, cut if need be, a dot and the number."""
    suffix = b".%d" % number
    return name[: MOST_BYTES - len(suffix)] + suffix


def check(name: bytes) -> None:
    """Raise RecordingError for a name that would lead out of the directory, be hidden, or be none."""
    if not name:
        raise RecordingError("the name of the recording is empty")
    if b"/" in name or b"\0" in name:
        raise RecordingError(f"a slash in the name of the recording {_written(name)}: it would be another directory's")
    if name.startswith(b"."):
        raise RecordingError(f"the name of the recording {_written(name)} begins with a dot: it would be hidden")
    if len(name) > MOST_BYTES:
        raise RecordingError(f"the name of the recording has {len(name)} bytes: files have {MOST_BYTES} at most")


def _written(name: bytes) -> str:
    return repr(name)[2:-1]
