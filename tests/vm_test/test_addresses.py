import pytest
from generator.addresses import ControlAddress, read_control, read_range, read_tags


@pytest.mark.parametrize(
    ("text", "first", "count"),
    [
        ("10.0.1.10", "10.0.1.10", 1),
        ("10.0.1.250-10.0.2.3", "10.0.1.250", 10),
        ("fd00::10-fd00::1f", "fd00::10", 16),
        ("10.0.1.0/29", "10.0.1.1", 6),
        ("10.0.1.4/32", "10.0.1.4", 1),
    ],
)
def test_ranges(text, first, count):
    addresses = read_range(text)
    assert (str(addresses[0]), addresses.count) == (first, count)


@pytest.mark.parametrize("text", ["", "phone", "10.0.1.9-10.0.1.8", "10.0.1.1-fd00::1", "10.0.1.1-"])
def test_no_ranges(text):
    with pytest.raises(ValueError, match=r".+"):
        read_range(text)


def test_tags_are_told_from_outside_in():
    assert read_tags("100") == ((0x8100, 100),)
    assert read_tags("200.100") == ((0x88A8, 200), (0x8100, 100))


@pytest.mark.parametrize("text", ["", "0", "4095", "1.2.3", "a", "1."])
def test_no_tags(text):
    with pytest.raises(ValueError, match="VLAN"):
        read_tags(text)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("unix:/run/r.sock", ControlAddress("unix", path="/run/r.sock")),
        ("cunix:/run/r.sock", ControlAddress("unix", path="/run/r.sock", is_line_stream=True)),
        ("udp:10.0.0.1:9", ControlAddress("udp", "10.0.0.1", 9)),
        ("udp:relay", ControlAddress("udp", "relay", 22222)),
        ("udp:[fd00::1]:9", ControlAddress("udp", "fd00::1", 9)),
        ("udp:[fd00::1]", ControlAddress("udp", "fd00::1", 22222)),
        ("udp6:fd00::1:9", ControlAddress("udp", "fd00::1", 9)),
        ("tcp:[fd00::1]:9", ControlAddress("tcp", "fd00::1", 9, is_line_stream=True)),
    ],
)
def test_control_sockets(text, read):
    assert read_control(text) == read


@pytest.mark.parametrize("text", ["", "unix:", "/run/r.sock", "udp:h:0", "udp:h:x", "udp:fd00::1:9", "http:h:80"])
def test_no_control_sockets(text):
    with pytest.raises(ValueError, match="control socket"):
        read_control(text)


def test_a_control_socket_is_written_as_it_is_read():
    for text in ("unix:/a", "cunix:/a", "udp:h:9", "tcp:[fd00::1]:9"):
        assert str(read_control(text)) == text
