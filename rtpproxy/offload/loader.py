"""Compiles and loads `bpf/relay.c` in a short-lived child; the only file that imports bcc.

bcc maps a whole compiler into the process (some 135 MB), which the relay must not carry for years. So this
module is run as a child process: it compiles, loads, sends the descriptors of programs and maps over a socket pair
together with the layout of every map, and exits. Maps and programs live on in the parent's descriptors.
"""

import array
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rtpproxy.errors import OffloadError
from rtpproxy.offload.btf import member_offsets
from rtpproxy.offload.layout import NUMBER, Layout, MapLayout, fingerprint
from rtpproxy.offload.progress import Judgement, Progress

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""A compiler that hangs must not hang the relay, and one that hangs once must not keep it from using BPF."""
_LOOK_S = 1.0
"""Time between two looks at what the child has done."""
_MAPS = (
    *("port_rows", "port_hosts6", "port_counters", "port_events", "next_hops", "verdicts"),
    *("port_sources", "port_budgets", "host_budgets", "learning_budgets", "fragment_budgets"),
    *("local_slots", "host_addresses", "untagged_links", "links", "steered_sockets", "own_program", "refused_frames"),
)
_UTIME = 11
"""Place of the time in user mode behind the name of a process; that in the kernel is next."""
_SK_LOOKUP_TYPE, _SK_LOOKUP_ATTACH = 30, 36
_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 1 << 12, 1 << 21
_CAPS_TO_LOAD = (38, 39)
"""CAP_PERFMON and CAP_BPF; CAP_SYS_ADMIN stands for both."""
_MAX_MESSAGE_BYTES = 1 << 16
_LOGGED_LINES = 40
"""Last lines of what compiler and verifier say of a program that is refused; the reason is at the end."""
PROGRAM_MACROS = ("ON_XDP", "ON_TC", "ON_TC_BEHIND_XDP", "ON_STEER")
"""Name each program, in the order of their descriptors in `Loaded`."""
TRACEPOINTS = {"ON_SENT": "xdp_devmap_xmit", "ON_REFUSED": "xdp_redirect_err"}
"""Name each program that sees frames which were not sent, and the tracepoint that it is for. The relay does without."""
_MEMBERS = {
    "NET_DEVICE_IFINDEX": ("net_device", "ifindex"),
    "NET_DEVICE_XDP_STATE": ("net_device", "xdp_state"),
    "BPF_PROG_AUX": ("bpf_prog", "aux"),
    "BPF_PROG_AUX_ID": ("bpf_prog_aux", "id"),
}
"""Macros for the offsets that these programs need, and the kernel's names (`bpf/unsent.h`)."""
_TYPES_OF_KERNEL = Path("/sys/kernel/btf/vmlinux")
_GEOMETRY_MACROS = (
    *("FIRST_PORT", "PORT_SPAN", "LOCAL_SLOTS", "ANY_IPV4_SLOT", "ANY_IPV6_SLOT"),
    *("FIRST_IPV4", "FIRST_IPV4_SLOT", "FIRST_IPV6", "FIRST_IPV6_SLOT"),
)
"""Macros that tell which row belongs to which port of which address."""
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_DESCRIPTORS = len(PROGRAM_MACROS) + len(_MAPS)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Descriptors of what was loaded, and the maps' layouts. The holder closes the descriptors."""

    xdp_fd: int
    tc_fd: int
    """For interfaces without XDP."""
    tc_behind_xdp_fd: int
    """For interfaces with XDP, where frames leave by an interface that takes no redirected ones."""
    steer_fd: int
    map_fds: dict[str, int]
    layouts: dict[str, MapLayout]
    """Layouts of the same maps."""
    fingerprint: str
    """Equal where the contents of all maps mean the same (see `layout.fingerprint`)."""
    tracer_fds: dict[str, int] = field(default_factory=dict)
    """Programs that see frames which were not sent, by tracepoint; those that could be loaded."""
    why_untraced: str = ""
    """Why some of them could not be loaded; empty where all were."""

    def close(self) -> None:
        """Let go of all programs and maps; what is attached lives on."""
        programs = self.xdp_fd, self.tc_fd, self.tc_behind_xdp_fd, self.steer_fd, *self.tracer_fds.values()
        for fd in (*programs, *self.map_fds.values()):
            os.close(fd)


def bpf_directory() -> Path:
    """The directory of `relay.c`: inside the installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for directory in (package / "bpf", package.parent / "bpf"):
        if (directory / "relay.c").is_file():
            return directory
    raise OffloadError(f"bpf/relay.c is missing beside {package}: the installation is incomplete")


def load(defines: dict[str, str], *, is_strict: bool = False) -> Loaded:
    """Load the programs, compiled with the given macros; those in PROGRAM_MACROS name the programs.

    `is_strict` turns compiler warnings into errors. Tests ask for that; a relay must start even if a newer compiler
    warns.

    Raises OffloadError with the reason in one line: no bcc, no privilege, an old kernel, a missing header.
    """
    request = json.dumps({"defines": defines, "directory": str(bpf_directory()), "is_strict": is_strict})
    for attempt in range(1, ATTEMPTS):
        try:
            return _load(request, defines)
        except _StuckError as error:
            log.warning("%s; trying again (%d of %d)", error, attempt + 1, ATTEMPTS)
    return _load(request, defines)


class _StuckError(OffloadError):
    """The child got nowhere, and was killed; another one may succeed."""


def _load(request: str, defines: dict[str, str]) -> Loaded:
    """Load in one child. Raises OffloadError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = subprocess.Popen(
            # -P: root must not import modules from the working directory.
            [sys.executable, "-P", "-m", "rtpproxy.offload.loader", str(theirs.fileno()), request],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        messages = _wait_for(child, Progress())
        answer, fds = _receive(ours, messages.decode(errors="replace"))
    layouts = {
        name: MapLayout(_layout(key), _layout(value), entries)
        for name, (key, value, entries) in answer["layouts"].items()
    }
    geometry = {name: defines[name] for name in _GEOMETRY_MACROS if name in defines}
    xdp_fd, tc_fd, tc_behind_xdp_fd, steer_fd, *others = fds
    map_fds, tracer_fds = others[: len(_MAPS)], others[len(_MAPS) :]
    loaded = Loaded(
        *(xdp_fd, tc_fd, tc_behind_xdp_fd, steer_fd),
        *(dict(zip(_MAPS, map_fds, strict=True)), layouts, fingerprint(layouts, geometry)),
        *(dict(zip(answer["tracepoints"], tracer_fds, strict=True)), answer["why_untraced"]),
    )
    log.debug("fingerprint of the BPF maps: %s", loaded.fingerprint)
    return loaded


def _wait_for(child: "subprocess.Popen[bytes]", progress: Progress) -> bytes:
    """Wait for the end of the child. Returns what it wrote to standard error. Raises _StuckError after killing it."""
    while True:
        try:
            return child.communicate(timeout=_LOOK_S)[1]
        except subprocess.TimeoutExpired:
            judgement = progress.judge(_processor_s(child.pid), _LOOK_S)
        if judgement is not Judgement.WAIT:
            child.kill()
            child.communicate()
            raise _StuckError(f"the BPF programs cannot be loaded: {judgement.value}")


def _processor_s(process: int) -> float:
    """Processor time that a child which has not been waited for has used, in seconds (proc_pid_stat(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / os.sysconf("SC_CLK_TCK")


def _receive(ours: socket.socket, messages: str) -> tuple[dict[str, Any], list[int]]:
    """The child's answer; descriptors of programs, maps and tracers. Raises OffloadError with what the child says."""
    ours.setblocking(False)
    try:
        data, fds, _, _ = socket.recv_fds(ours, _MAX_MESSAGE_BYTES, _DESCRIPTORS + len(TRACEPOINTS))
    except BlockingIOError:
        data, fds = b"", []
    for fd in fds:
        os.set_inheritable(fd, False)
    if not data:
        *_, last = ["no message", *_lines(messages)]
        raise OffloadError(f"the BPF loader died: {last}")
    answer = json.loads(data)
    if "error" in answer:
        for line in _lines(messages)[-_LOGGED_LINES:]:
            log.debug("BPF loader: %s", line)
        raise OffloadError(answer["error"])
    if len(fds) < _DESCRIPTORS + len(answer["tracepoints"]):
        for fd in fds:
            os.close(fd)
        raise OffloadError("the descriptors of programs and maps did not all arrive: Too many open files")
    return answer, fds


def _layout(described: tuple[list[tuple[str, str, int]], int]) -> Layout:
    members, size = described
    return Layout({name: (form, offset) for name, form, offset in members}, size)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


# What follows runs in the child only.


def _child_main(channel_fd: int, request: str) -> None:
    channel = socket.socket(fileno=channel_fd)
    try:
        answer, fds = _compile_and_load(**json.loads(request))
    except OffloadError as error:
        answer, fds = {"error": str(error)}, []
    payload = [json.dumps(answer).encode()]
    if fds:
        channel.sendmsg(payload, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    else:
        channel.sendmsg(payload)


def _compile_and_load(defines: dict[str, str], directory: str, is_strict: bool) -> tuple[dict[str, Any], list[int]]:
    os.environ["BCC_KERNEL_SOURCE"] = str(Path(directory) / "kernel")
    try:
        from bcc import BPF, lib
    except ImportError:
        raise OffloadError(
            f"bcc is not installed for {sys.executable}: install Debian's python3-bpfcc "
            "and run from a virtual environment with system site packages"
        ) from None
    if not Path("/usr/include/linux/bpf.h").exists():
        raise OffloadError("the kernel's user API headers are missing: install Debian's linux-libc-dev")
    offsets, why_untraced = _kernel_offsets()
    flags = [
        f"-I{directory}",
        *("-isystem", "/usr/include"),
        *("-isystem", f"/usr/include/{os.uname().machine}-linux-gnu"),
        *(f"-D{name}={value}" for name, value in (defines | offsets).items()),
        *(_WARNINGS if is_strict else ("-Wno-macro-redefined",)),
    ]
    module = _attempt("compile", lambda: BPF(src_file=str(Path(directory) / "relay.c"), cflags=flags))
    kinds = (("XDP", BPF.XDP), ("TC", BPF.SCHED_CLS), ("TC", BPF.SCHED_CLS), ("sk_lookup", _SK_LOOKUP_TYPE))
    program_fds = []
    for macro, (what, kind) in zip(PROGRAM_MACROS, kinds, strict=True):
        options = {"attach_type": _SK_LOOKUP_ATTACH} if kind == _SK_LOOKUP_TYPE else {}
        step = _loading(module, defines[macro], kind, options)
        program_fds.append(_attempt(f"load the {what} program", step).fd)
    # bcc 0.26 has no Python class for a sockmap, so descriptors and layouts come from its C library.
    map_fds = [lib.bpf_table_fd(module.module, name.encode()) for name in _MAPS]
    layouts = {name: _describe_map(BPF, lib, module.module, name.encode()) for name in _MAPS}
    tracers = []
    try:
        for macro in TRACEPOINTS if offsets else ():
            step = _loading(module, defines.get(macro, macro.lower()), BPF.RAW_TRACEPOINT, {})
            tracers.append(_attempt(f"load the program for {TRACEPOINTS[macro]}", step).fd)
    except OffloadError as error:
        why_untraced = str(error)
    names = list(TRACEPOINTS.values())[: len(tracers)]
    answer = {"layouts": layouts, "tracepoints": names, "why_untraced": why_untraced}
    return answer, [*program_fds, *map_fds, *tracers]


def _kernel_offsets() -> tuple[dict[str, str], str]:
    """Make the macros of `_MEMBERS`. Returns none where the kernel does not tell, and why."""
    try:
        found = member_offsets(_TYPES_OF_KERNEL.read_bytes(), _MEMBERS)
    except OSError as error:
        return {}, f"{_TYPES_OF_KERNEL}: {error.strerror}"
    except OffloadError as error:
        return {}, str(error)
    return {name: str(offset) for name, offset in found.items()}, ""


def _loading(module: Any, name: str, kind: int, options: dict[str, int]) -> Callable[[], Any]:  # noqa: ANN401
    return lambda: module.load_func(name, kind, **options)


def _attempt(what: str, step: Callable[[], Any]) -> Any:  # noqa: ANN401 - bcc is untyped
    """Run one bcc call. bcc raises bare `Exception`, so this is the one place that may catch it."""
    try:
        return step()
    except Exception as error:
        raise OffloadError(f"cannot {what}: {_hint(str(error))}") from error


def _hint(reason: str) -> str:
    if not _is_privileged():
        return "no privilege; run as root, or with CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW"
    if "Invalid argument" in reason or "Failed to load" in reason:
        return f"{reason} (kernel {os.uname().release}; 5.11 or later is needed; -d DBUG shows its reasons)"
    return reason


def _is_privileged() -> bool:
    """True if this process may load programs: its capabilities decide that, not its user (capabilities(7))."""
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("CapEff:")[2].split()[0], 16)
    return all(held & (1 << number | _CAP_SYS_ADMIN) for number in _CAPS_TO_LOAD) and bool(held & _CAP_NET_ADMIN)


def _describe_map(bpf: Any, lib: Any, module: int, name: bytes) -> tuple[Any, Any, int]:  # noqa: ANN401
    key, value = (
        _describe(bpf._decode_table_type(json.loads(text)))
        for text in (lib.bpf_table_key_desc(module, name), lib.bpf_table_leaf_desc(module, name))
    )
    return key, value, lib.bpf_table_max_entries_id(module, lib.bpf_table_id(module, name))


def _describe(kind: Any) -> tuple[list[tuple[str, str, int]], int]:  # noqa: ANN401 - a ctypes structure or number
    import ctypes

    size = ctypes.sizeof(kind)
    if not hasattr(kind, "_fields_"):
        return [(NUMBER, _form(size), 0)], size
    members = []
    for name, member in kind._fields_:
        size_of_member = ctypes.sizeof(member)
        form = f"{size_of_member}s" if issubclass(member, ctypes.Array) else _form(size_of_member)
        members.append((name, form, getattr(kind, name).offset))
    return members, size


def _form(size: int) -> str:
    return {1: "B", 2: "H", 4: "I", 8: "Q"}[size]


if __name__ == "__main__":
    _child_main(int(sys.argv[1]), sys.argv[2])
