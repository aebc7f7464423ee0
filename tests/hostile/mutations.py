"""Control inputs that nobody would send: real commands, changed at random, and bytes that never were one."""

from random import Random

_CALLS = (b"a", b"b", b"c", b"d;x")
_TAGS = (b"f", b"t", b"f;1", b"t;1", b"g")
_HOSTS = (b"10.0.1.2", b"192.0.2.7", b"0.0.0.0", b"2001:db8::7", b"127.0.0.1", b"::", b"255.255.255.255", b"1", b"10.1")
_PORTS = (b"0", b"1", b"4000", b"65535", b"65536", b"99999999999999999999", b"-1", b"x")
_MODIFIERS = (
    *(b"", b"6", b"a", b"s", b"w", b"n", b"e", b"i", b"ei", b"c0,8", b"c", b"z20", b"z", b"l10.0.0.1", b"l{one}", b"l"),
    *(b"r10.0.1.2", b"r[2001:db8::7]", b"r[", b"l[::]", b"v", b"t", b"b", b"f", b"-1", b"999", b"sp", b"X", b"6r[::1]"),
)
_COUNTERS = (b"ttl", b"npkts_ina", b"rtpa_jmax", b"nsess_created", b"ncmds_errs", b"nothing")
_TARGETS = (
    *(b"name", b"name", b"name;1", b"../name", b"/tmp/name", b".name", b"..", b"n" * 300, b"\xff", b"%2e%2e%2fname"),
    *(b"udp:192.0.2.7:4000", b"udp:[2001:db8::7]:4000", b"udp:x", b"udp:"),
)
"""Of `C`: names of recordings, and where copies go."""
_SUBCOMMANDS = (b"S ttl=5", b"Sr tos=184", b"S", b"D", b"Dw", b"L 10.0.2.2 5000", b"C a f t", b"S ttl=0", b"")
_BLANKS = (b" ", b"  ", b"\t", b" \r", b"\v", b"\f", b"\0", b"\n")
_SPECIAL = (b"&&", b" && ", b"%", b"%41", b"%%CC_SELF%%", b"{", b"}", b"[", b"]", b"=", b";", b",", b"\xff", b"\x80")


class Mutations:
    """An endless source of inputs."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng

    def next(self) -> bytes:
        """Make one: five of six begin as a command, and half of these are changed."""
        rng = self._rng
        if rng.randrange(6) == 0:
            return rng.randbytes(rng.choice((0, 1, 2, 10, 100, 1000)))
        text = self._command()
        for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 5))):
            text = self._changed(text)
        return text[:8000]

    def _command(self) -> bytes:
        """Half of these are as they should be."""
        choice, is_wild = self._rng.choice, self._rng.randrange(2)
        modifiers = b"".join(choice(_MODIFIERS) for _ in range(choice((0, 1, 2, 6)))) if is_wild else b""
        match choice("UULLDQQIGVXPSCRN"):
            case ("U" | "L") as letter:
                hosts, ports = (_HOSTS, _PORTS) if is_wild else (_HOSTS[:3], _PORTS[:4])
                words = [letter.encode() + modifiers, choice(_CALLS), choice(hosts), choice(ports), choice(_TAGS)]
                words += [choice(_TAGS) for _ in range(letter == "L")]
            case ("D" | "Q" | "S" | "R" | "N") as letter:
                words = [letter.encode() + modifiers, choice(_CALLS), choice(_TAGS), choice(_TAGS)]
                words += [choice(_COUNTERS) for _ in range(choice((0, 1, 3, 12)) if letter == "Q" else 0)]
            case ("I" | "G" | "V" | "X") as letter:
                words = [letter.encode() + modifiers]
                words += [choice(_COUNTERS) for _ in range(2 if letter == "G" else 0)]
            case "C":
                words = [b"C" + modifiers, choice(_CALLS), choice(_TARGETS), choice(_TAGS), choice(_TAGS)]
            case letter:
                words = [letter.encode() + modifiers, choice(_CALLS), b"/tmp/x", b"session", choice(_TAGS)]
        if is_wild:
            words += [choice((*_CALLS, *_TAGS, *_HOSTS, *_PORTS, b"unix:/x")) for _ in range(choice((0, 0, 1, 2, 30)))]
        for _ in range(choice((0, 0, 0, 1, 2, 20))):
            words += [b"&&", choice(_SUBCOMMANDS)]
        return b" ".join(words)

    def _changed(self, text: bytes) -> bytes:
        rng = self._rng
        at = rng.randrange(len(text) + 1)
        match rng.randrange(8):
            case 0:
                return text[:at]
            case 1:
                return text[:at] + rng.choice(_SPECIAL) + text[at:]
            case 2:
                return text[:at] + rng.choice(_BLANKS) + text[at:]
            case 3:
                return text[:at] + rng.randbytes(rng.choice((1, 1, 4, 50))) + text[at + rng.randrange(3) :]
            case 4:
                return text[:at] + text[at : at + rng.randrange(20)] * rng.choice((2, 3, 100)) + text[at:]
            case 5:
                other = self._command()
                return text[:at] + other[rng.randrange(len(other) + 1) :]
            case 6:
                return text[:at] + text[at + 1 :]
            case _:
                return text[:at] + bytes(byte ^ 1 << rng.randrange(8) for byte in text[at : at + 1]) + text[at + 1 :]
