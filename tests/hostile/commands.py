"""Random commands of every kind, each with its meaning, so that nothing needs to read its text again.

A relay's addresses are a `World`; what is wrong with a command is known when it is made. Source: protocol.md 2 and 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

CALLS = ("a", "b", "c")
TAGS = ("f", "f;1", "f;2", "g", "t", "t;1", "f;1;2", "t;1;2")
REMOTES = ("10.0.1.2", "10.0.2.2", "203.0.113.9")
REMOTES_6 = ("2001:db8::2", "2001:db8::9")
COUNTERS = ("ttl", "npkts_ina", "nrelayed", "rtpa_nlost", "longest_ipi")
UNKNOWN, MALFORMED = "E0", "E5"


@dataclass(frozen=True)
class Address:
    """One of the relay's addresses as commands select it, and as replies show it."""

    host: str = ""
    label: str = ""
    is_ipv6: bool = False
    shown: str = ""
    space: int = 0
    """Number of its port space."""

    @property
    def suffix(self) -> str:
        """The part of a reply behind the port."""
        shown = self.shown or self.host
        if not shown:
            return ""
        return f" {shown} 6" if self.is_ipv6 else f" {shown}"


@dataclass
class World:
    """A relay's addresses and notification targets."""

    known: list[Address]
    """Those of the command line, then those that commands brought."""
    is_bridging: bool = False
    notify: tuple[str, ...] = ()
    """Written as commands must write them."""
    routes: dict[str, str] = field(default_factory=dict)
    """Our host towards others."""
    extra: tuple[str, ...] = ()
    """Hosts of ours that were not configured."""
    foreign: tuple[str, ...] = ()
    """Hosts that are not ours."""

    def at(self, host: str) -> Address:
        """The address with that host; not a member of `known` if it is new."""
        is_ipv6 = ":" in host
        for one in self.known:
            if one.host == host:
                return one
        wildcard = next((one for one in self.known if not one.host and one.is_ipv6 == is_ipv6), None)
        return Address(host, is_ipv6=is_ipv6, space=(wildcard or self.known[0]).space)

    def latest(self, is_ipv6: bool) -> Address | None:
        """The address of a family that came last."""
        return next((one for one in reversed(self.known) if one.is_ipv6 == is_ipv6), None)

    def join(self, address: Address) -> Address | None:
        """The address once it may be used; None where it is not ours."""
        for one in self.known:
            if one.host == address.host and one.is_ipv6 == address.is_ipv6:
                return one
        if address.host in self.foreign:
            return None
        self.known.append(address)
        return address


@dataclass
class Media:
    """The meaning of modifiers and address of a `U` or `L`, or the error code that they deserve."""

    modifiers: str = ""
    remote: str = ""
    error: str = ""
    is_ipv6: bool = False
    is_weak: bool = False
    is_new_port: bool = False
    has_codecs: bool = False
    local: Address | None = None
    letters: tuple[Address, ...] = ()


@dataclass
class Subcommand:
    """One of `&&`: S with `seconds`, D, L with `media`, C with `source`, M; or one that cannot be read."""

    text: str
    kind: str
    is_reverse: bool = False
    seconds: int = 0
    is_weak: bool = False
    media: Media | None = None
    source: tuple[str, str, str] | None = None
    """Call-id and tags of the session to be fed from."""
    is_refused: bool = False
    """The module refuses it."""


@dataclass
class Command:
    """One command; `error` is what it is refused with whatever the sessions are."""

    text: str
    kind: str
    error: str = ""
    call: str = ""
    from_tag: str = ""
    to_tag: str | None = None
    media: Media | None = None
    is_weak: bool = False
    notify: tuple[str, str] | None = None
    """Target as written, and the tag decoded."""
    subcommands: tuple[Subcommand, ...] = ()
    late_error: str = ""
    """The error code once its session was found."""
    reply: str = ""
    """Of one that finds its session, where that is simple."""
    has_default_counters: bool = False


def faulty(rng: Random) -> Command:
    """A command that is refused before sessions are looked at: tokens, letter, arguments, modifiers, sub-commands."""
    call = "a 10.0.1.2 4000 f"
    text, error = rng.choice(
        (
            *(("", MALFORMED), (" \t ", MALFORMED), ("V\0", MALFORMED), ("&&", MALFORMED), ("V &&", MALFORMED)),
            *((f"U {call} && && D", MALFORMED), (f"U {call}" + 16 * " && D", MALFORMED), ("G" + 23 * " x", MALFORMED)),
            *(("Z", UNKNOWN), ("@ U", UNKNOWN), ("\x80\xff", UNKNOWN), ("0", UNKNOWN), ("\vV", UNKNOWN)),
            *(("U", "E1"), ("U a b", "E1"), (f"U {call} t n x y", "E1"), ("L a 10.0.1.2 4000", "E1"), ("D a", "E1")),
            *(("D a f t x", "E1"), ("Q a", "E1"), ("Q a f t" + 12 * " ttl", "E1"), ("V x", "E1"), ("VF", "E1")),
            *(("X a", "E1"), ("I a", "E1"), ("P a f", "E1"), ("S a", "E1"), ("C a f", "E1"), ("R a", "E1")),
            *(("Vz", "E2"), ("VFz 1", "E2"), ("Sx a f", "E2"), ("Xx", "E2"), ("X && D", "E3"), ("V && D", "E3")),
            *(("D a f && D", "E3"), ("I && D", "E3"), ("S a f && D", "E3"), ("G && S ttl=1", "E3")),
            *(("Dz a f", "E8"), ("Gz", "E9"), ("Iz", "E18"), ("Px a p 0 f", "E17"), ("G nonsense", "E68")),
            *(("Rp a f", "E6"), ("Nax a f", "E6"), ("Rx a f", "E7"), ("Nx a f", "E7"), ("Cx a t f", "E7")),
            (f"U {call} t n %zz", "E10"),
        )
    )
    return Command(text, "faulty", error)


class Generator:
    """Makes commands for a world."""

    CODECS: tuple[str, ...] = ("c0,8", "c0,8", "c,,", "C101", "c")

    def __init__(
        self,
        rng: Random,
        world: World,
        *,
        calls: Sequence[str] = CALLS,
        timeouts: Sequence[int] = (3, 7, 30),
    ) -> None:
        """`calls` are the call-ids it uses; `timeouts` are those that it sets, seconds."""
        self._rng = rng
        self._world = world
        self._calls = calls
        self._timeouts = timeouts

    def next(self) -> Command:
        """Any command: mostly those that change sessions."""
        rng = self._rng
        makers: Sequence[tuple[int, Callable[[], Command]]] = (
            *((34, self.update), (26, self.lookup), (16, self.delete), (8, self.query)),
            *((6, lambda: faulty(rng)), (4, self.plain), (4, self.media_command)),
        )
        number = rng.randrange(98)
        for share, make in makers:
            number -= share
            if number < 0:
                return make()
        raise AssertionError("shares do not add up")

    def update(self) -> Command:
        """`U`, creating or updating."""
        rng, media = self._rng, self._media()
        call, from_tag, to_tag = self._names()
        notify, error, told = None, media.error, ""
        if not rng.randrange(6):
            target = rng.choice((*self._world.notify, "unix:/nowhere", "tcp:192.0.2.1:1"))
            tag, decoded, tag_error = rng.choice(
                (("x%20y", "x y", ""), ("x+y", "x y", ""), ("plain", "plain", ""), ("%2", "", "E10"))
            )
            notify, error = (target, decoded), tag_error or error
            told = f" {target} {tag}"
        subcommands = self._subcommands(is_update=True, has_to_tag=to_tag is not None)
        text = f"{self._letter('U')}{media.modifiers} {call} {media.remote} {from_tag}"
        text += (f" {to_tag}" if to_tag else "") + told + _written(subcommands)
        return Command(
            *(text, "U", error or _fault_of(subcommands), call, from_tag, to_tag, media),
            notify=notify,
            subcommands=subcommands,
        )

    def lookup(self) -> Command:
        """`L`."""
        media, (call, from_tag, to_tag) = self._media(), self._names()
        subcommands = self._subcommands(is_update=False, has_to_tag=False)
        text = f"{self._letter('L')}{media.modifiers} {call} {media.remote} {from_tag}"
        text += (f" {to_tag}" if to_tag else "") + _written(subcommands)
        error = media.error or _fault_of(subcommands)
        return Command(text, "L", error, call, from_tag, to_tag, media, subcommands=subcommands)

    def delete(self) -> Command:
        """`D`, now and then `X`."""
        rng = self._rng
        if not rng.randrange(150):
            return Command(self._letter("X"), "X")
        call, from_tag, to_tag = self._names()
        is_weak = not rng.randrange(3)
        text = f"{self._letter('D')}{'w' * is_weak} {call} {from_tag}" + (f" {to_tag}" if to_tag else "")
        return Command(text, "D", "", call, from_tag, to_tag, is_weak=is_weak)

    def query(self) -> Command:
        """`Q`, with names and modifiers, right and wrong."""
        rng, (call, from_tag, to_tag) = self._rng, self._names()
        modifiers, late_error = rng.choice((("", ""), ("", ""), ("v", ""), ("x", "E19")))
        names: list[str] = []
        if to_tag is not None and not rng.randrange(3):
            names = rng.sample(COUNTERS, rng.randint(1, len(COUNTERS)))
            if not rng.randrange(4):
                names.append("nonsense")
                late_error = late_error or "E62"
        subcommands = self._subcommands(is_update=False, has_to_tag=False)
        text = " ".join([self._letter("Q") + modifiers, call, from_tag, *([to_tag] if to_tag else []), *names])
        return Command(
            *(text + _written(subcommands), "Q", _fault_of(subcommands), call, from_tag, to_tag),
            subcommands=subcommands,
            late_error=late_error,
            has_default_counters=not names and not modifiers,
        )

    def plain(self) -> Command:
        """A command that concerns no session."""
        text, reply = self._rng.choice(
            (
                *(("V", "20040107"), ("v", "20040107"), ("VF 20050322", "1"), ("vf 20040107", "1"), ("VF 1", "0")),
                *(
                    ("VF 20170313", "0"),
                    ("G", ""),
                    ("Ib", "."),
                    ("Il", "."),
                    ("G nsess_created", "."),
                    ("Gv pps_in", "."),
                ),
            )
        )
        return Command(text, "plain", reply=reply)

    def media_command(self) -> Command:
        """Prompts, of which one exists; recording and copying, of which none succeeds here."""
        call, from_tag, to_tag = self._names()
        who = f"{from_tag} {to_tag}" if to_tag else from_tag
        text, reply, error = self._rng.choice(
            (
                *((f"S {call} {who}", "play", ""), (f"P0 {call} p 0 {who}", "play", "")),
                *((f"P {call} p 0 {who}", "play", ""), (f"P {call} prompt 0 {who}", "play", "")),
                *((f"P2 {call} prompt session {who}", "play", ""), (f"P-1 {call} prompt 8,0 {who}", "play", "")),
                *((f"C {call} udp:192.0.2.1 {who}", "E65", ""), (f"C {call} name {who}", "E65", "")),
                (f"Cp {call} name {who}", "E65", ""),
                *((f"R {call} {who}", "", "E50"), (f"N {call} {who}", "", "E50"), (f"Na {call} {who}", "", "E50")),
            )
        )
        kind = "play" if reply == "play" else "media"
        return Command(text, kind, error, call, from_tag, to_tag, reply=reply)

    def _names(self) -> tuple[str, str, str | None]:
        rng = self._rng
        return rng.choice(self._calls), rng.choice(TAGS), rng.choice(TAGS) if rng.randrange(5) else None

    def _letter(self, letter: str) -> str:
        return letter if self._rng.randrange(8) else letter.lower()

    def _media(self) -> Media:
        rng, media, world = self._rng, Media(), self._world
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
            kind = rng.choice(
                "aaassswwWnnn66cclrRL" + ("eeii" if world.is_bridging else "") + ("xzei"[rng.randrange(4)])
            )
            if media.error or (kind == "6" and media.modifiers[-1:] in {*"0123456789,"}):
                continue  # a digit would belong to the modifier before it
            media.modifiers += self._modifier(media, kind)
        if media.local is None and not media.letters and media.is_ipv6 != world.known[0].is_ipv6:
            media.local = world.latest(media.is_ipv6)
            if media.local is None:
                media.error = media.error or "E36"
        self._add_remote(media, media.is_ipv6)
        return media

    def _modifier(self, media: Media, kind: str) -> str:
        """Say one more thing of the media; how it is written."""
        match kind:
            case "w" | "W":
                media.is_weak = True
            case "n":
                media.is_new_port = True
            case "6":
                media.is_ipv6 = True
            case "c":
                return self._add_codecs(media)
            case "e" | "i":
                self._add_letter(media, kind)
            case "l" | "L":
                return self._add_local(media, kind)
            case "r" | "R":
                return self._add_routed(media, kind)
            case "z":
                return self._rng.choice(("z20", "Z10", "z999"))
            case "x":
                wrong = (("z0", "E13"), ("z", "E13"), ("z1000", "E13"), ("t", "E35"), ("{", "E35"))
                kind, media.error = self._rng.choice(wrong)
        return kind

    def _add_codecs(self, media: Media) -> str:
        text = self._rng.choice(self.CODECS)
        if len(text) == 1 or media.has_codecs:
            media.error = "E14"
        media.has_codecs = True
        return text

    def _add_letter(self, media: Media, kind: str) -> None:
        if not self._world.is_bridging or len(media.letters) == 2:
            media.error = media.error or ("E11" if kind == "e" else "E12")
        else:
            media.letters += (self._world.known[1 if kind == "e" else 0],)

    def _add_local(self, media: Media, letter: str) -> str:
        rng, world = self._rng, self._world
        labels = [one.label for one in world.known if one.label]
        if rng.randrange(3) == 0 and labels:
            label = rng.choice((*labels, "nobody"))
            found = next((one for one in world.known if one.label == label), None)
            if found is None:
                media.error = media.error or "E31"
            media.local = found
            return f"{letter}{{{label}}}"
        if not rng.randrange(10):
            text, error = rng.choice(
                (("{", "E15"), ("[::1", "E15"), ("[::x]", "E31"), ("1.2.3.4.5", "E31"), ("{}", "E15"))
            )
            media.error = media.error or error
            return letter + text
        hosts = [one.host for one in world.known if one.host]
        host = rng.choice((*hosts, *world.extra, *world.foreign))
        media.local = world.at(host)
        return f"{letter}[{host}]" if ":" in host else letter + host

    def _add_routed(self, media: Media, letter: str) -> str:
        to = self._rng.choice((*self._world.routes, "192.0.2.77", "[]"))
        if to == "[]":
            media.error = media.error or "E16"
            return letter + to
        if to not in self._world.routes:
            media.error = media.error or "E32"
        else:
            media.local = self._world.at(self._world.routes[to])
        return f"{letter}[{to}]" if ":" in to else letter + to

    def _add_remote(self, media: Media, is_ipv6: bool) -> None:
        rng = self._rng
        null, ignored = ("::", "x") if is_ipv6 else ("0.0.0.0", "foo")
        wrong = rng.choice(("10.0.1.2", "example.com") if is_ipv6 else ("2001:db8::2", "example.com"))
        host = rng.choice(
            (*(REMOTES_6 if is_ipv6 else REMOTES), *(REMOTES_6 if is_ipv6 else REMOTES), null, ignored, wrong)
        )
        port = rng.choice(("4000", "5000", "0", "65535", "65540", "-1", "x")) if not rng.randrange(8) else "4000"
        media.remote = f"{host} {port}"
        if host == wrong or (port in ("-1", "x") and host != ignored):
            media.error = media.error or "E37"

    def _subcommands(self, *, is_update: bool, has_to_tag: bool) -> tuple[Subcommand, ...]:
        rng = self._rng
        count = rng.choice((0, 0, 0, 0, 0, 0, 1, 1, 2, 3))
        return tuple(self._subcommand(is_update and has_to_tag) for _ in range(count))

    def _subcommand(self, has_more: bool) -> Subcommand:
        rng = self._rng
        kind = rng.choice("SSTDLLC" if has_more else "SSTD")
        if not rng.randrange(12):
            bad = ("Z", "S", "S ttl=0", "S ttl=x", "S a b", "Sxy ttl=5", "D x", "Dx", "M1:1 x", "C", "L 10.0.1.2")
            return Subcommand(rng.choice(bad), "")
        if kind == "S":
            letter, seconds = rng.choice(("", "", "r", "R", "q")), rng.choice(self._timeouts)
            return Subcommand(f"S{letter} ttl={seconds}", "S", letter in ("r", "R"), seconds)
        if kind == "T":
            letter = rng.choice(("", "r"))
            return Subcommand(f"S{letter} tos={rng.choice((1, 184, 300))}", "T", letter == "r")
        if kind == "D":
            is_weak = bool(rng.getrandbits(1))
            return Subcommand("D" + "w" * is_weak, "D", is_weak=is_weak)
        if kind == "C":
            return self._feed()
        media = self._media()
        return Subcommand(f"L{media.modifiers} {media.remote}", "L" if not media.error else "", media=media)

    def _feed(self) -> Subcommand:
        """`&& C`, of a session that does not exist."""
        return Subcommand("C x f t", "C", source=("x", "f", "t"))


def _written(subcommands: Sequence[Subcommand]) -> str:
    return "".join(f" && {one.text}" for one in subcommands)


def _fault_of(subcommands: Sequence[Subcommand]) -> str:
    return "" if all(one.kind for one in subcommands) else "E3"
