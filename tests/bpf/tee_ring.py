"""A ring that the loaded programs write to, for one test."""

import contextlib
from collections.abc import Iterator

from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.maps import CalledMap
from rtpproxy.offload.tee import Tee
from rtpproxy.recording.ring import Ring


class Written(list[tuple[int, bytes]]):
    """Records as pairs of the tee's number and the packet; `times` are those of their arrival."""

    def __init__(self, ring: Ring, most: int = 1 << 30) -> None:
        super().__init__()
        self.times = []
        for arrived_ns, tee, packet in ring.records(most):
            self.append((tee, bytes(packet)))
            self.times.append(arrived_ns)


@contextlib.contextmanager
def open_ring(loaded: Loaded, size_bytes: int) -> Iterator[Ring]:
    """Make a ring, and take it from the programs at the end, which other tests have, too."""
    rings = CalledMap(loaded.map_fds["tee_rings"], loaded.layouts["tee_rings"])
    with contextlib.closing(Tee(loaded, size_bytes)) as tee, contextlib.closing(Ring(*tee.open())) as ring:
        yield ring
        rings.delete(0)
