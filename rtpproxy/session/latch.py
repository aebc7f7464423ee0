"""Endpoint learning: whose packets a stream accepts, and where it sends.

The law of this file:

1. Every rule by which a stream learns its remote endpoint is here, that of RTCP, which is guessed from RTP, included.
   Nobody else writes a `Latch`.
2. It knows nothing of ports, sessions, sockets or the kernel: endpoints, headers and the time come in, a verdict
   goes out.
3. A packet that is ignored changes nothing.
4. No remote is learned or guessed that `refuses`, a rule of the caller's, is against (`session.reach`). Endpoints that
   commands name are judged before they come here. A packet from such a source is denied, which changes nothing either.

The states of a stream, told by the fields of `Latch`, are these; the first row that fits applies. In a state that is
*locked* one known source is accepted and all others are refused, so that the kernel may forward:

| state      | told by                          | accepts                                             | locked |
| ---------- | -------------------------------- | --------------------------------------------------- | ------ |
| empty      | no `remote`                      | any source                                          | no     |
| asymmetric | `is_asymmetric`                  | any port of the host of `remote`                    | yes    |
| awaiting   | `awaited_host`, not `is_latched` | `remote`, and any port of `awaited_host` but `left` | no     |
| following  | `awaited_host` and `is_latched`  | as latched, and any port of `awaited_host`          | yes    |
| latched    | `is_latched`                     | `remote`; another source by override                | yes    |
| open       | `remote`, not `is_latched`       | any source                                          | no     |

Awaiting and following exist in strict mode only. These events lead from one to another (sections of protocol.md):

| in        | what happens                                       | leads to                                            |
| --------- | -------------------------------------------------- | --------------------------------------------------- |
| empty     | a command names an endpoint (5.2)                  | open                                                |
| empty     | a packet (5.3)                                     | latched to its source; asymmetric stays asymmetric  |
| open      | a packet of `remote`, outside the window           | latched, with memory                                |
| open      | a packet of `remote`, in the window                | open                                                |
| open      | a packet of another source                         | latched to it; open, if a command had replaced it   |
| open      | a command names another endpoint                   | open; awaiting if it is public (strict mode)        |
| latched   | another source goes on where the memory ends       | latched to it (override)                            |
| latched   | any RTP of another source, in the window           | latched to it, if there is a memory (override)      |
| latched   | a command names another endpoint, if not untrusted | latched to that (compatible mode)                   |
| latched   | the SSRC changes to 0                              | open (compatible mode)                              |
| latched   | a command that is believed                         | awaiting, or following (strict mode, see `_follow`) |
| awaiting  | a packet of `remote` or of the awaited host        | latched to its source                               |
| following | a packet of another port of the awaited host       | latched to it                                       |
| any       | a command asks for asymmetric mode (5.5)           | asymmetric; back to symmetric it stays latched      |
| any       | media may not be sent to `remote` any more         | empty                                               |
| RTCP: any | RTP learned an endpoint on another host (5.6)      | open at the next port; awaiting in strict mode      |

The *window* is UPDATE_WINDOW_S long, after a command that found a remote set. The *memory* is the SSRC and a recent
sequence number of the latched source of an RTP stream: another source that goes on where it ends is the same phone
behind another address. The names of the steps (learn, latch, override, refresh) are those of protocol.md section 5, and
so is their order.

A stream that several sources take in turn is *contested* (`session.contest`), as by the callees of a forked call in the
window. It is learned by the same rules, but it changes hands faster than the kernel's entries can, so userspace relays
it until that is over.

In *strict* mode (protocol.md 16, items 6 and 7) these rules differ:

- No command opens a window, so `updated_at` is never set.
- Every source that a stream latches to is remembered, from its first RTP packet on. SSRC 0 is too easily guessed to be
  remembered; it leaves the stream latched, and only its source is accepted.
- A command that names another public address than the last command is believed, whatever packets taught; one that
  names another private address only where packets never contradicted the commands. The stream then forgets its source
  and awaits the signalled host: the first packet from any port of that host takes it over, except from the port that
  was left, whose phone may go on sending for a moment. All others are ignored meanwhile. Nothing is locked until then,
  because the kernel would forward such a packet and nobody would learn its port. Only a private address that changes
  before any packet came leaves the stream open, as the first address does.
- Where packets have already shown that the party is at the signalled host, behind another port than signalled, a new
  port in the command says nothing about the source of its packets. The stream stays as it is, locked, and another port
  of the host may take it over once.
- An RTCP stream that is not latched when its RTP sibling learns an endpoint, or latches to the signalled one, awaits
  the sibling's host.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from rtpproxy.addr import Endpoint, is_public
from rtpproxy.rtp.header import RtpHeader
from rtpproxy.session.contest import Contest

UPDATE_WINDOW_S = 10.0
"""Seconds after a command on a known endpoint during which any RTP source may take the stream over."""
SEQUENCE_DISTANCE = 536
"""Largest distance ahead of the memory, modulo 65536, at which another source may go on."""
REFRESH_INTERVAL_S = 1.0
"""Least seconds between two refreshes of the memory's sequence number."""
LAST_PORT = 65535

Refuses = Callable[[tuple[str, int]], bool]
"""Tells that an endpoint may not become the remote of a stream."""


def refuses_nothing(_: tuple[str, int]) -> bool:
    """Allow every endpoint."""
    return False


class Verdict(Enum):
    """Effect of a packet on the stream that it arrived at."""

    IGNORED = "ignored"
    """Wrong source: drop it. Nothing changed."""
    DENIED = "denied"
    """A source that media may not be sent to, and that would have been learned otherwise: drop it. Nothing changed."""
    ACCEPTED = "accepted"
    """Hand it on. Nothing changed that forwarding depends on."""
    LEARNED = "learned"
    """Hand it on. The remote endpoint or the lock changed, so what the kernel forwards must be planned anew."""


# Looked up for every packet: a global is found faster than a member of an enum.
_IGNORED = Verdict.IGNORED
_DENIED = Verdict.DENIED
_ACCEPTED = Verdict.ACCEPTED
_LEARNED = Verdict.LEARNED


class KnownSource(NamedTuple):
    """Says from whom a stream expects packets, so that strangers cannot displace them on their way to userspace."""

    host: str
    """Empty for nobody."""
    port: int
    """0 for any."""
    is_locked: bool
    """Packets from others are refused, unless they go on with the SSRC, or a command opened the window."""
    ssrc: int | None
    """SSRC of the memory."""
    others: tuple[tuple[str, int], ...] = ()
    """Up to MOST_OTHERS who may take the stream: the one whom the newest command names, and who had it before."""
    is_contested: bool = False
    """Several take the stream in turn. Then `host` is the one whom a command named, and `others` are the rest in an
    order that does not change with each packet."""


MOST_OTHERS = 2
_NOBODY = Endpoint("", 0)


@dataclass(slots=True, eq=False)
class Latch:
    """State of one stream's learning (protocol.md 5.1); the table of states is at the top of the file."""

    remote: Endpoint | None = None
    """Endpoint that packets are sent to and, but for asymmetric mode, accepted from."""
    previous: Endpoint | None = None
    """The latched remote that a command replaced."""
    is_latched: bool = False
    is_asymmetric: bool = False
    """Accept any port of the remote's host, and never move (5.5)."""
    is_untrusted: bool = False
    """The remote was learned from a packet, so what commands say is ignored from now on."""
    has_moved: bool = False
    """The latest LEARNED changed `remote`; the RTCP sibling of an RTP stream asks this when it must `guess`."""
    updated_at: float | None = None
    """Time of the last command that found a remote set, seconds, monotonic."""
    ssrc: int | None = None
    """SSRC of the memory; None without memory, and always for RTCP."""
    sequence: int = 0
    """Sequence number of the memory."""
    refreshed_at: float = 0.0
    """Time that the memory was last set or refreshed, seconds, monotonic."""
    signalled: Endpoint | None = None
    """The endpoint of the last command."""
    contest: Contest | None = None
    """Made when the first source loses the stream to another."""
    is_strict: bool = False
    """Strict mode; to be set when the latch is made. The fields below are used in it only."""
    awaited_host: str = ""
    """Any port of this host may take the stream over, once; empty for none."""
    left: Endpoint | None = None
    """The remote that a command replaced; it may not take the stream back while its host is awaited."""

    @property
    def is_locked(self) -> bool:
        """Packets of one known source are accepted and all others refused, so that the kernel may forward them.

        Unless the stream is contested.

        The source is `remote`; in asymmetric mode it is any port of `remote.host`.
        """
        return self.remote is not None and (self.is_latched or self.is_asymmetric)

    @property
    def known_source(self) -> KnownSource | None:
        """From whom packets are expected now: whoever is accepted for certain. None where it may be anybody."""
        if self.remote is None:
            return None
        if self.awaited_host or self.is_asymmetric:
            return KnownSource(self.awaited_host or self.remote.host, 0, True, self.ssrc)
        if self.contest is not None:
            return self._known_sources(self.remote, self.contest)
        named = self.signalled
        if named is None or named == self.remote or self.is_strict:
            return KnownSource(*self.remote, self.is_latched, self.ssrc)
        return KnownSource(*self.remote, self.is_latched, self.ssrc, (named,))

    @property
    def is_contested(self) -> bool:
        """Several sources take the stream in turn, so that the kernel cannot follow."""
        return self.contest is not None and self.contest.is_on

    @property
    def has_rivals(self) -> bool:
        """Others are remembered who had the stream before."""
        return self.contest is not None and bool(self.contest.rivals)

    def signal(self, endpoint: Endpoint, now: float) -> bool:
        """Prefill from a command (5.2); True when the remote changed.

        The caller adds 1 to the port for RTCP, leaves out null addresses and those that media may not be sent to, and
        absorbs what the kernel saw first.
        """
        if self.is_strict:
            return self._follow(endpoint)
        self.signalled = endpoint
        if self.remote is not None:
            self.updated_at = now
        if self.is_untrusted or self.remote == endpoint:
            return False
        if self.remote is not None and self.is_latched:
            self.previous = self.remote
            self._contest().lost(self.remote, endpoint)
        self.remote = endpoint
        return True

    def set_asymmetric(self, is_asymmetric: bool) -> None:
        """Apply the mode that a command asked for (5.2, 5.5). Going back to symmetric keeps the stream latched."""
        self.is_asymmetric = is_asymmetric
        if is_asymmetric:
            self.is_latched = True

    def observe(
        self,
        source: tuple[str, int],
        header: RtpHeader | None,
        is_rtp_stream: bool,
        now: float,
        refuses: Refuses = refuses_nothing,
    ) -> Verdict:
        """Judge and learn from a packet on a complete session (5.3, 5.5).

        `header` is None where the packet does not parse as RTP; it is not looked at on RTCP streams. `refuses` is asked
        only if the source is about to be learned.
        """
        if source == self.remote and self.is_latched:
            if header is not None and now - self.refreshed_at >= REFRESH_INTERVAL_S and header.ssrc == self.ssrc:
                self.sequence = header.sequence
                self.refreshed_at = now
            elif self.is_strict and self.ssrc is None and is_rtp_stream and header is not None and header.ssrc:
                self._remember(header.ssrc, header.sequence, now)
            return _ACCEPTED
        if not is_rtp_stream:
            header = None
        verdict = self._judge(source, header, now, refuses)
        if verdict is _ACCEPTED or verdict is _LEARNED:
            self._refresh(header, now)
        return verdict

    def change_ssrc(self, header: RtpHeader, now: float) -> Verdict:
        """Take over the new SSRC of the accepted source of an RTP stream, noticed by its sequence tracker (5.3)."""
        return self._relatch(header.ssrc, header.sequence, now)

    def guess(self, rtp: "Latch", refuses: Refuses = refuses_nothing) -> bool:
        """Apply to an RTCP stream that the last packet of its RTP sibling was LEARNED (5.6); True when it moves.

        Its port is guessed to be the next one on the host that RTP has moved to; in strict mode also on the one that
        RTP has latched to without moving. There is no guess where nothing may be sent.
        """
        if rtp.remote is None or not (rtp.has_moved or self.is_strict):
            return False
        host, port = rtp.remote
        is_same_host = self.remote is not None and self.remote.host == host
        if not is_same_host:
            if port == LAST_PORT or refuses((host, port + 1)):
                return False
            self.remote = Endpoint(host, port + 1)
            self.is_latched = self.is_asymmetric
            self.left = None
        if self.is_strict and not self.is_latched:
            self.awaited_host = host
            self.is_untrusted = rtp.is_untrusted
        return not is_same_host

    def forget(self) -> None:
        """Forget everybody, because media may not be sent to the remote any more: the stream is empty again.

        Absorb what the kernel saw first. The modes stay.
        """
        self.remote = self.previous = self.left = self.signalled = None
        self.is_latched = self.is_asymmetric
        self.is_untrusted = False
        self.updated_at = self.ssrc = None
        self.awaited_host = ""
        self.contest = None

    def settle(self, now: float) -> bool:
        """End a contest in which the stream has not changed hands for long enough; True if so.

        Once the window is over, also forget who had the stream before: they are not heard any more. To be called every
        second while it `has_rivals`; what the kernel does must then be planned anew.
        """
        contest = self.contest
        if contest is None or not contest.rivals:
            return False
        if contest.settle(now):
            return True
        if contest.is_on or self._is_in_window(now):
            return False
        contest.rivals = ()
        return True

    def absorb_forwarded(self, ssrc: int, sequence: int, refreshed_at: float, changed_at: float, now: float) -> Verdict:
        """Bring the memory of this RTP stream to where it would be if userspace had seen what the kernel forwarded.

        `ssrc` is the last that the kernel saw, `sequence` a number of that SSRC seen at `refreshed_at`, not more than
        REFRESH_INTERVAL_S old when traffic flows, and `changed_at` when the SSRC last changed from one to another,
        0.0 for never; seconds, monotonic. May be called again with values that did not advance. Call it before
        `signal`, so that a change is judged by the window that it fell into.
        """
        if self.is_strict and not self.is_latched:
            # A command moved the stream while these packets were in transit; they come from the source that it left.
            return _ACCEPTED
        seen_at = min(refreshed_at, now)
        # A change that is older than the memory was dealt with before, or belongs to another source. One that is older
        # than the latest command is not in that command's window.
        is_new = changed_at > self.refreshed_at
        if is_new and (self.updated_at is None or not 0.0 <= changed_at - self.updated_at < UPDATE_WINDOW_S):
            before = self.is_latched
            self._remember(ssrc, sequence, seen_at)
            return self._verdict(before)
        if self.is_strict and self.ssrc is None and ssrc and seen_at > self.refreshed_at:
            self._remember(ssrc, sequence, seen_at)
        elif ssrc == self.ssrc and seen_at > self.refreshed_at:
            self.sequence = sequence
            self.refreshed_at = seen_at
        return _ACCEPTED

    def _judge(self, source: tuple[str, int], header: RtpHeader | None, now: float, refuses: Refuses) -> Verdict:
        if self.remote is None:
            if refuses(source):
                return _DENIED
            if self.is_strict:
                self._latch(header, now)
            return self._learn(source)
        if self.is_asymmetric:
            return _ACCEPTED if source[0] == self.remote.host else _IGNORED
        if source == self.remote:
            return self._latch(header, now)
        is_open = self._is_open_to(source)
        if not (is_open or self._may_override(header, now)):
            return _IGNORED
        if refuses(source):
            return _DENIED
        if is_open:
            self._latch(header, now)
        elif header is not None:
            self.sequence = header.sequence
            self.refreshed_at = now
            self._contest().taken(self.remote, Endpoint(*source), now)
        return self._learn(source)

    def _contest(self) -> Contest:
        if self.contest is None:
            self.contest = Contest()
        return self.contest

    def _known_sources(self, remote: Endpoint, contest: Contest) -> KnownSource:
        """Work out who is expected at a stream that was taken from somebody."""
        # Strict mode has no window in which any but `remote` would be heard.
        named = None if self.is_strict else self.signalled
        if contest.is_on:
            others = sorted([one for one in (remote, *contest.rivals) if one != named][:MOST_OTHERS])
            return KnownSource(*(named or _NOBODY), self.is_latched, self.ssrc, tuple(others), is_contested=True)
        expected = () if self.is_strict else dict.fromkeys((named, *contest.rivals))
        others = [one for one in expected if one is not None and one != remote]
        return KnownSource(*remote, self.is_latched, self.ssrc, tuple(others[:MOST_OTHERS]))

    def _is_open_to(self, source: tuple[str, int]) -> bool:
        if self.awaited_host:
            return source[0] == self.awaited_host and source != self.left
        return not self.is_latched

    def _follow(self, endpoint: Endpoint) -> bool:
        """Follow a command's endpoint in strict mode, if it is believed; True when the remote changed."""
        is_repeated = self.signalled == endpoint
        self.signalled = endpoint
        # Only what a command changes says anything: a re-INVITE repeats the address that packets corrected long ago.
        if is_repeated or self.remote == endpoint:
            return False
        is_believed = is_public(endpoint.host)
        # Packets showed a NAT between the party and us, and a private address is behind it.
        if self.is_untrusted and not is_believed:
            return False
        # The first address, or one more before any packet came: nobody is forgotten by it, so nobody is awaited. A
        # public address is awaited all the same: the party can only come from there.
        if self.remote is None or not (self.is_latched or self.awaited_host or is_believed):
            self.remote = endpoint
            return True
        self.awaited_host = endpoint.host
        # The same host, where packets come from another port than signalled: a NAT chose that port, and it may choose
        # another for the new one. The stream goes on with what it has until a packet tells (state *following*).
        if self.is_untrusted and self.remote.host == endpoint.host and not self.is_asymmetric:
            self.left = None
            return False
        # The party moved: the old source is not heard any more, and the new one not before it sends (*awaiting*).
        self.left = self.remote
        self.remote = endpoint
        self.is_untrusted = False
        self.is_latched = self.is_asymmetric
        self.ssrc = None
        return True

    def _learn(self, source: tuple[str, int]) -> Verdict:
        self.is_untrusted = True
        self.has_moved = True
        self.awaited_host = ""
        self.remote = Endpoint(*source)
        if self.previous != self.remote:
            self.is_latched = True
        return _LEARNED

    def _latch(self, header: RtpHeader | None, now: float) -> Verdict:
        if header is None:
            return self._relatch(None, 0, now)
        return self._relatch(header.ssrc, header.sequence, now)

    def _relatch(self, ssrc: int | None, sequence: int, now: float) -> Verdict:
        before = self.is_latched
        if self.updated_at is None or now - self.updated_at >= UPDATE_WINDOW_S:
            self._remember(ssrc, sequence, now)
        return self._verdict(before)

    def _verdict(self, was_latched: bool) -> Verdict:
        if was_latched == self.is_latched:
            return _ACCEPTED
        self.has_moved = False
        return _LEARNED

    def _remember(self, ssrc: int | None, sequence: int, now: float) -> None:
        self.ssrc = ssrc
        self.sequence = sequence
        self.refreshed_at = now
        self.is_latched = ssrc != 0 or self.is_strict
        if self.is_strict:
            self.ssrc = ssrc or None
            self.awaited_host = ""

    def _may_override(self, header: RtpHeader | None, now: float) -> bool:
        """True for a packet of another source that may take a latched stream over. RTCP streams have no memory."""
        if self.ssrc is None or header is None:
            return False
        if self._is_in_window(now):
            return True
        ahead = (header.sequence - self.sequence) % 65536
        return header.ssrc == self.ssrc and ahead <= SEQUENCE_DISTANCE

    def _is_in_window(self, now: float) -> bool:
        return self.updated_at is not None and now - self.updated_at <= UPDATE_WINDOW_S

    def _refresh(self, header: RtpHeader | None, now: float) -> None:
        is_due = now - self.refreshed_at >= REFRESH_INTERVAL_S
        if is_due and header is not None and header.ssrc == self.ssrc:
            self.sequence = header.sequence
            self.refreshed_at = now
