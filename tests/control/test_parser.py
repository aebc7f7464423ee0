"""Reading texts into commands: shape, limits, and the order of checks (protocol.md 1.5, 2, 3.4)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.addr import Endpoint
from rtpproxy.config import ListenAddress
from rtpproxy.control.messages import (
    Answer,
    Command,
    CommandError,
    DeleteAll,
    ErrorCode,
    FeatureProbe,
    GetStats,
    Info,
    LookupCommand,
    ModuleCommand,
    QueryCommand,
    Subcommand,
    Uncopyable,
    Unplayable,
    UpdateCommand,
    Version,
)
from rtpproxy.control.modules import NoModules
from rtpproxy.control.parser import Parser, is_verbose_query
from rtpproxy.service.requests import (
    CopyTo,
    Delete,
    DropReference,
    Feed,
    Lookup,
    MediaDescription,
    NotifyArguments,
    Play,
    Query,
    Record,
    RecordAs,
    SetTimeout,
    SetTos,
    StopPlaying,
    StopRecording,
    Update,
)
from rtpproxy.session.local import LocalAddresses

REMOTE = Endpoint("192.0.2.1", 5000)
PLAIN = MediaDescription(REMOTE)
WEAK = MediaDescription(REMOTE, is_weak=True)
U = b"U c 192.0.2.1 5000 f"
L = b"L c 192.0.2.1 5000 f"

LOCALS = LocalAddresses((ListenAddress(),), False, {}.get)
parse = Parser(LOCALS).parse


def refusal(text: bytes) -> ErrorCode:
    with pytest.raises(CommandError) as caught:
        parse(text)
    return caught.value.code


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (b"V", Version()),
        (b" v \r\n", Version()),
        (b"VF 20040107", FeatureProbe(b"20040107")),
        (b"vf x", FeatureProbe(b"x")),
        (b"X\n", DeleteAll()),
        (b"I", Info(with_load=False)),
        (b"Ib", Info(with_load=False)),
        (b"iLB", Info(with_load=True)),
        (b"It", Info(with_load=False, with_tiers=True)),
        (b"ITBL", Info(with_load=True, with_tiers=True)),
        (b"G", GetStats((), is_verbose=False)),
        (b"gV a b a", GetStats((b"a", b"b", b"a"), is_verbose=True)),
        (b"G" + 22 * b" a", GetStats(22 * (b"a",), is_verbose=False)),
        (b"D c f", Delete(b"c", b"f", None, is_weak=False)),
        (b"dW c f t", Delete(b"c", b"f", b"t", is_weak=True)),
        (b"Q c f", QueryCommand(Query(b"c", b"f", None))),
        (b"Qv c f t ttl TTL", QueryCommand(Query(b"c", b"f", b"t"), b"v", (b"ttl", b"TTL"))),
        (b"Qx c f t", QueryCommand(Query(b"c", b"f", b"t"), b"x")),
        (U, UpdateCommand(Update(b"c", b"f", None, PLAIN))),
        (U + b" t", UpdateCommand(Update(b"c", b"f", b"t", PLAIN))),
        (U + b" ns tag", UpdateCommand(Update(b"c", b"f", None, PLAIN, NotifyArguments(b"ns", b"tag")))),
        (U + b" t ns a%20b+c%0a", UpdateCommand(Update(b"c", b"f", b"t", PLAIN, NotifyArguments(b"ns", b"a b c\n")))),
        (U + b" ns %41%fF", UpdateCommand(Update(b"c", b"f", None, PLAIN, NotifyArguments(b"ns", b"A\xff")))),
        (b"l\tc  192.0.2.1 5000 f\r\n", LookupCommand(Lookup(b"c", b"f", None, PLAIN))),
        (b"L c 192.0.2.1 5000 f;1 t;1", LookupCommand(Lookup(b"c", b"f;1", b"t;1", PLAIN))),
        (b"D \xff\xfe \x01", Delete(b"\xff\xfe", b"\x01", None, is_weak=False)),
        (b"D c\v f\f", Delete(b"c\v", b"f\f", None, is_weak=False)),
    ],
)
def test_reads_command(text: bytes, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (b"P c p 0,8 f", Play(Query(b"c", b"f", None), b"p", (0, 8), 1)),
        (b"p-1 c p session f t", Play(Query(b"c", b"f", b"t"), b"p", None, None)),
        (b"P+3 c p 8,x,0 f", Play(Query(b"c", b"f", None), b"p", (8,), 3)),
        (b"P0 c p 0 f", StopPlaying(Query(b"c", b"f", None))),
        (b"P-00 c p session f", StopPlaying(Query(b"c", b"f", None))),
        (b"P" + 8000 * b"9" + b" c p 0 f", Play(Query(b"c", b"f", None), b"p", (0,), 1 << 30)),
        (b"P-" + 8000 * b"9" + b" c p 0 f", Play(Query(b"c", b"f", None), b"p", (0,), None)),
        (b"P" + 7000 * b"0" + b"2 c p 0 f", Play(Query(b"c", b"f", None), b"p", (0,), 2)),
        (b"P c p session,0 f", Unplayable(Query(b"c", b"f", None), "session,0 is no list of payload types")),
        (b"P c p 128 f", Unplayable(Query(b"c", b"f", None), "128 is no list of payload types")),
        (b"s c f t", StopPlaying(Query(b"c", b"f", b"t"))),
    ],
)
def test_reads_what_is_refused_later(text: bytes, command: Command) -> None:
    assert parse(text) == command


CALL = Query(b"c", b"f", b"t")


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (b"R c f", Record(b"c", b"f", None, is_single=False)),
        (b"rS c f t", Record(b"c", b"f", b"t", is_single=True)),
        (b"N c f", StopRecording(b"c", b"f", None, is_both=False)),
        (b"nA c f t", StopRecording(b"c", b"f", b"t", is_both=True)),
        (b"C c name f", RecordAs(Query(b"c", b"f", None), b"name", is_single=False)),
        (b"cS c udp f t", RecordAs(CALL, b"udp", is_single=True)),
        (b"C c UDP:192.0.2.1:5000 f t", RecordAs(CALL, b"UDP:192.0.2.1:5000", is_single=False)),
        (b"C c udp:192.0.2.1:5000 f t", CopyTo(CALL, Endpoint("192.0.2.1", 5000), wants_port=False)),
        (b"cSp c udp:192.0.2.1:5000 f t", CopyTo(CALL, Endpoint("192.0.2.1", 5000), wants_port=True)),
        (b"C c udp:2001:DB8::9:5000 f t", CopyTo(CALL, Endpoint("2001:db8::9", 5000), wants_port=False)),
        (b"C c udp:[2001:db8::9]:5000 f t", CopyTo(CALL, Endpoint("2001:db8::9", 5000), wants_port=False)),
        (b"C c udp:192.0.513:5000 f t", CopyTo(CALL, Endpoint("192.0.2.1", 5000), wants_port=False)),
    ],
)
def test_reads_recording(text: bytes, command: Command) -> None:
    assert parse(text) == command


@pytest.mark.parametrize(
    "target",
    [
        *(b"udp:", b"udp::5", b"udp:192.0.2.1", b"udp:192.0.2.1:", b"udp:192.0.2.1:0", b"udp:192.0.2.1:65536"),
        *(b"udp:192.0.2.1:+5", b"udp:host:5", b"udp:[::1", b"udp:[192.0.2.1]:5x", b"udp:fe80::1%eth0:5", b"udp:\xff:5"),
    ],
)
def test_targets_that_cannot_be_copied_to(target: bytes) -> None:
    command = parse(b"C c %s f t" % target)
    assert isinstance(command, Uncopyable)
    assert command.session == CALL
    assert "numeric host" in command.reason


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", 5),
        (b" \t\r\n", 5),
        (b"V\0", 5),
        (b"D c\0 f", 5),
        (b"Z", 0),
        (b"0", 0),
        (b'"V"', 0),
        (b"\v", 0),
        (b"\xff", 0),
        (b"V x", 1),
        (b"VF", 1),
        (b"VF 1 2", 1),
        (b"Vz", 2),
        (b"V\v", 2),
        (b"V\f", 2),
        (b"VFx 1", 2),
        (b"X x", 1),
        (b"Xx", 2),
        (b"I x", 1),
        (b"Ix", 18),
        (b"Gx a", 9),
        (b"Gvx a", 9),
        (b"D c", 1),
        (b"D c f t x", 1),
        (b"Dx c f", 8),
        (b"Dwx c f", 8),
        (b"Q c", 1),
        (b"L c 127.0.0.1 5", 1),
        (b"L c 127.0.0.1 5 f t x", 1),
        (b"L c 127.0.0.1 5 f t ns tag", 1),
        (b"U c 127.0.0.1 5", 1),
        (b"U c 127.0.0.1 5 f t ns tag extra", 1),
        (b"U c 127.0.0.1 5 f ns %2", 10),
        (b"U c 127.0.0.1 5 f t ns %zz", 10),
        (b"U c 127.0.0.1 5 f t ns a%", 10),
        (b"P c p 0", 1),
        (b"P c p 0 f t x", 1),
        (b"Px c p 0 f", 17),
        (b"P1x c p 0 f", 17),
        (b"P- c p 0 f", 17),
        (b"P1_0 c p 0 f", 17),
        (b"P\xb2 c p 0 f", 17),
        (b"S c", 1),
        (b"S c f t x", 1),
        (b"Sx c f", 2),
        (b"R c", 1),
        (b"R c f t x", 1),
        (b"Rx c f", 7),
        (b"Rp c f", 6),
        (b"Rsp c f", 6),
        (b"Rsx c f", 7),
        (b"N c", 1),
        (b"N c f t x", 1),
        (b"Nx c f", 7),
        (b"Nax c f", 6),
        (b"C c n", 1),
        (b"C c n f t x", 1),
        (b"Cx c n f", 7),
        (b"Cspx c n f", 7),
    ],
)
def test_refuses(text: bytes, code: int) -> None:
    assert refusal(text) == code


def test_query_asks_for_at_most_eleven_counters() -> None:
    command = parse(b"Q c f t" + b" ttl" * 11)
    assert isinstance(command, QueryCommand)
    assert len(command.counters) == 11
    assert refusal(b"Q c f t" + b" ttl" * 12) == ErrorCode.ARGUMENT_COUNT


def test_query_modifiers_are_judged_apart() -> None:
    query = Query(b"c", b"f", None)
    assert not is_verbose_query(QueryCommand(query))
    assert is_verbose_query(QueryCommand(query, b"V"))
    with pytest.raises(CommandError, match="E19"):
        is_verbose_query(QueryCommand(query, b"vx"))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"Q" + b" a" * 22, 1),
        (b"Q" + b" a" * 23, 5),
        (b"G" + b" a" * 23, 5),
        (b"Z" + b" a" * 22, 0),
        (b"Z" + b" a" * 23, 5),
        (b"Z" + b" a" * 22 + b" &&" + b" a" * 23, 0),
        (b"Z" + b" a" * 22 + b" &&" + b" a" * 24, 5),
        (b"Z" + b" && D" * 15, 0),
        (b"Z" + b" && D" * 16, 5),
        (b"&& V", 5),
        (b"V &&", 5),
        (b"V && && V", 5),
        (b"&&", 5),
        (b"V&& V", 1),
        (b"V &&V", 1),
        (b"V\n&&\tV", 3),
    ],
)
def test_token_limits(text: bytes, code: int) -> None:
    assert refusal(text) == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        # Letter, number of arguments, modifiers where none are allowed.
        (b"Zz x && D", 0),
        (b"Vz x", 1),
        (b"VFz", 1),
        (b"Xx x", 1),
        (b"Ix x", 1),
        (b"Dx c", 1),
        (b"Px c p 0", 1),
        (b"Sx c", 1),
        (b"Rx c", 1),
        (b"Cx c n", 1),
        (b"Ux c 127.0.0.1 5", 1),
        # Sub-commands where none are allowed are refused after the shape and before the command's own arguments.
        (b"V && V", 3),
        (b"Vz && V", 2),
        (b"V x && V", 1),
        (b"X && D", 3),
        (b"Xx && D", 2),
        (b"Ix && D", 3),
        (b"Gx && D", 3),
        (b"Dx c f && D", 3),
        (b"Dx c && D", 1),
        (b"Px c p 0 f && D", 3),
        (b"Sx c f && D", 2),
        (b"S c f && D", 3),
        (b"Rx c f && D", 3),
        (b"Nx c f && D", 3),
        (b"Cx c n f && D", 3),
        # Where they are allowed, they are parsed after those arguments.
        (b"U c 127.0.0.1 5 f && Z", 3),
        (b"U c 127.0.0.1 5 && Z", 1),
        (b"U c 127.0.0.1 5 f ns % && Z", 10),
        (b"Ux c 127.0.0.1 5 f && Z", 35),
        (b"U c example.com 5 f && Z", 37),
        (b"L6 c 127.0.0.1 5 f && Z", 36),
        (b"Qx c f && Z", 3),
        # Notification tag, modifiers from left to right, family, address.
        (b"Ux c 127.0.0.1 x f ns %", 10),
        (b"Uxc c 127.0.0.1 x f", 35),
        (b"Ucx c 127.0.0.1 x f", 14),
        (b"Uel c 127.0.0.1 x f", 11),
        (b"Ule c 127.0.0.1 x f", 15),
        (b"Uz0l c 127.0.0.1 x f", 13),
        (b"Uz20l c 127.0.0.1 x f", 15),
        (b"U6x c 127.0.0.1 x f", 35),
        (b"U6 c 127.0.0.1 x f", 36),
    ],
)
def test_order_of_checks(text: bytes, code: int) -> None:
    assert refusal(text) == code


# Sub-commands (2.6)

SETTINGS_AND_DROPS: list[tuple[bytes, Subcommand]] = [
    (b"S ttl=30", SetTimeout(30, is_reverse=False)),
    (b"s ttl=1", SetTimeout(1, is_reverse=False)),
    (b"Sr ttl=007", SetTimeout(7, is_reverse=True)),
    (b"SR tos=16", SetTos(16, is_reverse=True)),
    (b"Sx tos=300", SetTos(300, is_reverse=False)),
    (b"S ttl=999999999", SetTimeout(999999999, is_reverse=False)),
    (b"D", DropReference(is_weak=False)),
    (b"dW", DropReference(is_weak=True)),
]


@pytest.mark.parametrize("command", [U, U + b" t", U + b" t ns tag", L, b"Q c f"])
@pytest.mark.parametrize(("text", "expected"), SETTINGS_AND_DROPS)
def test_settings_and_drops_follow_three_commands(command: bytes, text: bytes, expected: Subcommand) -> None:
    read = parse(command + b" && " + text)
    assert isinstance(read, UpdateCommand | LookupCommand | QueryCommand)
    assert read.subcommands == (expected,)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"L 192.0.2.1 5000", Answer(PLAIN)),
        (b"lW 192.0.2.1 5000", Answer(WEAK)),
        (b"C other f t", Feed(Query(b"other", b"f", b"t"))),
        (b"c other f t", Feed(Query(b"other", b"f", b"t"))),
    ],
)
def test_answer_and_fork_need_a_to_tag(text: bytes, expected: Subcommand) -> None:
    for with_to_tag in (U + b" t", U + b" t ns tag"):
        read = parse(with_to_tag + b" && " + text)
        assert isinstance(read, UpdateCommand)
        assert read.subcommands == (expected,)
    for without in (U, U + b" ns tag", L + b" t", b"Q c f t"):
        assert refusal(without + b" && " + text) == ErrorCode.SUBCOMMAND


def test_subcommands_keep_their_order() -> None:
    read = parse(U + b" t && S ttl=50 && L 192.0.2.1 5000 && D")
    assert isinstance(read, UpdateCommand)
    assert read.subcommands == (SetTimeout(50, is_reverse=False), Answer(PLAIN), DropReference(is_weak=False))


@pytest.mark.parametrize("command", [U + b" t", L + b" t", b"Q c f t"])
@pytest.mark.parametrize(
    "text",
    [
        *(b"S", b"S ttl=5 7", b"S ttl=5 x", b"Srr ttl=5", b"Sxx ttl=5", b"S ttl", b"S ttl=", b"S =5", b"S TTL=5"),
        *(b"S ttl=0", b"S ttl=-1", b"S ttl=1x", b"S ttl= 5", b"S tos=0", b"S foo=1", b"S ttl=\xb2", b"S ttl=1_0"),
        *(b"S ttl=" + 8000 * b"9", b"S xttl=5"),
        *(b"D x", b"Dz", b"Dwz"),
        *(b"Z", b"V", b"X", b"U", b"Q c f", b"P c p 0 f", b"\xff"),
        *(b"M1:1 x", b"M x", b"M0:1 x"),
        *(b"L", b"L 127.0.0.1", b"L 127.0.0.1 x", b"L 127.0.0.1 6 f", b"Lx 127.0.0.1 6", b"Lz0 127.0.0.1 6"),
        *(b"Lz20x 127.0.0.1 6", b"L6 127.0.0.1 6", b"L example.com 6", b"Ll{no} 127.0.0.1 6"),
        *(b"C", b"C a", b"C a f", b"C a f t x", b"Cx a f t"),
    ],
)
def test_subcommand_refused(command: bytes, text: bytes) -> None:
    assert refusal(command + b" && " + text) == ErrorCode.SUBCOMMAND
    assert refusal(command + b" && S ttl=5 && " + text + b" && D") == ErrorCode.SUBCOMMAND


class OneModule(NoModules):
    """Module 3 in two instances."""

    def has(self, number: int, instance: int) -> bool:
        return number == 3 and instance in (1, 2)


WITH_MODULE = Parser(LOCALS, OneModule())


@pytest.mark.parametrize("command", [U, U + b" t", L + b" t", b"Q c f t"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"M3:1 D", ModuleCommand(3, 1, (b"D",))),
        (b"m3:2", ModuleCommand(3, 2, ())),
        (b"M03:01 a%20b 101 h", ModuleCommand(3, 1, (b"a%20b", b"101", b"h"))),
        (b"M3:1" + b" x" * 22, ModuleCommand(3, 1, (b"x",) * 22)),
    ],
)
def test_a_module_that_runs_gets_its_arguments(command: bytes, text: bytes, expected: ModuleCommand) -> None:
    read = WITH_MODULE.parse(command + b" && S ttl=5 && " + text)
    assert isinstance(read, UpdateCommand | LookupCommand | QueryCommand)
    assert read.subcommands[1] == expected


@pytest.mark.parametrize("command", [U, U + b" t", L + b" t", b"Q c f t"])
@pytest.mark.parametrize(
    "text",
    [
        *(b"M3 x", b"M3: x", b"M:1 x", b"M x", b"M3:0 x", b"M3:3 x", b"M0:1 x", b"M1:1 x", b"M31 x", b"M3:1:1 x"),
        *(b"M-3:1 x", b"M+3:1", b"M3:1h x", b"M3 :1", b"M3.1 x", b"M\xb3:1", b"M" + 4000 * b"3" + b":1", b"M3:1" * 2),
    ],
)
def test_a_module_that_does_not_run_is_refused(command: bytes, text: bytes) -> None:
    with pytest.raises(CommandError) as caught:
        WITH_MODULE.parse(command + b" && M3:1 D && " + text)
    assert caught.value.code == ErrorCode.SUBCOMMAND


# Any bytes

LETTERS = st.sampled_from([b"U", b"L", b"D", b"Q", b"V", b"VF", b"I", b"G", b"X", b"P", b"S", b"C", b"R", b"N"])
MODIFIERS = st.lists(
    st.sampled_from([bytes([letter]) for letter in b"asw6eiczlrn[]{}.:,-%="])
    | st.sampled_from([b"l127.0.0.1", b"l[::1]", b"r[2001:db8::1]", b"l{x}", b"c0,8", b"z20"])
    | st.integers(0, 10**30).map(lambda number: b"%d" % number)
    | st.binary(max_size=3),
    max_size=8,
).map(b"".join)
TOKENS = (
    st.sampled_from([b"&&", b"127.0.0.1", b"::1", b"5000", b"f", b"0.0.0.0", b"ttl=5", b"S", b"D", b"L", b"%", b"%41"])
    | st.binary(max_size=12)
    | st.integers(1, 8000).map(lambda size: size * b"9")
)
ALMOST_COMMANDS = st.builds(
    lambda letter, modifiers, tokens: b" ".join([letter + modifiers, *tokens]),
    LETTERS,
    MODIFIERS,
    st.lists(TOKENS, max_size=30),
)
OFFERS = st.builds(lambda modifiers, tail: b"U%s c 127.0.0.1 %s" % (modifiers, tail), MODIFIERS, st.binary())


def outcome(text: bytes) -> Command | ErrorCode:
    try:
        return parse(text)
    except CommandError as error:
        return error.code


@given(text=st.binary(max_size=300) | ALMOST_COMMANDS | OFFERS)
def test_any_bytes_are_a_command_or_refused(text: bytes) -> None:
    assert isinstance(outcome(text), Command | ErrorCode)


@pytest.mark.parametrize(
    "filler",
    [b"9", b".", b"1.", b"[", b"[:", b"{", b"%41", b"%", b"a", b"l", b"l1", b"c0", b"z-", b" ", b"&& ", b"& "],
)
def test_the_longest_commands_keep_nobody_waiting(filler: bytes) -> None:
    """A pattern that backtracks over its text again and again would not finish."""
    for pattern in (b"U%s c 127.0.0.1 5 f t", b"U c %s 5 f t", b"U c 127.0.0.1 %s f t", b"U c 127.0.0.1 5 f t ns %s"):
        whole = pattern % (filler * ((8191 - len(pattern)) // len(filler)))
        assert isinstance(outcome(whole), Command | ErrorCode)
