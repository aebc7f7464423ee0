"""The program `rtpproxy`, which also tells what is in its process: objects of its own, tasks, threads.

Whoever connects to the Unix socket that CENSUS names in the environment gets the counts as JSON. Garbage is collected
first, so what is counted is held by somebody.
"""

import collections
import functools
import gc
import json
import os
import socket
import sys
import threading
from pathlib import Path

OURS = ("rtpproxy.", "asyncio.", "uvloop.")
_Cached = type(functools.lru_cache(len))


def take() -> dict[str, int]:
    """Count the objects of our classes by class, and threads. Caches of a limited size are emptied before."""
    for name, module in list(sys.modules.items()):
        if name.startswith(OURS[0]):
            for one in vars(module).values():
                if isinstance(one, _Cached):
                    one.cache_clear()
    gc.collect()
    kinds = collections.Counter(type(one) for one in gc.get_objects())
    counts = {f"{kind.__module__}.{kind.__qualname__}": count for kind, count in kinds.items()}
    counts = {name: count for name, count in counts.items() if name.startswith(OURS)}
    return {**counts, "threads": threading.active_count()}


def answer(listening: socket.socket) -> None:
    """Answer everybody who connects."""
    while True:
        client, _ = listening.accept()
        with client:
            client.sendall(json.dumps(take()).encode())


def ask(path: Path) -> dict[str, int]:
    """Ask the process that has this socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with client.makefile() as counts:
            return dict(json.load(counts))


def main() -> None:
    """Run the relay."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.environ["CENSUS"])
    listening.listen()
    threading.Thread(target=answer, args=(listening,), daemon=True).start()
    from rtpproxy.__main__ import main

    main()


if __name__ == "__main__":
    main()
