"""Run a loaded BPF program on a frame: BPF_PROG_TEST_RUN through bpf(2), which bcc 0.26 does not offer."""

import ctypes
import os
import platform
import struct
from typing import NamedTuple

XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = range(5)
TC_ACT_SHOT, TC_ACT_REDIRECT, TC_ACT_UNSPEC = 2, 7, 0xFFFFFFFF

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_TEST_RUN = 10
_LIVE_FRAMES = 1 << 1  # BPF_F_TEST_XDP_LIVE_FRAMES
_OUT_BYTES = 65536  # rewriting may lengthen a frame
_REPEAT_MAX = 0xFFFFFFFF

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Result(NamedTuple):
    """A program's answer, and the frame as it left it. `duration_ns` is the mean of all repeats."""

    verdict: int
    frame: bytes
    duration_ns: int


class _Attr(ctypes.Structure):
    """The `test` member of union bpf_attr (linux/bpf.h)."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
        ("padding", ctypes.c_uint32),
    )


def run(
    prog_fd: int, frame: bytes, *, ingress_ifindex: int | None = None, repeat: int = 1, metadata_bytes: int = 0
) -> Result:
    """Run the program on `frame`; an XDP program may be given the interface that the frame arrived by.

    Metadata before the frame takes that much of an XDP program's headroom.

    The interface is looked up in the network namespace of the calling thread, and the kernel refuses it (EINVAL)
    unless its receive queue is set up for XDP: on a veth, unless it runs an XDP program or has GRO on. Loopback passes.
    """
    out = ctypes.create_string_buffer(_OUT_BYTES)
    attr = _Attr(prog_fd=prog_fd, repeat=repeat, data_size_out=_OUT_BYTES, data_out=ctypes.addressof(out))
    _call(attr, bytes(metadata_bytes) + frame, ingress_ifindex, metadata_bytes)
    return Result(attr.retval, out.raw[: attr.data_size_out], attr.duration)


class Runner:
    """Runs one program on very many frames: the buffers are made once."""

    def __init__(self, prog_fd: int) -> None:
        self._in, self._out = (ctypes.create_string_buffer(_OUT_BYTES) for _ in range(2))
        addresses = {"data_in": ctypes.addressof(self._in), "data_out": ctypes.addressof(self._out)}
        self._attr = _Attr(prog_fd=prog_fd, repeat=1, **addresses)
        self._arguments = (
            *(ctypes.c_long(_SYSCALL_NUMBERS[platform.machine()]), ctypes.c_int(_BPF_PROG_TEST_RUN)),
            *(ctypes.byref(self._attr), ctypes.c_uint(ctypes.sizeof(self._attr))),
        )

    def run(self, frame: bytes) -> tuple[int, bytes]:
        """Return the program's answer, and the frame as it left it."""
        ctypes.memmove(self._in, frame, len(frame))
        self._attr.data_size_in, self._attr.data_size_out = len(frame), _OUT_BYTES
        if _libc.syscall(*self._arguments) < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"BPF_PROG_TEST_RUN: {os.strerror(error)}")
        return self._attr.retval, ctypes.string_at(self._out, self._attr.data_size_out)


def run_live(
    prog_fd: int, frame: bytes, ifindex: int | None = None, repeat: int = _REPEAT_MAX, batch_size: int = 64
) -> None:
    """Run an XDP program `repeat` times on real frames, which go where the program sends them.

    The contents of a frame are not restored between runs. A signal ends the call with InterruptedError. Without
    `ifindex` the frames come in by the loopback interface of the calling thread's namespace, from where the program may
    redirect to any interface there; `ifindex` has the conditions of `run`.
    """
    attr = _Attr(prog_fd=prog_fd, repeat=repeat, flags=_LIVE_FRAMES, batch_size=batch_size)
    _call(attr, frame, ifindex)


def _call(attr: _Attr, frame: bytes, ingress_ifindex: int | None, metadata_bytes: int = 0) -> None:
    data = ctypes.create_string_buffer(frame, len(frame))
    attr.data_in, attr.data_size_in = ctypes.addressof(data), len(frame)
    if ingress_ifindex is not None or metadata_bytes:
        # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        context = struct.pack("=6I", metadata_bytes, len(frame), 0, ingress_ifindex or 0, 0, 0)
        buffer = ctypes.create_string_buffer(context, len(context))
        attr.ctx_in, attr.ctx_size_in = ctypes.addressof(buffer), len(context)
    number = _SYSCALL_NUMBERS[platform.machine()]
    size = ctypes.c_uint(ctypes.sizeof(attr))
    if _libc.syscall(ctypes.c_long(number), ctypes.c_int(_BPF_PROG_TEST_RUN), ctypes.byref(attr), size) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"BPF_PROG_TEST_RUN: {os.strerror(error)}")
