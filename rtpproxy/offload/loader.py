"""Loads the programs of `bpf/relay.c` and their maps: compiled ones that were kept, else they are compiled now."""

import errno
import logging
import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rtpproxy.errors import OffloadError
from rtpproxy.offload.compiled import Compiled
from rtpproxy.offload.compiler import compile_programs
from rtpproxy.offload.kept import KeptPrograms, key_of
from rtpproxy.offload.layout import MapLayout, fingerprint
from rtpproxy.offload.passing import is_passing
from rtpproxy.offload.privilege import with_advice
from rtpproxy.offload.syscall import Map, Program, load_program, make_map, ring, why_refused

log = logging.getLogger(__name__)


class _Kind(NamedTuple):
    """What a program is for, and the numbers of its type and of what it is attached to (bpf(2))."""

    what: str
    number: int
    attachment: int = 0


TRACEPOINTS = {"on_sent": "xdp_devmap_xmit", "on_refused": "xdp_redirect_err"}
"""Functions that see frames which were not sent, and the tracepoint that each is for. The relay does without."""
_ARRAY_OF_MAPS = 12
_SCHED_CLS, _XDP, _RAW_TRACEPOINT, _SK_LOOKUP, _ATTACH_SK_LOOKUP = 3, 6, 17, 30, 36
_PROGRAMS = {
    "on_xdp": _Kind("XDP", _XDP),
    "on_tc": _Kind("TC", _SCHED_CLS),
    "on_tc_behind_xdp": _Kind("TC", _SCHED_CLS),
    "on_steer": _Kind("sk_lookup", _SK_LOOKUP, _ATTACH_SK_LOOKUP),
    **{function: _Kind(tracepoint, _RAW_TRACEPOINT) for function, tracepoint in TRACEPOINTS.items()},
}
FUNCTIONS = tuple(_PROGRAMS)
"""In `bpf/relay.c`: each is one program."""
_GEOMETRY_MACROS = (
    *("FIRST_PORT", "PORT_SPAN", "LOCAL_SLOTS", "ANY_IPV4_SLOT", "ANY_IPV6_SLOT"),
    *("FIRST_IPV4", "FIRST_IPV4_SLOT", "FIRST_IPV6", "FIRST_IPV6_SLOT"),
)
"""Macros that tell which row belongs to which port of which address."""
_LOGGED_LINES = 40
"""Last lines of what the verifier says of a program that is refused; the reason is at the end."""


class OnDemand:
    """Compiled programs, each of which is loaded when it is first asked for.

    The kernel takes a third of a start's processor time to verify the two programs for TC, and most hosts need none.
    """

    def __init__(self, compiled: Compiled, map_fds: Sequence[int], names: Mapping[str, str]) -> None:
        """`map_fds` are in the order of `compiled.maps`; `names` is what the kernel calls each of `FUNCTIONS`."""
        self.why_untraced = compiled.why_untraced
        """Why the programs for tracepoints were not compiled; empty where they were."""
        self._compiled = compiled
        self._map_fds = map_fds
        self._names = names
        self._fds: dict[str, int] = {}
        self._refused: dict[str, str] = {}

    def is_settled(self, function: str) -> bool:
        """True if a program was loaded or refused, so that `fd` returns or raises at once."""
        return function in self._fds or function in self._refused

    def fd(self, function: str) -> int:
        """Return the descriptor of a program. Raises OffloadError if the kernel refuses it, now or earlier."""
        if function in self._refused:
            raise OffloadError(self._refused[function])
        if function not in self._fds:
            code = self._compiled.code(function, self._map_fds)
            name = self._names.get(function, function)
            try:
                self._fds[function] = _load(_PROGRAMS[function], code, self._compiled.licence, name)
            except OffloadError as error:
                # Verifying takes a tenth of a second; only what may pass is tried again.
                if not is_passing(error):
                    self._refused[function] = str(error)
                raise
        return self._fds[function]

    def close(self) -> None:
        """Let go of all programs that were loaded; what is attached lives on."""
        for fd in self._fds.values():
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Maps with their layouts, and the programs that use them. The holder closes them."""

    programs: OnDemand
    map_fds: dict[str, int]
    layouts: dict[str, MapLayout]
    """Layouts of the same maps."""
    fingerprint: str
    """Equal where the contents of all maps mean the same (see `layout.fingerprint`)."""

    @property
    def xdp_fd(self) -> int:
        """The program for interfaces with XDP."""
        return self.programs.fd("on_xdp")

    @property
    def tc_fd(self) -> int:
        """The one for interfaces without XDP."""
        return self.programs.fd("on_tc")

    @property
    def tc_behind_xdp_fd(self) -> int:
        """The one for interfaces with XDP, where frames leave by an interface that takes no redirected ones."""
        return self.programs.fd("on_tc_behind_xdp")

    @property
    def steer_fd(self) -> int:
        """The one that hands packets for media ports to sockets."""
        return self.programs.fd("on_steer")

    def close(self) -> None:
        """Let go of all programs and maps; what is attached lives on."""
        self.programs.close()
        for fd in self.map_fds.values():
            os.close(fd)


def bpf_directory() -> Path:
    """The directory of `relay.c`: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "bpf", package.parent / "bpf"):
        if (directory / "relay.c").is_file():
            return directory
    raise OffloadError(f"bpf/relay.c is missing beside {package}: the installation is incomplete")


def load(
    macros: Mapping[str, str], names: Mapping[str, str] | None = None, *, directory: str = "", is_strict: bool = False
) -> Loaded:
    """Make the maps of the programs, compiled with the given macros.

    `names` is what the kernel calls each of `FUNCTIONS`, of at most 15 characters; else they have their own names.
    Compiled programs are kept in `directory`, or nowhere. `is_strict` turns compiler warnings into errors. Tests ask
    for that; a relay must start even if a newer compiler warns.

    Raises OffloadError with the reason in one line: no bcc, no privilege, an old kernel, a missing header.
    """
    return load_compiled(_compiled(bpf_directory(), macros, directory, is_strict=is_strict), macros, names or {})


def load_compiled(compiled: Compiled, macros: Mapping[str, str], names: Mapping[str, str]) -> Loaded:
    """Make the maps of programs that were compiled with the given macros, or nothing at all. Raises OffloadError."""
    with ExitStack() as on_failure:
        map_fds: dict[str, int] = {}
        for one in compiled.maps:
            map_fds[one.name] = _make(one)
            on_failure.callback(os.close, map_fds[one.name])
        on_failure.pop_all()
    geometry = {name: macros[name] for name in _GEOMETRY_MACROS if name in macros}
    programs = OnDemand(compiled, tuple(map_fds.values()), names)
    loaded = Loaded(programs, map_fds, compiled.layouts, fingerprint(compiled.layouts, geometry))
    log.debug("fingerprint of the BPF maps: %s", loaded.fingerprint)
    return loaded


def _compiled(sources: Path, macros: Mapping[str, str], directory: str, *, is_strict: bool) -> Compiled:
    """The programs that were kept for these sources and macros; else compile them, and keep them."""
    if not directory:
        return compile_programs(sources, macros, is_strict=is_strict)
    try:
        key = key_of(sources, macros, is_strict=is_strict)
    except OSError as error:
        raise OffloadError(
            f"cannot read the sources of the BPF programs: {error.filename}: {error.strerror}"
        ) from error
    files = KeptPrograms(directory)
    compiled = files.read(key)
    if compiled is None:
        compiled = compile_programs(sources, macros, is_strict=is_strict)
        files.write(key, compiled)
    return compiled


def _make(one: Map) -> int:
    try:
        if one.kind != _ARRAY_OF_MAPS:
            return make_map(one)
        ring_fd = make_map(ring(mmap.PAGESIZE))
        try:
            return make_map(one, ring_fd)
        finally:
            os.close(ring_fd)
    except OSError as error:
        raise OffloadError(f"cannot make the map {one.name}: {_reason(error)}") from error


def _load(kind: _Kind, code: bytes, licence: str, name: str) -> int:
    program = Program(kind.number, kind.attachment, code, licence, name)
    try:
        return load_program(program)
    except OSError as error:
        if log.isEnabledFor(logging.DEBUG):
            for line in why_refused(program)[-_LOGGED_LINES:]:
                log.debug("BPF verifier: %s", line)
        raise OffloadError(f"cannot load the program for {kind.what}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    reason = error.strerror or str(error)
    # Where no file can be opened, privileges cannot be looked at either.
    return reason if error.errno in (errno.EMFILE, errno.ENFILE) else with_advice(reason)
