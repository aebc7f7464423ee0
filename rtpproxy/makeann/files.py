"""Writes files that are complete or absent: nobody ever sees a half, whatever happens."""

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from rtpproxy.errors import NoPromptError


@contextmanager
def all_or_none(paths: list[Path]) -> Iterator[list[BinaryIO]]:
    """Open a file for each path, and give them their names once all are complete and on the disk.

    Until then they have other names, in the same directory, and with any exception they are gone. Files that had these
    names are replaced. Raises NoPromptError for what the system refuses, also to who writes in the meantime.
    """
    for path in paths:
        if os.path.isdir(path):
            raise NoPromptError(f"cannot write {path}: a directory has this name")
    place = paths[0].parent
    try:
        with ExitStack() as to_undo:
            opened = []
            for path in paths:
                part, file = _open_part(path)
                to_undo.callback(part.unlink, missing_ok=True)
                opened.append((part, to_undo.enter_context(file)))
            yield [file for _, file in opened]
            for _, file in opened:
                file.flush()
                os.fsync(file.fileno())
            for (part, _), path in zip(opened, paths, strict=True):
                part.replace(path)
    except OSError as error:
        raise NoPromptError(f"cannot write to {place}: {error.strerror}") from error


def _open_part(path: Path) -> tuple[Path, BinaryIO]:
    part = path.with_name(f".{path.name}.{random.randbytes(4).hex()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return part, os.fdopen(os.open(part, flags, 0o666), "wb")
