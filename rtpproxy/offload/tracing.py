"""Counts the frames of our XDP program that drivers do not send, by programs at the kernel's tracepoints.

They are attached together with loading the XDP program, because both need the same privilege.
"""

import os

from rtpproxy.errors import OffloadError
from rtpproxy.offload.loader import TRACEPOINTS, Loaded
from rtpproxy.offload.maps import CalledMap
from rtpproxy.offload.syscall import attach_tracepoint, program_id


class Traced:
    """The programs of a relay, as `loader.OnDemand` has them; loading that for XDP attaches to tracepoints, too."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._is_tried = False
        self._links: list[int] = []
        self.why_not = ""
        """Why not all frames can be seen that are not sent, once the XDP program is loaded; empty where all are."""

    def is_settled(self, function: str) -> bool:
        """True if a program was loaded or refused, so that `fd` returns or raises at once."""
        return self._loaded.programs.is_settled(function)

    def fd(self, function: str) -> int:
        """Return the descriptor of a program. Raises OffloadError if the kernel refuses it, now or earlier."""
        fd = self._loaded.programs.fd(function)
        if function == "on_xdp" and not self._is_tried:
            self._is_tried = True
            self.why_not = self._loaded.programs.why_untraced or self._attach(program_id(fd))
        return fd

    def close(self) -> None:
        """Detach from the tracepoints."""
        for link in self._links:
            os.close(link)

    def _attach(self, own: int) -> str:
        loaded, name = self._loaded, ""
        try:
            CalledMap(loaded.map_fds["own_program"], loaded.layouts["own_program"]).write(0, own)
            for function, name in TRACEPOINTS.items():
                self._links.append(attach_tracepoint(loaded.programs.fd(function), name))
        except OSError as error:
            return f"tracepoint {name}: {error.strerror}"
        except OffloadError as error:
            return str(error)
        return ""
