"""Runs a relay as a process: checks if it may start, goes to the background, sets up its log and clock."""

import contextlib
import errno
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import uvloop

from rtpproxy.config import (
    MAX_SOCKET_PATH_BYTES,
    CdrSettings,
    Config,
    ControlKind,
    DtmfSettings,
    ModuleSettings,
    NotifyTarget,
)
from rtpproxy.errors import ConfigError, RtpproxyError, StartError
from rtpproxy.instance.build import Clocks
from rtpproxy.instance.serve import serve
from rtpproxy.process import limits, privileges
from rtpproxy.process.busy import BusyTime
from rtpproxy.process.clock import monotonic_offset_ns
from rtpproxy.process.pid_file import PidFile
from rtpproxy.process.syslog import DEFAULT_FACILITY, DEFAULT_PATH, FACILITIES, LEVELS, SyslogHandler

log = logging.getLogger(__name__)

_MESSAGE_BYTES = 4096
_FAILED, _USAGE = 1, 2
"""Exit statuses."""
_LAST_STANDARD = 2
"""Descriptor of standard error."""


def run(config: Config, bound: Sequence[int] = ()) -> int:
    """Run the relay, or start it as a daemon, and return the exit status.

    `bound` are descriptors of UDP sockets that are bound already, for control sockets. Raises StartError or ConfigError
    when it cannot start.
    """
    _fill_standard_descriptors()
    check_root(config)
    privileges.check(config)
    config = with_absolute_paths(config)
    _pid_file(config).check()
    if config.is_foreground:
        start_log(config)
        _serve(config, bound, _print_unlogged)
        return 0
    return _daemonize(config, bound)


def _fill_standard_descriptors() -> None:
    """Open standard input, output and error where they are closed, so that nothing else gets their numbers."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= _LAST_STANDARD:
        os.set_inheritable(null, True)
    os.close(null)


def check_root(config: Config) -> None:
    """Refuse to run as root with a control socket that others can reach, and warn of TCP (protocol.md 1.8).

    Raises StartError.
    """
    privileges.check_root(config, config.control)
    has_tcp = any(address.kind in (ControlKind.TCP, ControlKind.TCP6) for address in config.control)
    if has_tcp and privileges.stays_root(config):
        print("rtpproxy: warning: running as root with a TCP control socket; name a user with -u", file=sys.stderr)


def with_absolute_paths(config: Config) -> Config:
    """Make paths absolute: they are relative to the directory of the start, which a daemon leaves.

    Raises ConfigError if the path of a notification target becomes too long for a socket.
    """
    control = tuple(
        replace(address, path=os.path.abspath(address.path)) if address.path else address for address in config.control
    )
    notify = tuple(_absolute_target(target, "-n") for target in config.notify)
    directories = config.record_directory, config.spool_directory, config.prompt_directory
    record, spool, prompts = (os.path.abspath(path) if path else "" for path in directories)
    return replace(
        config,
        control=control,
        notify=notify,
        modules=tuple(map(_absolute_module, config.modules)),
        pid_file=os.path.abspath(config.pid_file),
        record_directory=record,
        spool_directory=spool,
        prompt_directory=prompts,
    )


def _absolute_target(target: NotifyTarget, flag: str) -> NotifyTarget:
    if not target.path:
        return target
    path = os.path.abspath(target.path)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"option {flag} {path}: the path is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    return replace(target, path=path)


def _absolute_module(settings: ModuleSettings) -> ModuleSettings:
    if isinstance(settings, CdrSettings):
        return replace(settings, path=os.path.abspath(settings.path))
    if isinstance(settings, DtmfSettings) and settings.target is not None:
        return replace(settings, target=_absolute_target(settings.target, "--dtmf-notify"))
    return settings


def start_log(config: Config) -> None:
    """Log to standard error in the foreground, else to syslog, as `LEVEL:ID:function:line: text`.

    A daemon that keeps its descriptors logs to standard error if there is no syslog.
    """
    for name, number in LEVELS.items():
        logging.addLevelName(number, name)
    level, _, facility = config.log_level.partition(":")
    handler: logging.Handler = logging.StreamHandler()
    text = "%(levelname)s:GLOBAL:%(funcName)s:%(lineno)d: %(message)s"
    if not config.is_foreground and (_has_syslog() or not config.keeps_descriptors):
        handler = SyslogHandler(DEFAULT_PATH, FACILITIES[facility or DEFAULT_FACILITY])
        text = f"rtpproxy[{os.getpid()}]: {text}"
    handler.setFormatter(logging.Formatter(text))
    logging.basicConfig(level=LEVELS[level], handlers=[handler], force=True)


def _has_syslog() -> bool:
    return os.path.exists(DEFAULT_PATH)


def _pid_file(config: Config) -> PidFile:
    who = privileges.identity(config)
    return PidFile(config.pid_file, is_required=config.is_pid_file_required, user=who[0] if who is not None else None)


def _serve(config: Config, bound: Sequence[int], tell: Callable[[Sequence[str]], None]) -> None:
    """Run the relay; `tell` is called once it serves, with the warnings of the start."""
    clock = kernel_clock()

    async def main() -> None:
        pid_file = _pid_file(config)

        def ready(warnings: Sequence[str]) -> Callable[[], None]:
            rest_collector()
            for warning in warnings:
                log.warning("%s", warning)
            pid_file.write()
            give_up = privileges.drop(config)
            tell(warnings)
            return give_up

        try:
            with contextlib.closing(BusyTime(time.thread_time)) as busy:
                await serve(config, Clocks(clock, time.time, time.time_ns, busy), ready, abort, bound)
        finally:
            pid_file.remove()

    limits.apply(config)
    try:
        uvloop.run(main())
    except OSError as error:
        raise StartError(f"cannot start: {error.strerror or error}{_advice(error)}") from error
    except StartError as error:
        raise StartError(f"{error}{_advice(error.__cause__)}") from error


def _print_unlogged(warnings: Sequence[str]) -> None:
    """Print the warnings of a start in the foreground, unless they are logged, which goes to the same place."""
    if not log.isEnabledFor(logging.WARNING):
        _print_warnings(warnings)


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"rtpproxy: warning: {warning}", file=sys.stderr)


def _advice(cause: BaseException | None) -> str:
    return "; allow more with -L" if isinstance(cause, OSError) and cause.errno == errno.EMFILE else ""


def kernel_clock() -> Callable[[], float]:
    """Return the clock of BPF programs in seconds: CLOCK_MONOTONIC, without the offset of a time namespace.

    Raises StartError where that offset cannot be told.
    """
    offset_s = monotonic_offset_ns() / 1e9
    if not offset_s:
        return time.monotonic
    log.info("clock: this time namespace is %+.9g s off the kernel's clock, which is used", offset_s)
    return lambda: time.monotonic() - offset_s


def rest_collector() -> None:
    """Make the cycle collector run rarely: sessions hold no cycles, and searching thousands of them delays packets."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def abort(number: int) -> None:
    """End the process at once, on the second signal while stopping."""
    os._exit(128 + number)


def _daemonize(config: Config, bound: Sequence[int]) -> int:
    """Go to the background. The parent waits until the daemon serves, and says why if it does not."""
    try:
        reader, writer = os.pipe()
        is_parent = os.fork() != 0
    except OSError as error:
        raise StartError(f"cannot start a daemon: {error.strerror}") from error
    if is_parent:
        os.close(writer)
        _take_outcome(_read_all(reader))
        if not _has_syslog() and not config.keeps_descriptors:
            print(f"rtpproxy: warning: no {DEFAULT_PATH}: log lines are lost until there is one", file=sys.stderr)
        return 0
    status = _FAILED
    try:
        os.close(reader)
        status = _be_daemon(config, bound, writer)
    finally:
        # Whatever happened, no code of the parent may run a second time.
        os._exit(status)


def _be_daemon(config: Config, bound: Sequence[int], writer: int) -> int:
    is_told = False

    def tell(status: int, message: str = "") -> None:
        nonlocal is_told
        if not is_told:
            is_told = True
            os.write(writer, bytes([status]) + message.encode(errors="backslashreplace")[:_MESSAGE_BYTES])
            os.close(writer)

    try:
        _leave_parent(config)
        start_log(config)
        _serve(config, bound, lambda warnings: tell(0, "\n".join(warnings)))
    except RtpproxyError as error:
        status = _USAGE if isinstance(error, ConfigError) else _FAILED
        log.error("%s", error)
        tell(status, str(error))
        return status
    except BaseException as error:
        log.critical("unexpected", exc_info=error)
        tell(_FAILED, f"the daemon failed at start: {error!r}")
        raise
    return 0


def _leave_parent(config: Config) -> None:
    """Give up the parent's terminal, directory and standard descriptors. The process ID changes."""
    os.setsid()
    if os.fork():
        os._exit(0)
    if not config.keeps_directory:
        os.chdir("/")
    if not config.keeps_descriptors:
        _redirect()


def _redirect() -> None:
    """Redirect standard input, output and error to /dev/null."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in range(_LAST_STANDARD + 1):
        os.dup2(null, standard)
    os.close(null)


def _take_outcome(outcome: bytes) -> None:
    """Print the warnings that the daemon reported, or raise its error. A daemon that died reported nothing."""
    if not outcome:
        raise StartError("the daemon died at start")
    status, message = outcome[0], outcome[1:].decode(errors="replace")
    if status:
        raise ConfigError(message) if status == _USAGE else StartError(message)
    _print_warnings(message.splitlines())


def _read_all(reader: int) -> bytes:
    message = b""
    while part := os.read(reader, _MESSAGE_BYTES):
        message += part
    os.close(reader)
    return message
