import pytest
from generator.reading import read_address, read_flood, read_hold, read_rebinding, read_tos, read_ttl
from generator.settings import Flood, Hold, Rebinding


def test_values():
    assert (read_address("FD00:0::1"), read_address("")) == ("fd00::1", "")
    assert read_tos("0xb8") == (0xB8, 0xB8)
    assert read_tos("184/0") == (184, 0)
    assert read_tos("any") == (None, None)
    assert (read_ttl("64"), read_ttl("any")) == (64, None)
    assert read_rebinding("2.5") == Rebinding(2.5, "caller")
    assert read_rebinding("callee:1") == Rebinding(1, "callee")
    assert read_rebinding("callee:address:1") == Rebinding(1, "callee", changes_address=True)
    assert read_hold("5:3") == Hold(5, 3)
    assert read_flood("50000:5:2.5") == Flood(50000, 5, 2.5)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_address, "relay"),
        *((read_tos, text) for text in ("256", "1/2/3", "x", "")),
        *((read_ttl, text) for text in ("0", "256", "x")),
        *((read_rebinding, text) for text in ("caller", "nobody:1", "caller:mac:1", "caller:port:x:1", "-1", "nan")),
        *((read_hold, text) for text in ("5", "5:x", ":", "5:-1")),
        *((read_flood, text) for text in ("5", "0:1:1", "5:1", "x:1:1", "5:1:inf")),
    ],
)
def test_mistakes(read, text):
    with pytest.raises(ValueError, match=r".+"):
        read(text)
