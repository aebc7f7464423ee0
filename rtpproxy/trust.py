"""Judges by the status of an open file whether others may have put there what is in it."""

import os
import stat
from collections.abc import Container

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def mistrust(status: os.stat_result, owners: Container[int]) -> str:
    """Say why a file that one of the users `owners` should own cannot be trusted; empty where it can."""
    if status.st_uid not in owners:
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & _OTHERS_MAY_WRITE:
        return f"users other than its owner may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""
