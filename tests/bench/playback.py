"""Many prompts at once: when their packets arrive, by the kernel's timestamps, alone and while calls are set up."""

import socket
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.control import on_client_cpu
from tests.bench.plan import Plan
from tests.bench.programs import pin
from tests.bench.progress import say
from tests.bench.runs import MeasuringError
from tests.netns import Topology
from tests.running import RunningRelay
from tests.waiting import DEADLINE_S, wait_for

CONTROL_PORT = 22990
PACKET_MS = 20
WITHIN_MS = 3
"""What phones' jitter buffers never notice."""
_PHONE_PORT = 4000
_PROMPT_S = 10
_SO_TIMESTAMPNS, _SO_RCVBUFFORCE = 35, 33
_RECEIVE_BUFFER_BYTES = 256 << 20
_HEAD_BYTES = 4
"""Of a packet: enough for its number."""


class Codec(NamedTuple):
    """What is played: packets of 20 ms, by which the commands ask for them."""

    name: str
    payload_type: int
    bytes_per_s: int
    lookup: str
    codecs: str


G711 = Codec("G.711", 0, 8000, "Lz20", "session")
GSM = Codec("GSM", 3, 1650, "L", "3")
"""Its frames have 20 ms by themselves."""


class Heard:
    """When packets came: number of the stream, RTP sequence number and nanoseconds of each."""

    def __init__(self) -> None:
        self.streams = array("H")
        self.sequences = array("H")
        self.times_ns = array("q")


class Timing(NamedTuple):
    """What became of the gaps between packets that follow one another, in milliseconds."""

    packets: int
    lost: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    within: float
    """Share of the gaps that differ from PACKET_MS by no more than WITHIN_MS."""
    drift_ms: float
    """Of the stream that drifts most, from its first packet to its last."""


def measure_playback(plan: Plan) -> dict[str, Any]:
    """Prompts alone, and beside set-ups at a rate."""
    results = []
    for rate in (0, plan.prompt_set_ups):
        say(f"{plan.prompts} prompts, {rate:,} set-ups a second")
        with _playing(plan) as (relay, phone, codec):
            results.append(_run(plan, relay, phone, rate))
    return {"prompts": plan.prompts, "seconds": plan.prompts_s, "codec": codec.name, "runs": results}


def timing(heard: Heard) -> Timing:
    """Work out the gaps; those around a lost packet are left out. Raises MeasuringError if nothing was heard."""
    first: dict[int, tuple[int, int]] = {}
    last: dict[int, tuple[int, int]] = {}
    counts: dict[int, int] = {}
    gaps: list[int] = []
    lost = 0
    for stream, sequence, at in zip(heard.streams, heard.sequences, heard.times_ns, strict=True):
        before = last.get(stream)
        if before is None:
            first[stream], counts[stream] = (sequence, at), 0
        else:
            step = (sequence - before[0]) & 0xFFFF
            if step == 1:
                gaps.append(at - before[1])
            else:
                lost += step - 1
            counts[stream] += step
        last[stream] = sequence, at
    if not gaps:
        raise MeasuringError("no prompt was heard")
    drifts = [last[one][1] - first[one][1] - counts[one] * PACKET_MS * 1_000_000 for one in first]
    gaps.sort()
    within = sum(abs(gap - PACKET_MS * 1_000_000) <= WITHIN_MS * 1_000_000 for gap in gaps) / len(gaps)
    return Timing(
        packets=len(heard.streams),
        lost=lost,
        p50_ms=_at(gaps, 0.5),
        p99_ms=_at(gaps, 0.99),
        p999_ms=_at(gaps, 0.999),
        max_ms=round(gaps[-1] / 1e6, 2),
        within=round(within, 5),
        drift_ms=round(max(map(abs, drifts)) / 1e6, 2),
    )


def _at(in_order: Sequence[int], share: float) -> float:
    return round(in_order[int(share * (len(in_order) - 1))] / 1e6, 2)


@contextmanager
def _playing(plan: Plan) -> Iterator[tuple[RunningRelay, socket.socket, Codec]]:
    """A relay that plays to a phone, which has one port for all calls; the prompts come from ports of their own."""
    with tempfile.TemporaryDirectory() as name, Topology() as topology:
        directory, host = Path(name), topology.relay
        caller = topology.caller
        options = "-d", "ERR", "-F", "-s", f"udp:127.0.0.1:{CONTROL_PORT}", "-m", "10000", "-M", "40000"
        with (
            RunningRelay(directory, *options, host=host, drops_old=True) as relay,
            caller.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone,
        ):
            pin(relay.process)
            codec = G711 if relay.ask("VF 20071116") == "1" else GSM
            (directory / f"prompt.{codec.payload_type}").write_bytes(bytes(_PROMPT_S * codec.bytes_per_s))
            phone.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            phone.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
            phone.bind((caller.ip, _PHONE_PORT))
            for number in range(plan.prompts):
                call = f"prompt{number}"
                relay.port(f"Uc{codec.payload_type} {call} {caller.ip} {_PHONE_PORT} f")
                relay.port(f"{codec.lookup} {call} {topology.callee.ip} {_PHONE_PORT} f t")
                assert relay.ask(f"P-1 {call} {directory / 'prompt'} {codec.codecs} f t") == "0"
            yield relay, phone, codec


def _run(plan: Plan, relay: RunningRelay, phone: socket.socket, rate: int) -> dict[str, Any]:
    played = int(relay.ask("G npkts_played"))
    wait_for(lambda: int(relay.ask("G npkts_played")) > played + 100 * plan.prompts, DEADLINE_S, "all prompts")
    client = None
    with on_client_cpu():
        if rate:
            assert relay.host is not None
            arguments = map(str, (CONTROL_PORT, rate, plan.prompts_s + 2))
            command = [sys.executable, "-m", "tests.bench.set_ups", *arguments]
            client = relay.host.popen(command, stdout=subprocess.PIPE, text=True)
            time.sleep(1.0)
        before = _processor_s(relay)
        start = time.monotonic()
        heard = _listen(phone, plan.prompts_s)
        share = (_processor_s(relay) - before) / (time.monotonic() - start)
    set_ups = 0.0
    if client is not None:
        output, _ = client.communicate(timeout=DEADLINE_S)
        set_ups = float(output)
    return {**timing(heard)._asdict(), "set_ups_per_s": round(set_ups), "core_share": round(share, 3)}


def _listen(phone: socket.socket, seconds: float) -> Heard:
    """Note what comes from now on."""
    heard = Heard()
    phone.setblocking(False)
    try:
        while True:
            phone.recv(1)
    except BlockingIOError:
        phone.settimeout(DEADLINE_S)
    buffer = bytearray(_HEAD_BYTES)
    timestamp = struct.Struct("qq").unpack
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        _, ancillary, _, source = phone.recvmsg_into([buffer], 64)
        second, ns = timestamp(ancillary[0][2])
        heard.streams.append(source[1])
        heard.sequences.append(buffer[2] << 8 | buffer[3])
        heard.times_ns.append(second * 1_000_000_000 + ns)
    return heard


def _processor_s(relay: RunningRelay) -> float:
    """Processor time of the relay's process so far, all threads."""
    tasks = Path(f"/proc/{relay.process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
