"""Compiles the benchmark's XDP programs, and attaches them."""

import os
import sysconfig
from collections.abc import Callable
from pathlib import Path

from bcc import BPF
from pyroute2 import IPRoute

from tests.netns import Host

_HERE = Path(__file__).parent
_KERNEL = _HERE.parent.parent / "bpf" / "kernel"
_XDP_FLAGS_DRV_MODE = 1 << 2


def compile_xdp(name: str, **defines: object) -> BPF:
    """Compile a file, of this directory or with its whole path, with the given macros."""
    flags = [f"-D{key}={value}" for key, value in defines.items()]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    system = ["-isystem", "/usr/include", "-isystem", f"/usr/include/{multiarch}"]
    os.environ["BCC_KERNEL_SOURCE"] = str(_KERNEL)
    return BPF(src_file=str(_HERE / name).encode(), cflags=[*flags, *system])


def attach_xdp(host: Host, ifindex: int, prog_fd: int) -> Callable[[], None]:
    """Attach a program to the native XDP hook of an interface; call the result to detach it."""

    def set_program(fd: int) -> None:
        attributes = [("IFLA_XDP_FD", fd), ("IFLA_XDP_FLAGS", _XDP_FLAGS_DRV_MODE)]
        with IPRoute() as netlink:  # opens its socket in the namespace of the thread that first uses it
            netlink.link("set", index=ifindex, IFLA_XDP={"attrs": attributes})

    host.call(set_program, prog_fd)
    return lambda: host.call(set_program, -1)
