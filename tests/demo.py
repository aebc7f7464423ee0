"""`make demo`: a call between two namespaces through the relay, shown as the kernel takes it over."""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import click

from rtpproxy.config import Config
from rtpproxy.offload.layout import ByPort
from tests.bpf.maps import ProgramMaps, attached_program
from tests.netns import Topology
from tests.running import PhoneSocket, RunningRelay, rtp

CALLER_PORT, CALLEE_PORT = 40000, 50000
PACKET_S = 0.02
SHOW_S = 0.25
CALL = "demo-call from to"

PICTURE = """\
      caller                      relay                      callee
   {caller:>12}  ------  {near:>10} {far:<10}  ------  {callee:<12}
"""


def say(text: str) -> None:
    """A line of the demonstration's own."""
    click.secho(text, bold=True)


def talk(
    relay: RunningRelay, maps: ProgramMaps, ends: list[tuple[PhoneSocket, tuple[str, int]]], seconds: float
) -> None:
    """Let both phones send a packet each 20 ms, and show who relayed them as the numbers grow."""
    click.echo(f"{'':8}{'caller -> callee':^34}  {'callee -> caller':^34}")
    click.echo(f"{'time':8}" + f"{'userspace':>11}{'kernel':>11}{'received':>12}  " * 2)
    received = [0, 0]
    started = time.monotonic()
    sequence, shown_at = 0, 0.0
    while (elapsed := time.monotonic() - started) < seconds:
        for number, (phone, to) in enumerate(ends):
            phone.send(rtp(sequence, ssrc=0xCA11 + number), to)
        sequence += 1
        time.sleep(max(0.0, started + sequence * PACKET_S - time.monotonic()))
        for number, (phone, _) in enumerate(ends):
            received[1 - number] += len(phone.take())
        if elapsed >= shown_at:
            shown_at += SHOW_S
            show(relay, maps, [to[1] for _, to in ends], received, elapsed)
    for number, (phone, _) in enumerate(ends):
        received[1 - number] += len(phone.take())
    show(relay, maps, [to[1] for _, to in ends], received, elapsed)
    say(f"sent {sequence} packets each way")


def show(relay: RunningRelay, maps: ProgramMaps, ports: list[int], received: list[int], elapsed: float) -> None:
    """One line of the table: by direction, packets relayed by userspace and by the kernel, and received."""
    counters = relay.counters(CALL)
    line = f"{elapsed:5.2f} s "
    for total, port, arrived in zip((counters["npkts_ina"], counters["npkts_ino"]), ports, received, strict=True):
        forwarded = maps.forwarded(ByPort(Config().port_min, Config().port_max + 1).row(port))
        line += f"{total - forwarded:>11}{forwarded:>11}{arrived:>12}  "
    click.echo(line)


@click.command()
@click.option("--seconds", default=3.0, show_default=True, help="Length of the call.")
def main(seconds: float) -> None:
    """Make three namespaces, run the relay in the middle one, and let two phones talk through it."""
    with ExitStack() as stack:
        topology = stack.enter_context(Topology())
        caller, callee = topology.caller, topology.callee
        click.echo(PICTURE.format(caller=caller.ip, near=caller.gateway.ip, far=callee.gateway.ip, callee=callee.ip))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        relay = stack.enter_context(RunningRelay(directory, host=topology.relay, drops_old=True))
        click.echo(relay.log)
        ends = call_set_up(stack, topology, relay)
        program = attached_program(topology.relay, caller.gateway.ifname)
        assert program is not None, "the kernel tier did not start; its log is above"
        with ProgramMaps(program) as maps:
            talk(relay, maps, ends, seconds)
        say("\nthe call ends:")
        ask(relay, f"D {CALL}")
        ask(relay, f"Q {CALL}")
        stay_behind(topology, relay, ends)


def call_set_up(stack: ExitStack, topology: Topology, relay: RunningRelay) -> list[tuple[PhoneSocket, tuple[str, int]]]:
    """Offer and answer; each phone with the address of ours that it sends to."""
    caller, callee = topology.caller, topology.callee
    say("a SIP proxy sets up a call:")
    to_callee = ask(relay, f"U demo-call {caller.ip} {CALLER_PORT} from")
    to_caller = ask(relay, f"L demo-call {callee.ip} {CALLEE_PORT} from to")
    say("\nboth phones talk, a packet each 20 ms:")
    return [
        (stack.enter_context(PhoneSocket(caller, caller.ip, CALLER_PORT)), (caller.gateway.ip, int(to_caller))),
        (stack.enter_context(PhoneSocket(callee, callee.ip, CALLEE_PORT)), (callee.gateway.ip, int(to_callee))),
    ]


def ask(relay: RunningRelay, command: str) -> str:
    """One command and its reply, shown."""
    reply = relay.ask(command)
    click.echo(f"  {command}\n  -> {reply}")
    return reply


def stay_behind(topology: Topology, relay: RunningRelay, ends: list[tuple[PhoneSocket, tuple[str, int]]]) -> None:
    """Show that nothing is left of the call, and after the relay's end nothing of the relay."""
    phone, to = ends[0]
    phone.send(rtp(0), to)
    active = relay.totals()["active sessions"]
    click.echo(f"  sessions: {active}; a late packet of the caller's: {len(ends[1][0].take())} received by the callee")
    before = len(relay.log)
    status = relay.stop()
    click.echo(relay.log[before:])
    names = [phone.gateway.ifname for phone in (topology.caller, topology.callee)]
    left = [name for name in names if attached_program(topology.relay, name) is not None]
    say(f"the relay ended with status {status}; programs left on interfaces: {', '.join(left) or 'none'}")


if __name__ == "__main__":
    main()
