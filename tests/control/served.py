"""`python -m tests.control.served LOOP ADDRESS...`: control sockets in a process of their own, echoing commands.

For what belongs to a process: standard input and output, descriptors that a service manager passes, and who it runs
as. Standard error says what the callbacks were told; the process ends with its input, or on a signal.
"""

import asyncio
import signal
import sys

from rtpproxy.cli.arguments import parse_control_address
from rtpproxy.config import ControlKind
from rtpproxy.control.server import ControlServer
from rtpproxy.errors import StartError
from tests.control.serving import LOOP_FACTORIES


async def serve(addresses: list[str]) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def on_end(kind: ControlKind) -> None:
        print("end of", kind.value, file=sys.stderr, flush=True)
        stopped.set()

    server = ControlServer([parse_control_address(text) for text in addresses], lambda: 0.0)
    await server.open()
    server.serve(lambda command, now, host: b"[%b]%b\n" % (command, host.encode()), on_end=on_end)
    print("ready", file=sys.stderr, flush=True)
    await stopped.wait()
    server.close()


def main() -> None:
    loop_name, *addresses = sys.argv[1:]
    try:
        with asyncio.Runner(loop_factory=LOOP_FACTORIES[loop_name]) as runner:
            runner.run(serve(addresses))
    except StartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
