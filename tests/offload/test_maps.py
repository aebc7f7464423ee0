"""Maps by their layouts: what is written through them is what is read."""

import pytest

from rtpproxy.offload.maps import CalledMap, MappedArray, SequencedArray
from rtpproxy.offload.syscall import map_write, possible_cpus
from tests.conftest import load_programs

pytestmark = [pytest.mark.root, pytest.mark.kernel]

WHOLE = {"ifindex": 7, "xdp_ifindex": 8, "mtu": 1500, "to_mac": b"abcdef", "from_mac": b"ghijkl"}


@pytest.fixture(scope="module")
def few():
    """Programs with few next hops and ports."""
    loaded = load_programs(MAX_NEXT_HOPS="4", FIRST_PORT="35000", PORT_SPAN="4")
    yield loaded
    loaded.close()


@pytest.fixture
def next_hops(few):
    return few.map_fds["next_hops"], few.layouts["next_hops"]


@pytest.fixture
def array(next_hops):
    array = MappedArray(*next_hops)
    yield array
    array.close()


def test_mapped_array_is_the_map(array, next_hops):
    called = CalledMap(*next_hops)
    called.write(2, WHOLE)
    assert array.entries == 4
    start = array.offset(2)
    assert array.layout.unpack(array.memory[start : start + array.layout.size]) == {
        **{"sequence": 0, "tags": bytes(8), "tag_bytes": 0, "reserved": bytes(24)},
        **WHOLE,
    }
    column = array.column("mtu")
    assert column.tolist() == [0, 0, 1500, 0]
    called.write(3, {"mtu": 9000})
    assert column.tolist() == [0, 0, 1500, 9000]
    del column


def test_reading_by_call(next_hops):
    called = CalledMap(*next_hops)
    called.write(1, {"mtu": 1280})
    assert called.layout.value.unpack(called.read(1))["mtu"] == 1280
    with pytest.raises(FileNotFoundError):
        called.read(4)


@pytest.mark.parametrize("data", [b"", b"x", bytes(63), bytes(65)], ids=len)
def test_bytes_of_another_length_are_refused(next_hops, data):
    """The kernel would read what lies behind them."""
    called = CalledMap(*next_hops)
    with pytest.raises(ValueError, match=f"^the layout has 64 bytes, not {len(data)}$"):
        called.write(1, data)
    for call in (called.read, called.delete, lambda key: called.write(key, {})):
        with pytest.raises(ValueError, match=f"^the layout has 4 bytes, not {len(data)}$"):
            call(data)


def test_numbers_are_those_of_the_column(array, next_hops):
    CalledMap(*next_hops).write(2, WHOLE)
    numbers, column = array.numbers("mtu"), array.column("mtu")
    assert list(numbers) == column.tolist()
    assert (type(numbers[2]), numbers[2]) == (int, 1500)
    CalledMap(*next_hops).write(2, {"mtu": 9000})
    assert numbers[2] == 9000
    numbers.release()
    del column


def test_sums_over_all_cpus(few):
    layout, cpus = few.layouts["verdicts"].value, possible_cpus()
    key = few.layouts["verdicts"].key.pack_number(0)
    map_write(few.map_fds["verdicts"], key, cpus * layout.pack({"up_vlan": 1 << 62, "dropped_no_memory": 3}))
    sums = CalledMap(few.map_fds["verdicts"], few.layouts["verdicts"]).read_sums(0, cpus)
    assert sums == {**dict.fromkeys(layout.members, 0), "up_vlan": cpus << 62, "dropped_no_memory": 3 * cpus}


def test_deleting(few):
    called = CalledMap(few.map_fds["links"], few.layouts["links"])
    called.write({"ifindex": 77}, {"mac": b"abcdef"})
    assert called.read({"ifindex": 77}) == b"abcdef" + bytes(6)
    called.delete({"ifindex": 77})
    with pytest.raises(FileNotFoundError):
        called.delete({"ifindex": 77})


def test_sequence_is_odd_while_an_element_changes(array):
    writer = SequencedArray(array, "ifindex", "mtu")
    sequence = array.column("sequence")
    start = int(sequence[0])
    writer.write(0, 5, 1400)
    assert (sequence[0], array.column("ifindex")[0], array.column("mtu")[0]) == (start + 2, 5, 1400)
    writer.begin(0)
    writer.begin(0)
    assert sequence[0] == start + 3
    writer.end(0)
    assert sequence[0] == start + 4
    assert sequence[1:].tolist() == [0, 0, 0]
    writer.release()
    del sequence
