"""Sets the resource limits and the scheduling of the process (setrlimit(2), sched_setscheduler(2))."""

import os
import resource

from rtpproxy.config import MIN_FILES, Config
from rtpproxy.errors import StartError

_POLICIES = {"fifo": os.SCHED_FIFO, "rr": os.SCHED_RR}


def apply(config: Config) -> None:
    """Set what `-L`, `--nice` and `-c` ask for, and allow whole core dumps. To be called before anything is opened.

    Raises StartError for what is not permitted, and for fewer files than the relay needs. The core size is raised as
    far as permitted; that is no error.
    """
    _raise_core_limit()
    if config.file_limit is not None:
        _limit_files(config.file_limit)
    _check_files()
    if config.nice is not None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, config.nice)
        except OSError as error:
            raise StartError(f"--nice {config.nice}: {error.strerror}") from error
    if config.realtime_policy:
        _schedule(config.realtime_policy)


def _raise_core_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except ValueError:  # Python raises this when setrlimit(2) is refused
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


def _limit_files(count: int) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))
    except (OSError, ValueError) as error:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise StartError(f"-L {count}: not permitted; at most {hard} files may be open") from error


def _check_files() -> None:
    """Refuse to start with fewer files: Python itself would fail, and not say why. Raises StartError."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_FILES:
        raise StartError(f"only {soft} files may be open: allow {MIN_FILES} or more with -L")


def _schedule(word: str) -> None:
    policy = _POLICIES[word]
    try:
        os.sched_setscheduler(0, policy, os.sched_param(os.sched_get_priority_max(policy)))
    except OSError as error:
        raise StartError(f"-c {word}: {error.strerror}") from error
