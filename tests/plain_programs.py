"""Programs of somebody else, loaded without a compiler, that pass every frame; also a probe of privilege."""

import contextlib
import ctypes
import os
import platform
import struct
from collections.abc import Iterator

import pytest
from pyroute2 import IPRoute

from tests.netns import Host

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD, _BPF_PROG_ATTACH, _BPF_PROG_DETACH = 5, 8, 9
_SCHED_CLS_TYPE, _XDP_TYPE, _TCX_INGRESS = 3, 6, 46
_CLSACT_INGRESS, _ALL_PROTOCOLS = 0xFFFFFFF2, 3
_XDP_PASS, _TC_ACT_OK = 2, 0

_libc = ctypes.CDLL(None, use_errno=True)


def load_plain_xdp(name: str) -> int:
    """Descriptor of an XDP program that passes everything. Raises OSError."""
    return _load(name, _XDP_TYPE, _XDP_PASS)


def load_plain_tc(name: str) -> int:
    """Descriptor of a TC program that passes everything to the stack, so that no filter follows. Raises OSError."""
    return _load(name, _SCHED_CLS_TYPE, _TC_ACT_OK)


@contextlib.contextmanager
def tcx_in_front(host: Host, ifname: str) -> Iterator[None]:
    """While a tcx program (Linux 6.6) ends the chain of what arrives by an interface, before any TC filter."""
    fd, index = load_plain_tc("foreign_tcx"), host.interfaces[ifname].ifindex
    try:
        host.call(_bpf, _BPF_PROG_ATTACH, struct.pack("=4I16x", index, fd, _TCX_INGRESS, 0))
        try:
            yield
        finally:
            host.call(_bpf, _BPF_PROG_DETACH, struct.pack("=4I16x", index, fd, _TCX_INGRESS, 0))
    finally:
        os.close(fd)


def require_tcx(host: Host, ifname: str) -> None:
    """Skip the test where the kernel has no tcx."""
    try:
        with tcx_in_front(host, ifname):
            return
    except OSError as error:
        pytest.skip(f"needs tcx: Linux 6.6 ({error.strerror})")


@contextlib.contextmanager
def filter_in_front(host: Host, ifname: str) -> Iterator[None]:
    """While a TC filter of priority 1 ends the chain of what arrives by an interface, which has a clsact qdisc."""
    fd, index = load_plain_tc("foreign_tc"), host.interfaces[ifname].ifindex

    def change(what: str, **options: object) -> None:
        with IPRoute() as netlink:
            netlink.tc(what, kind="bpf", index=index, parent=_CLSACT_INGRESS, prio=1, **options)

    try:
        host.call(lambda: change("add-filter", fd=fd, name="foreign_tc", direct_action=True, protocol=_ALL_PROTOCOLS))
        yield
        host.call(lambda: change("del-filter"))
    finally:
        os.close(fd)


def _load(name: str, kind: int, result: int) -> int:
    """Load a program that returns `result`, under `name` (at most 15 characters)."""
    # mov r0, result; exit
    instructions = struct.pack("=BBhiBBhi", 0xB7, 0, 0, result, 0x95, 0, 0, 0)
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_name = ctypes.create_string_buffer(b"GPL")
    # union bpf_attr for BPF_PROG_LOAD, up to and with prog_name
    attr = struct.pack(
        "=IIQQIIQII16s",
        *(kind, len(instructions) // 8, ctypes.addressof(code), ctypes.addressof(license_name)),
        *(0, 0, 0, 0, 0, name.encode()),
    )
    return _bpf(_BPF_PROG_LOAD, attr)


def _bpf(command: int, attr: bytes) -> int:
    number = _SYSCALL_NUMBERS[platform.machine()]
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_int(command), attr, ctypes.c_uint(len(attr)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)
