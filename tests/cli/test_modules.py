"""Which modules a configuration file and names of module files ask for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.cli.modules import MAX_FILE_BYTES, read_configuration, read_module_file
from rtpproxy.config import CdrSettings, DtmfSettings, HepSettings, HepTransport
from rtpproxy.errors import ConfigError

HEP = "modules { acct_rtcp_hep { %s } }"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("log { level = 5 } other = 1", ()),
        ("modules {}", ()),
        ("modules { acct_csv {} }", (CdrSettings("rtpproxy_acct.csv"),)),
        ("MODULES { catch_dtmf {} acct_csv {} }", (DtmfSettings(), CdrSettings())),
        ("modules { acct_csv {} } modules { catch_dtmf { } }", (CdrSettings(), DtmfSettings())),
        ("modules { acct_rtcp_hep {} acct_rtcp_hep {} }", (HepSettings(), HepSettings())),
        ("modules { x { load = ../modules/.libs/rtpp_acct_csv_debug.so } }", (CdrSettings(),)),
        ('modules { acct_csv { load = "/no/where/rtpp_catch_dtmf.so" } }', (DtmfSettings(),)),
        ("modules = { acct_csv : {} }", (CdrSettings(),)),
        (HEP % "", (HepSettings("10.0.0.1", 9060, HepTransport.UDP, 101),)),
        (
            HEP
            % "load = rtpp_acct_rtcp_hep.so\ncapt_host = homer.example\nCAPT_PORT = 9k\ncapt_ptype=tcp;capt_id = 0x7",
            (HepSettings("homer.example", 9000, HepTransport.TCP, 7),),
        ),
        (HEP % "capt_id = 4294967295; capt_port = 65535", (HepSettings(port=65535, capture_id=(1 << 32) - 1),)),
    ],
)
def test_configurations(text, expected):
    assert read_configuration(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("modules { acct_csv {}\n\n dtls_gw {} }", "line 3: module dtls_gw is not supported; leave it out to start"),
        ("modules { ice_lite {} }", "line 1: module ice_lite is not supported; leave it out to start without"),
        ("modules {\nacct {} }", "line 2: unknown module 'acct'; the modules are acct_csv, acct_rtcp_hep, catch_dtmf"),
        ("modules {\nACCT_CSV {} }", "line 2: unknown module 'ACCT_CSV'"),
        (
            "modules {\nacct_csv {\nload = /x/acct_csv.so } }",
            "line 3: acct_csv: load: 'acct_csv.so' is no module, whose",
        ),
        ("modules { a { load = /x/rtpp_y.so } }", "line 1: a: load: unknown module 'y'; the modules are"),
        ("modules { a { load = rtpp_dtls_gw.so } }", "line 1: a: load: module dtls_gw is not supported"),
        ("modules { a { load = 5 } }", "line 1: a: load: a text is expected"),
        ("modules { acct_csv = yes }", "line 1: acct_csv: a section in braces is expected"),
        ("\nmodules = 5", "line 2: modules: a section in braces is expected"),
        ("modules { acct_csv {\npath = /x } }", "line 2: acct_csv: path: module acct_csv has no such key"),
        ("modules { catch_dtmf { capt_id = 1 } }", "line 1: catch_dtmf: capt_id: module catch_dtmf has no such key"),
        (HEP % "unknown = 123", "line 1: acct_rtcp_hep: unknown: module acct_rtcp_hep has no such key"),
        (HEP % "capt_id = 1\ncapt_ID = 1", "line 2: acct_rtcp_hep: capt_ID is given twice"),
        (HEP % "load=rtpp_acct_rtcp_hep.so\nload=x", "line 2: acct_rtcp_hep: load is given twice"),
        (HEP % "capt_host = 10", "line 1: acct_rtcp_hep: capt_host: a text is expected"),
        (HEP % 'capt_host = ""', "line 1: acct_rtcp_hep: capt_host: a text is expected"),
        (HEP % "capt_port = 0", "line 1: acct_rtcp_hep: capt_port: 0 is out of range: 1 to 65535 is allowed"),
        (HEP % "capt_port = 65536", "capt_port: 65536 is out of range"),
        (HEP % 'capt_port = "9060"', "capt_port: a whole number is expected, without quotation marks"),
        (HEP % "capt_port = 90.6", "capt_port: a whole number is expected"),
        (HEP % "capt_port = yes", "capt_port: a whole number is expected"),
        (HEP % "capt_port = {}", "capt_port: a whole number is expected"),
        (HEP % "capt_port = [9060]", "capt_port: a whole number is expected"),
        (HEP % "capt_ptype = sctp", "line 1: acct_rtcp_hep: capt_ptype: 'sctp' is not one of udp, tcp"),
        (HEP % "capt_id = -1", "capt_id: -1 is out of range"),
        (HEP % "capt_id = 4294967296", "capt_id: 4294967296 is out of range"),
        ("modules {\nacct_csv {", "line 2: a closing brace is missing"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_key(text, message):
    with pytest.raises(ConfigError) as caught:
        read_configuration(text.encode())
    assert message in str(caught.value)


def test_bytes_that_are_no_text_and_files_that_are_too_long():
    with pytest.raises(ConfigError, match=r"^line 3: not UTF-8$"):
        read_configuration(b"a = 1\n\n\xff")
    assert read_configuration(b"#" * MAX_FILE_BYTES) == ()
    with pytest.raises(ConfigError, match="longer than"):
        read_configuration(b"#" * (MAX_FILE_BYTES + 1))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rtpp_acct_csv.so", CdrSettings()),
        ("/usr/lib/rtpproxy/rtpp_acct_csv_debug.so", CdrSettings()),
        ("../rtpp_catch_dtmf.so", DtmfSettings()),
        ("rtpp_acct_rtcp_hep.so", "this module needs a configuration; leave this out, and use --hep or --config"),
        ("x/rtpp_dtls_gw.so", "module dtls_gw is not supported; leave it out"),
        ("rtpp_ice_lite_debug.so", "module ice_lite is not supported; leave it out"),
        ("rtpp_x.so", "unknown module 'x'; the modules are acct_csv"),
        ("acct_csv", "'acct_csv' is no module, whose file is named rtpp_NAME.so"),
        ("rtpp_acct_csv.so.1", "'rtpp_acct_csv.so.1' is no module"),
        ("rtpp_acct_csv.so/", "'' is no module"),
        ("", "'' is no module"),
    ],
)
def test_module_files(path, expected):
    if isinstance(expected, str):
        with pytest.raises(ConfigError) as caught:
            read_module_file(path)
        assert str(caught.value).startswith(expected)
    else:
        assert read_module_file(path) == expected


WORDS = st.sampled_from(
    [
        *(
            "modules",
            "acct_csv",
            "acct_rtcp_hep",
            "load",
            "capt_port",
            "capt_ptype",
            "capt_id",
            "dtls_gw",
            "udp",
            "9060",
        ),
        *("{", "}", "{ ", " = ", "\n", ";", '"', "rtpp_acct_csv.so", "[", "]", "\\", "#", "/*"),
    ]
)


@given(st.binary() | st.lists(WORDS, max_size=40).map(lambda words: "".join(words).encode()))
def test_any_bytes_are_settings_or_refused(content):
    try:
        made = read_configuration(content)
    except ConfigError:
        return
    assert all(isinstance(one, CdrSettings | HepSettings | DtmfSettings) for one in made)
