"""An XDP program that passes everything, loaded without a compiler: somebody else's, and a probe of privilege."""

import ctypes
import os
import platform
import struct

_SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD = 5
_XDP_TYPE, _XDP_PASS = 6, 2
# mov r0, XDP_PASS; exit
_INSTRUCTIONS = struct.pack("=BBhiBBhi", 0xB7, 0, 0, _XDP_PASS, 0x95, 0, 0, 0)

_libc = ctypes.CDLL(None, use_errno=True)


def load_plain_xdp(name: str) -> int:
    """Descriptor of the program, loaded under `name` (at most 15 characters). Raises OSError."""
    code = ctypes.create_string_buffer(_INSTRUCTIONS, len(_INSTRUCTIONS))
    license_name = ctypes.create_string_buffer(b"GPL")
    # union bpf_attr for BPF_PROG_LOAD, up to and with prog_name
    attr = struct.pack(
        "=IIQQIIQII16s",
        *(_XDP_TYPE, len(_INSTRUCTIONS) // 8, ctypes.addressof(code), ctypes.addressof(license_name)),
        *(0, 0, 0, 0, 0, name.encode()),
    )
    number = _SYSCALL_NUMBERS[platform.machine()]
    fd = _libc.syscall(ctypes.c_long(number), ctypes.c_int(_BPF_PROG_LOAD), attr, ctypes.c_uint(len(attr)))
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(fd)
