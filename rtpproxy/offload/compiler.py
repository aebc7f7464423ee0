"""Compiles `bpf/relay.c` in a short-lived child; the only file that imports bcc.

bcc maps a whole compiler into the process (some 135 MB), which the relay must not carry for years. So this module is
run as a child process: it compiles, writes programs and descriptions of maps to its standard output, and exits. What
bcc made in the kernel goes with it; `loader` makes everything anew.
"""

import ctypes
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rtpproxy.errors import OffloadError
from rtpproxy.offload import compiled
from rtpproxy.offload.btf import Member, member_offsets
from rtpproxy.offload.compiled import Compiled
from rtpproxy.offload.kept import TYPES_OF_KERNEL, stamp
from rtpproxy.offload.layout import NUMBER, Layout, MapLayout
from rtpproxy.offload.privilege import with_advice
from rtpproxy.offload.progress import Judgement, Progress
from rtpproxy.offload.syscall import describe_map

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""A compiler that hangs must not hang the relay, and one that hangs once must not keep it from using BPF."""
_LOOK_S = 1.0
"""Time between two looks at what the child has done."""
_MAPS = (
    *("port_rows", "port_hosts6", "port_counters", "port_events", "next_hops", "verdicts"),
    *("port_sources", "port_budgets", "host_budgets", "learning_budgets", "fragment_budgets"),
    *(
        "local_slots",
        "host_addresses",
        "untagged_links",
        "links",
        "steered_sockets",
        "own_program",
        "refused_frames",
        "batch_began",
        "tee_kept",
        "tee_rings",
    ),
)
_UTIME = 11
"""Place of the time in user mode behind the name of a process; that in the kernel is next."""
_LOGGED_LINES = 40
"""Last lines of what the compiler says of programs that it refuses; the reason is at the end."""
_MEMBERS_OF_TRACES = {
    "NET_DEVICE_IFINDEX": ("net_device", "ifindex"),
    "NET_DEVICE_XDP_STATE": ("net_device", "xdp_state"),
    "BPF_PROG_AUX": ("bpf_prog", "aux"),
    "BPF_PROG_AUX_ID": ("bpf_prog_aux", "id"),
}
"""Macros for the offsets that the programs for tracepoints need, and the kernel's names (`bpf/unsent.h`)."""
_MEMBERS_OF_BATCHES = {
    "TASK_NET_CONTEXT": ("task_struct", "bpf_net_context"),
    "NET_CONTEXT_DEVICES": ("bpf_net_context", "dev_map_flush_list"),
    "LIST_NEXT": ("list_head", "next"),
    "LIST_PREVIOUS": ("list_head", "prev"),
}
"""The same by which the XDP program tells batches of frames (`bpf/batch.h`); not before Linux 6.11."""
_KERNEL_HEADER = "/usr/include/linux/bpf.h"
_WARNINGS = ("-Wall", "-Wextra", "-Werror")
_ERROR = b"error: "
"""What the answer of a child begins with that tells in one line why it failed."""


class _StuckError(OffloadError):
    """The child got nowhere, and was killed; another one may succeed."""


def compile_programs(directory: Path, macros: Mapping[str, str], *, is_strict: bool) -> Compiled:
    """Compile `relay.c` in a directory, with the given macros; `is_strict` turns warnings into errors.

    Raises OffloadError with the reason in one line: no bcc, no privilege, a missing header.
    """
    request = json.dumps({"macros": dict(macros), "directory": str(directory), "is_strict": is_strict})
    for attempt in range(1, ATTEMPTS):
        try:
            return _compile_in_child(request)
        except _StuckError as error:
            log.warning("%s; trying again (%d of %d)", error, attempt + 1, ATTEMPTS)
    return _compile_in_child(request)


def _compile_in_child(request: str) -> Compiled:
    child = subprocess.Popen(
        # -P: root must not import modules from the working directory.
        [sys.executable, "-P", "-m", "rtpproxy.offload.compiler", request],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    answer, messages = _wait_for(child, Progress())
    lines = [line.strip() for line in messages.decode(errors="replace").splitlines() if line.strip()]
    if answer.startswith(_ERROR):
        for line in lines[-_LOGGED_LINES:]:
            log.debug("BPF compiler: %s", line)
        raise OffloadError(answer.removeprefix(_ERROR).decode())
    if child.returncode or not answer:
        *_, last = ["no message", *lines]
        raise OffloadError(f"the BPF compiler died: {last}")
    return compiled.parse(answer)


def _wait_for(child: "subprocess.Popen[bytes]", progress: Progress) -> tuple[bytes, bytes]:
    """Wait for the end of the child. Returns what it wrote to standard output and error. Raises _StuckError."""
    while True:
        try:
            return child.communicate(timeout=_LOOK_S)
        except subprocess.TimeoutExpired:
            judgement = progress.judge(_processor_s(child.pid), _LOOK_S)
        if judgement is not Judgement.WAIT:
            child.kill()
            child.communicate()
            raise _StuckError(f"the BPF programs cannot be compiled: {judgement.value}")


def _processor_s(process: int) -> float:
    """Processor time that a child which has not been waited for has used, in seconds (proc_pid_stat(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / os.sysconf("SC_CLK_TCK")


# What follows runs in the child only.


def _child_main(request: str) -> None:
    # What bcc and the compiler print is no part of the answer.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    try:
        answer = compiled.serialize(_compile(**json.loads(request)))
    except OffloadError as error:
        answer = _ERROR + str(error).encode()
    with open(answer_fd, "wb") as file:
        file.write(answer)


def _compile(macros: dict[str, str], directory: str, is_strict: bool) -> Compiled:
    os.environ["BCC_KERNEL_SOURCE"] = str(Path(directory) / "kernel")
    try:
        import bcc
        from bcc import BPF, lib
    except ImportError:
        raise OffloadError(
            f"bcc is not installed for {sys.executable}: install Debian's python3-bpfcc "
            "and run from a virtual environment with system site packages"
        ) from None
    if not Path(_KERNEL_HEADER).exists():
        raise OffloadError("the kernel's user API headers are missing: install Debian's linux-libc-dev")
    offsets, why_untraced = _kernel_offsets(_MEMBERS_OF_TRACES)
    offsets |= _kernel_offsets(_MEMBERS_OF_BATCHES)[0]
    flags = [
        f"-I{directory}",
        *("-isystem", "/usr/include"),
        *("-isystem", f"/usr/include/{os.uname().machine}-linux-gnu"),
        *(f"-D{name}={value}" for name, value in (macros | offsets).items()),
        *(_WARNINGS if is_strict else ("-Wno-macro-redefined",)),
    ]
    try:
        whole = BPF(src_file=str(Path(directory) / "relay.c"), cflags=flags)
    except Exception as error:  # bcc raises no other class
        raise OffloadError(f"cannot compile: {with_advice(str(error))}") from error
    module = whole.module
    # bcc 0.26 has no Python class for a sockmap, so descriptors and layouts come from its C library.
    map_fds = [lib.bpf_table_fd(module, name.encode()) for name in _MAPS]
    functions = [lib.bpf_function_name(module, number) for number in range(lib.bpf_num_functions(module))]
    return Compiled(
        programs={name.decode(): compiled.unlink(whole.dump_func(name), map_fds).hex() for name in functions},
        maps=tuple(replace(describe_map(fd), name=name) for name, fd in zip(_MAPS, map_fds, strict=True)),
        layouts={name: _describe_map(BPF, lib, module, name.encode()) for name in _MAPS},
        licence=lib.bpf_module_license(module).decode(),
        why_untraced=why_untraced,
        compiler=tuple(stamp(path) for path in (bcc.__file__, _KERNEL_HEADER, *_mapped_libraries())),
    )


def _kernel_offsets(members: Mapping[str, Member]) -> tuple[dict[str, str], str]:
    """Make the macros of offsets. Returns none where the kernel does not tell, and why."""
    try:
        found = member_offsets(TYPES_OF_KERNEL.read_bytes(), members)
    except OSError as error:
        return {}, f"{TYPES_OF_KERNEL}: {error.strerror}"
    except OffloadError as error:
        return {}, str(error)
    return {name: str(offset) for name, offset in found.items()}, ""


def _mapped_libraries() -> list[str]:
    """List the files of the compiler: those whose code this process has."""
    text = Path("/proc/self/maps").read_text()
    return sorted(set(re.findall(r" (/\S*/lib(?:bcc|clang|LLVM)\S*)$", text, re.M)))


def _describe_map(bpf: Any, lib: Any, module: int, name: bytes) -> MapLayout:  # noqa: ANN401 - bcc is untyped
    key, value = (
        _describe(bpf._decode_table_type(json.loads(text)))
        for text in (lib.bpf_table_key_desc(module, name), lib.bpf_table_leaf_desc(module, name))
    )
    return MapLayout(key, value, lib.bpf_table_max_entries_id(module, lib.bpf_table_id(module, name)))


def _describe(kind: Any) -> Layout:  # noqa: ANN401 - a ctypes structure or number
    size = ctypes.sizeof(kind)
    if not hasattr(kind, "_fields_"):
        return Layout({NUMBER: (_form(size), 0)}, size)
    members = {}
    for name, member in kind._fields_:
        size_of_member = ctypes.sizeof(member)
        form = f"{size_of_member}s" if issubclass(member, ctypes.Array) else _form(size_of_member)
        members[name] = form, getattr(kind, name).offset
    return Layout(members, size)


def _form(size: int) -> str:
    return {1: "B", 2: "H", 4: "I", 8: "Q"}[size]


if __name__ == "__main__":
    _child_main(sys.argv[1])
