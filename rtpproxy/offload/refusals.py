"""Counts frames that drivers refused to send for XDP, by interface."""

from rtpproxy.offload.layout import NUMBER
from rtpproxy.offload.loader import Loaded
from rtpproxy.offload.maps import CalledMap


class Refusals:
    """Reads what the programs at the tracepoints counted; nothing where these could not be attached."""

    def __init__(self, loaded: Loaded) -> None:
        self._map = CalledMap(loaded.map_fds["refused_frames"], loaded.layouts["refused_frames"])

    def count(self, index: int) -> int:
        """Frames that the driver of an interface refused since the programs were loaded, by the interface's index."""
        try:
            return self._map.read_sums(index, 1)[NUMBER]
        except FileNotFoundError:
            return 0  # an index beyond the map: nobody counts there
