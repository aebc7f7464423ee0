"""Listen addresses, labels, advertised names and bridge mode (protocol.md 7.2, 7.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtpproxy.cli.media_addresses import Asked, Listening, read_listening
from rtpproxy.config import ListenAddress
from rtpproxy.errors import ConfigError

NAMES = {
    ("in.example", False): "10.0.0.1",
    ("in.example", True): "fd00::1",
    ("any.example", False): "0.0.0.0",
    ("link.example", True): "fe80::1%2",
}
A, B = ListenAddress("10.0.0.1"), ListenAddress("192.0.2.1")
A6, B6 = ListenAddress("fd00::1", is_ipv6=True), ListenAddress("2001:db8::1", is_ipv6=True)


def resolve(name, is_ipv6):
    try:
        return NAMES[name, is_ipv6]
    except KeyError:
        raise ConfigError("and not found as a name: nobody knows it") from None


def read(*options, advertised=None):
    """Read `-l` and `-6` with their arguments, as on a command line."""
    pairs = zip(options[::2], options[1::2], strict=True)
    return read_listening([Asked(text, flag == "-6") for flag, text in pairs], advertised, resolve)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (ListenAddress(),)),
        (("-l", "*"), (ListenAddress(),)),
        (("-l", "0.0.0.0"), (ListenAddress(),)),
        (("-l", "any.example"), (ListenAddress(),)),
        (("-6", "*"), (ListenAddress(is_ipv6=True),)),
        (("-6", "::"), (ListenAddress(is_ipv6=True),)),
        (("-6", "::1"), (ListenAddress("::1", is_ipv6=True),)),
        (("-l", "10.0.0.1"), (A,)),
        (("-l", "10.1"), (A,)),
        (("-6", "FD00:0::1"), (A6,)),
        (("-l", "in.example"), (A,)),
        (("-6", "in.example"), (A6,)),
        (("-l", "a@10.0.0.1=192.0.2.9"), (ListenAddress("10.0.0.1", False, "a", "192.0.2.9"),)),
        (("-l", "10.0.0.1=relay.example"), (ListenAddress("10.0.0.1", advertised="relay.example"),)),
        (("-6", "a@::1=x=y"), (ListenAddress("::1", True, "a", "x=y"),)),
        (("-l", "a@b@10.0.0.1"), (ListenAddress("10.0.0.1", label="a@b"),)),
        (("-l", "10.0.0.1", "-6", "x@fd00::1"), (A, ListenAddress("fd00::1", True, "x"))),
        (("-6", "fd00::1", "-l", "x@10.0.0.1"), (A6, ListenAddress("10.0.0.1", label="x"))),
        (
            ("-l", "a@10.0.0.1=p", "-l", "b@10.0.0.1=q"),
            (
                ListenAddress("10.0.0.1", label="a", advertised="p"),
                ListenAddress("10.0.0.1", label="b", advertised="q"),
            ),
        ),
    ],
)
def test_addresses(options, expected):
    assert read(*options) == Listening(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("-l", "10.0.0.1/192.0.2.1"), (A, B)),
        (("-l", "in.example/192.0.2.1"), (A, B)),
        (("-6", "fd00::1/2001:db8::1"), (A6, B6)),
        (("-l", "10.0.0.1", "-6", "/2001:db8::1"), (A, B6)),
        (("-6", "/2001:db8::1", "-l", "10.0.0.1"), (A, B6)),
        (("-6", "fd00::1", "-l", "/192.0.2.1"), (A6, B)),
        (("-l", "10.0.0.1/", "-6", "/2001:db8::1"), (A, B6)),
        (("-l", "*/192.0.2.1"), (ListenAddress(), B)),
    ],
)
def test_bridge_mode(options, expected):
    assert read(*options) == Listening(expected, is_bridging=True)


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        (("-l", "*", "-6", "/::"), (ListenAddress(), ListenAddress(is_ipv6=True))),
        (("-6", "/::", "-l", "*"), (ListenAddress(), ListenAddress(is_ipv6=True))),
        (("-l", "10.0.0.1/192.0.2.1"), (A, B)),
        (("-6", "fd00::1/2001:db8::1"), (A6, B6)),
    ],
)
def test_further_addresses_of_bridge_mode(options, ends):
    """They come after the two ends, in the order of the options."""
    others = ("-l", "one@127.0.0.1", "-6", "three@::1=1:2:3", "-l", "two@127.0.0.1=1.2.3.4")
    expected = (
        ListenAddress("127.0.0.1", label="one"),
        ListenAddress("::1", True, "three", "1:2:3"),
        ListenAddress("127.0.0.1", label="two", advertised="1.2.3.4"),
    )
    assert read(*options, *others) == Listening((*ends, *expected), is_bridging=True)


def test_advertised_names_of_bridge_mode():
    made = read("-l", "10.0.0.1/192.0.2.1", advertised="in.example/198.51.100.7")
    assert [address.advertised for address in made.addresses] == ["in.example", "198.51.100.7"]


def test_advertised_name_has_no_effect_outside_bridge_mode():
    assert read("-l", "10.0.0.1", advertised="192.0.2.1") == read("-l", "10.0.0.1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-l", ""), "-l : the address is empty"),
        (("-l", "a@"), "-l a@: the address is empty"),
        (("-l", "=b"), "-l =b: the address is empty"),
        (("-l", "@10.0.0.1"), "the label '' is empty"),
        (("-l", "a b@10.0.0.1"), "the label 'a b'"),
        (("-l", "a}@10.0.0.1"), "the label 'a}'"),
        (("-l", "10.0.0.1="), "the advertised name '' is empty"),
        (("-l", "10.0.0.1=a b"), "the advertised name 'a b'"),
        (("-l", "::1"), "-l ::1: an IPv6 address; give it with -6"),
        (("-6", "10.0.0.1"), "-6 10.0.0.1: an IPv4 address; give it with -l"),
        (("-l", "nobody"), "-l nobody: not an IPv4 address, and not found as a name: nobody knows it"),
        (("-6", "nobody"), "-6 nobody: not an IPv6 address, and not found as a name: nobody knows it"),
        (("-6", "fe80::1%eth0"), "-6 fe80::1%eth0: not an IPv6 address"),
        (("-6", "link.example"), "-6 link.example: fe80::1%2 is valid on one link only"),
        (("-6", "::ffff:10.0.0.1"), "-6 ::ffff:10.0.0.1: an IPv4 address; give it as 10.0.0.1 with -l"),
        (("-l", "224.0.0.1"), "-l 224.0.0.1: a multicast address"),
        (("-6", "ff02::1"), "-6 ff02::1: a multicast address"),
        (("-l", "10.0.0.1", "-l", "10.0.0.2"), "-l 10.0.0.2: address label is missing"),
        (("-l", "10.0.0.1", "-6", "fd00::1"), "-6 fd00::1: address label is missing"),
        (("-6", "fd00::1", "-l", "10.0.0.1"), "-l 10.0.0.1: address label is missing"),
        (("-l", "a@10.0.0.1", "-6", "a@fd00::1"), "-6 a@fd00::1: the label 'a' is given twice"),
        (("-l", "10.0.0.1", "-l", "a@10.0.0.2", "-l", "a@10.0.0.3"), "-l a@10.0.0.3: the label 'a' is given twice"),
        (("-l", "10.0.0.1", "-l", "10.0.0.2/10.0.0.3"), "A/B must be the first -l or the first -6"),
        (("-l", "/192.0.2.1"), "-l /192.0.2.1: bridge mode needs one internal and one external address"),
        (("-l", "10.0.0.1/"), "needs one internal and one external"),
        (("-l", "/"), "needs one internal and one external"),
        (("-l", "10.0.0.1/192.0.2.1", "-6", "fd00::1"), "-6 fd00::1: address label is missing"),
        (("-l", "10.0.0.1/192.0.2.1", "-l", "10.0.0.3"), "-l 10.0.0.3: address label is missing"),
        (("-l", "10.0.0.1/192.0.2.1", "-l", "a@10.0.0.3", "-l", "a@10.0.0.4"), "the label 'a' is given twice"),
        (("-l", "10.0.0.1/192.0.2.1", "-6", "/fd00::1"), "needs one internal and one external"),
        (("-l", "10.0.0.1/192.0.2.1", "-l", "10.0.0.1/192.0.2.1"), "A/B must be the first -l or the first -6"),
        (("-l", "10.0.0.1/192.0.2.1/192.0.2.2"), "more than one /"),
        (("-l", "a@10.0.0.1/192.0.2.1"), "the ends of a bridge have no label, and -A says what is advertised"),
        (("-l", "10.0.0.1/192.0.2.1=x"), "the ends of a bridge have no label, and -A says what is advertised"),
        (("-l", "10.0.0.1/nobody"), "-l 10.0.0.1/nobody: not an IPv4 address"),
    ],
)
def test_unusable_addresses(options, words):
    with pytest.raises(ConfigError) as caught:
        read(*options)
    assert words in str(caught.value)


@pytest.mark.parametrize("advertised", ["", "a/", "/a", "/", "a/b/c", "a b", "a/b c", "é"])
@pytest.mark.parametrize("listen", ["10.0.0.1", "10.0.0.1/192.0.2.1"])
def test_unusable_advertised_names(listen, advertised):
    with pytest.raises(ConfigError, match=f"^-A {advertised}: a name, or two"):
        read("-l", listen, advertised=advertised)


def test_bridge_mode_needs_both_advertised_names():
    with pytest.raises(ConfigError, match=r"^-A a: bridge mode needs two advertised names"):
        read("-l", "10.0.0.1/192.0.2.1", advertised="a")


@given(st.lists(st.tuples(st.sampled_from(["-l", "-6"]), st.text("a@=/:.*1 ", max_size=12)), max_size=3), st.text("a/"))
def test_whatever_is_given_is_read_or_refused(pairs, advertised):
    try:
        made = read(*(part for pair in pairs for part in pair), advertised=advertised)
    except ConfigError:
        return
    labels = [address.label for address in made.addresses]
    own = labels[2:] if made.is_bridging else labels
    assert len(set(own)) == len(own)
    assert len(made.addresses) in ((len(pairs), len(pairs) + 1) if made.is_bridging else (max(len(pairs), 1),))
