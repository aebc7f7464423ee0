"""Files in the syntax of libucl, as its README describes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.cli.ucl import MAX_DEPTH, Entry, Section, UclError, parse


def plain(section):
    """Write a section as nested lists of pairs, without lines."""

    def value(one):
        if isinstance(one, Section):
            return plain(one)
        return tuple(map(value, one)) if isinstance(one, tuple) else one

    return [(entry.key, value(entry.value)) for entry in section.entries]


def error_of(text):
    """Read a text. Returns the error, or None."""
    try:
        assert isinstance(parse(text), Section)
    except UclError as error:
        return error
    return None


def test_sections_keys_and_lines():
    text = """
        modules {
            acct_csv {}
            acct_rtcp_hep {  # a comment
                load = "/usr/lib/rtpp_acct_rtcp_hep.so" capt_host : 10.0.0.1
                capt_port 9060; capt_ptype = tcp, /* one /* in the other */ */ capt_id=0x65 }
        }"""
    hep = (
        Entry("load", "/usr/lib/rtpp_acct_rtcp_hep.so", 5),
        Entry("capt_host", "10.0.0.1", 5),
        Entry("capt_port", 9060, 6),
        Entry("capt_ptype", "tcp", 6),
        Entry("capt_id", 101, 6),
    )
    inner = (Entry("acct_csv", Section(), 3), Entry("acct_rtcp_hep", Section(hep), 4))
    assert parse(text) == Section((Entry("modules", Section(inner), 2),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n;,# nothing", []),
        ("/* nothing\n/* at */ all */", []),
        ("a = 1;b = 2,c = 3\nd = 4\r\ne = 5;", [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)]),
        ("a=\n\n  b", [("a", "b")]),
        ("a\n{\n}", [("a", [])]),
        ("a = {b = {c 1}}", [("a", [("b", [("c", 1)])])]),
        ("a : {}b : {}", [("a", []), ("b", [])]),
        ('{"a": {"b": [1, "2", {"c": null}]}, "d": false,}', [("a", [("b", (1, "2", [("c", None)]))]), ("d", False)]),
        ("a = 1\na = 2", [("a", 1), ("a", 2)]),
        ('site "www" one { b = c }', [("site", [("www", [("one", [("b", "c")])])])]),
        ('a "b" "c" = d', [("a", "b"), ("c", "d")]),
        ("a = [\n:80,\n:443;[]]", [("a", (":80", ":443", ()))]),
        ("a = word and word # comment", [("a", "word and word")]),
        ("a = x/y.so/* comment */b = 2", [("a", "x/y.so"), ("b", 2)]),
        ("size = *\nwhen = @T00\nmode = -", [("size", "*"), ("when", "@T00"), ("mode", "-")]),
        (r'a = "x\n\t\"\\\/\u00e9"', [("a", 'x\n\t"\\/é')]),
        (r"a = 'it\'s \n'", [("a", r"it's \n")]),
        ("a = <<EOD\nfirst\n second EOD\n\nEOD\nb = 1", [("a", "first\n second EOD\n"), ("b", 1)]),
        ("a = <<E\nE", [("a", "")]),
        ("a = <<eof", [("a", "<<eof")]),
        ("a = $HOME", [("a", "$HOME")]),
        ("a = é", [("a", "é")]),
    ],
)
def test_forms(text, expected):
    assert plain(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("0", 0), ("-7", -7), ("+7", 7), ("0x1F", 31), ("-0xff", -255), ("1.5", 1.5), ("1e3", 1000.0)),
        *(("10k", 10_000), ("10K", 10_000), ("1kb", 1024), ("2Mb", 2 << 20), ("1g", 10**9), ("1.5k", 1500.0)),
        *(("100ms", 0.1), ("2s", 2.0), ("10min", 600.0), ("1d", 86400.0), ("1w", 604800.0), ("1h", 3600.0)),
        *(("true", True), ("Yes", True), ("ON", True), ("false", False), ("no", False), ("off", False), ("null", None)),
        *(("10.0.0.1", "10.0.0.1"), ("10kk", "10kk"), ("0x", "0x"), ("1.", "1."), ("truely", "truely"), ("7 8", "7 8")),
        *(('"10"', "10"), ('"true"', "true"), ("'10'", "10"), ('""', "")),
    ],
)
def test_values(text, expected):
    (value,) = (entry.value for entry in parse(f"key = {text}").entries)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("modules {:\n a {} }", 1, "a key is expected, not ':'"),
        ("a = 1\n= 2", 2, "a key is expected, not '='"),
        ("a = 1\n}", 2, "a key is expected, not '}'"),
        ("{a = 1}\nb = 2", 2, "text behind the closing brace"),
        ("a {\nb = 1\n", 3, "a closing brace is missing"),
        ("a = [1,\n2", 2, "a closing bracket is missing"),
        ("\na\nb = 1", 2, "no value behind 'a'"),
        ("a =", 1, "a value is missing"),
        ("a;", 1, "a value is missing"),
        ('a = "b\nc"', 1, "a quotation mark is missing"),
        ("a = 'b", 1, "a quotation mark is missing"),
        ('a = "b"c', 1, "'c' behind a value"),
        ("a = b{c}", 1, "'{' behind a value"),
        ("a = $HOME/${x}", 1, "'{' behind a value"),
        ("a = <<EOD\nb\n EOD\n", 1, "no line EOD ends the text"),
        ("\n\n/* a /* b */", 3, "a comment is not closed"),
        (r'a = "\q"', 1, r"unknown escape \q"),
        ('a = 1\n.include "b"', 2, "macros such as .include are not understood"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text, line, reason):
    with pytest.raises(UclError) as caught:
        parse(text)
    assert (caught.value.line, str(caught.value)) == (line, f"line {line}: {caught.value.reason}")
    assert reason in caught.value.reason


@pytest.mark.parametrize(("start", "end"), [("a {", "}"), ("a = [", "]"), ("a b {", "}"), ("a = {", "}")])
def test_depth_is_bounded(start, end):
    most = MAX_DEPTH // (2 if " b " in start else 1)
    nest = lambda depth: start * depth + end * depth if "[" not in start else "a = " + "[" * depth + "]" * depth  # noqa: E731
    parse(nest(most))
    for depth in (most + 1, 100_000):
        with pytest.raises(UclError, match=f"more than {MAX_DEPTH} sections within each other"):
            parse(nest(depth))


@pytest.mark.parametrize(
    "filler",
    [
        *("a", "a ", 'a "b" ', '"', "'", "/*", "*/", "{", "}", "[", ";", "#", "\n", "a=1;", "a {}", "9", "9e", "<<A\n"),
        *("a b ", '"\\', "/* */", "a=<<A\nA\n", " ", "-", "0x"),
    ],
)
def test_the_longest_files_are_read_at_once(filler):
    """A pattern that goes over the text again and again would not finish."""
    for start in ("", "a = ", "a ", "a {"):
        text = start + filler * (200_000 // len(filler))
        error = error_of(text)
        assert error is None or 1 <= error.line <= text.count("\n") + 1


ALMOST = st.lists(
    st.sampled_from(
        [
            *(
                "modules",
                "{",
                "}",
                "[",
                "]",
                "=",
                ":",
                ";",
                ",",
                "\n",
                " ",
                "#",
                "/*",
                "*/",
                '"',
                "'",
                "\\",
                "\\u12",
                "<<",
            ),
            *("<<EOD\n", "EOD", "10k", "0x1f", "true", "a", ".include", "$", "\0", "\t", "\r", "é", "\ud800", "/"),
        ]
    )
    | st.text(max_size=5),
    max_size=60,
).map("".join)


@given(ALMOST | st.text())
def test_any_text_is_read_or_refused(text):
    error = error_of(text)
    assert error is None or (1 <= error.line <= text.count("\n") + 1 and "\n" not in str(error))


KEYS = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
VALUES = st.recursive(
    st.integers(-(10**9), 10**9) | st.booleans() | st.none() | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: st.lists(st.tuples(KEYS, inner), max_size=3) | st.lists(inner, max_size=3).map(tuple),
    max_leaves=10,
)


@st.composite
def written(draw, value):
    """Write a value in any of the ways that mean it."""
    if isinstance(value, list):
        parts = [f"{key}{draw(st.sampled_from([' = ', ': ', ' ']))}{draw(written(one))}" for key, one in value]
        ends = [draw(st.sampled_from([";", ",", "\n", " ;\n", "# comment\n", ",/* x */"])) for _ in parts]
        return "{" + "".join(map("".join, zip(parts, ends, strict=True))) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(draw(written(one)) for one in value) + "]"
    if isinstance(value, str):
        for before, after in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
            value = value.replace(before, after)
        return f'"{value}"'
    if isinstance(value, bool):
        return draw(st.sampled_from(["true", "yes", "on"] if value else ["false", "no", "off"]))
    return "null" if value is None else str(value)


@given(st.data(), st.lists(st.tuples(KEYS, VALUES), max_size=4))
def test_what_is_written_is_read(data, entries):
    text = data.draw(written(entries))
    assert plain(parse(text)) == entries
    assert plain(parse(text[1:-1])) == entries
