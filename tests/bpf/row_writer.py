"""A process that changes one row between two contents as fast as it can, until its standard input ends."""

import operator
import pickle
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rtpproxy.offload.compiled import Compiled
from rtpproxy.offload.entry import ForwardingEntry, NextHop
from rtpproxy.offload.loader import Loaded, OnDemand
from rtpproxy.offload.maps import MappedArray
from rtpproxy.offload.tables import Tables
from tests.conftest import FIRST_PORT, LAST_PORT

CHANGES_A_LOOK = 200
NOTHING = Compiled(programs={}, maps=(), layouts={}, licence="", why_untraced="", compiler=())

Change = tuple[str, tuple[object, ...]]
"""Path to a method of Tables, and its arguments."""


@contextmanager
def row_writer(loaded: Loaded, changes: list[Change], *, is_sequenced: bool = True) -> Iterator[None]:
    """Apply `changes` in turn, over and over, in a process of its own, with or without `sequence`."""
    fds = loaded.map_fds.values()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bpf.row_writer"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=fds
    )
    try:
        pickle.dump((loaded.map_fds, loaded.layouts, changes, is_sequenced), process.stdin)
        process.stdin.flush()
        assert process.stdout.read(1) == b"."
        yield
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10.0)
    assert process.returncode == 0


def main() -> None:
    map_fds, layouts, changes, is_sequenced = pickle.load(sys.stdin.buffer)
    tables = Tables(Loaded(OnDemand(NOTHING, (), {}), map_fds, layouts, ""), FIRST_PORT, LAST_PORT)
    apply = _sequenced if is_sequenced else _unsequenced
    steps = [apply(tables, method, arguments) for method, arguments in changes]
    print(end=".", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(CHANGES_A_LOOK):
            for step in steps:
                step()


def _sequenced(tables: Tables, method: str, arguments: tuple[object, ...]) -> Callable[[], None]:
    change = operator.attrgetter(method)(tables)
    return lambda: change(*arguments)


def _unsequenced(tables: Tables, method: str, arguments: tuple[object, ...]) -> Callable[[], None]:
    """The same change as stores of single members, which a reader may see in between."""
    array, index = _place(tables, method, arguments)
    operator.attrgetter(method)(tables)(*arguments)
    places = [
        (array.layout.packer(name), array.offset(index, name)) for name in array.layout.members if name != "sequence"
    ]
    stores = [(packer, position, packer.unpack_from(array.memory, position)) for packer, position in places]

    def step() -> None:
        for packer, position, values in stores:
            packer.pack_into(array.memory, position, *values)

    return step


def _place(tables: Tables, method: str, arguments: tuple[object, ...]) -> tuple[MappedArray, int]:
    match method, arguments[0]:
        case "ports.install", ForwardingEntry(port=port):
            return tables.ports._rows, tables.ports.row(port)
        case "next_hops.write", int(number) if isinstance(arguments[1], NextHop):
            return tables.next_hops._rows, number
    raise ValueError(method)


if __name__ == "__main__":
    main()
