"""Table of all sessions, and the rules by which commands find them by call-id and tags (protocol.md 4.2)."""

from collections.abc import Iterator

from rtpproxy.session.session import Session


class SessionTable:
    """Sessions by call-id. Most calls have one, which is held without a list around it."""

    __slots__ = ("_by_call_id", "_sessions")

    def __init__(self) -> None:
        self._by_call_id: dict[bytes, Session | list[Session]] = {}
        self._sessions: dict[Session, None] = {}

    def __contains__(self, session: Session) -> bool:
        """Answer `session in table`."""
        return session in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate in the order of creation; sessions may be removed meanwhile."""
        return iter(tuple(self._sessions))

    def add(self, session: Session) -> None:
        """Add a session, as the latest of its call-id."""
        self._sessions[session] = None
        found = self._by_call_id.setdefault(session.call_id, session)
        if isinstance(found, list):
            found.append(session)
        elif found is not session:
            self._by_call_id[session.call_id] = [found, session]

    def remove(self, session: Session) -> None:
        """Remove a session. Raises KeyError for one that is not in the table."""
        del self._sessions[session]
        found = self._by_call_id[session.call_id]
        if isinstance(found, list):
            found.remove(session)
        if found is session or not found:
            del self._by_call_id[session.call_id]

    def find(self, call_id: bytes, from_tag: bytes, to_tag: bytes | None) -> tuple[Session, bool] | None:
        """Find the first session that the tags match exactly; the flag says that they match in reverse direction."""
        for session in self._of_call(call_id):
            if session.from_tag == from_tag:
                return session, False
            if to_tag is not None and _is_reverse(session.from_tag, from_tag, to_tag):
                return session, True
        return None

    def find_all(self, call_id: bytes, from_tag: bytes, to_tag: bytes | None) -> list[tuple[Session, bool]]:
        """Find every session whose tag is one of the tags, with or without a media number after it.

        The from-tag is tried first; the flag says that only the to-tag matched (reverse direction).
        """
        matches = []
        for session in self._of_call(call_id):
            if _is_prefix(from_tag, session.from_tag):
                matches.append((session, False))
            elif to_tag is not None and _is_prefix(to_tag, session.from_tag):
                matches.append((session, True))
        return matches

    def _of_call(self, call_id: bytes) -> list[Session]:
        found = self._by_call_id.get(call_id)
        if found is None:
            return []
        return found if isinstance(found, list) else [found]


def _is_prefix(tag: bytes, session_tag: bytes) -> bool:
    return session_tag.startswith(tag) and session_tag[len(tag) : len(tag) + 1] in (b"", b";")


def _is_reverse(session_tag: bytes, from_tag: bytes, to_tag: bytes) -> bool:
    """True if the to-tag is the session's, or what is before a semicolon in it and the media numbers are the same.

    The media number is what follows the last semicolon in the session's tag and in the from-tag.
    """
    if to_tag == session_tag:
        return True
    if not session_tag.startswith(to_tag + b";"):
        return False
    _, semicolon, number = from_tag.rpartition(b";")
    return bool(semicolon) and session_tag.rpartition(b";")[2] == number
