"""Recordings read back by tshark."""

import subprocess
from typing import NamedTuple


class Seen(NamedTuple):
    """A packet as tshark sees it."""

    source: tuple[str, int]
    to: tuple[str, int]
    time_us: int
    payload: bytes


_FIELDS = ("frame.time_epoch", "ip.src", "ipv6.src", "udp.srcport", "ip.dst", "ipv6.dst", "udp.dstport", "udp.payload")


def read(path):
    """All packets of a file, of which none may be malformed or have a wrong checksum."""
    assert fields(path, "frame.number", "-Y", "_ws.malformed || udp.checksum.status==0 || ip.checksum.status==0") == []
    found = []
    for time, source, source6, port, to, to6, to_port, payload in fields(path, *_FIELDS):
        seconds, _, rest = time.partition(".")
        time_us = int(seconds) * 1_000_000 + int(rest[:6].ljust(6, "0"))
        ends = (source or source6, int(port)), (to or to6, int(to_port))
        found.append(Seen(*ends, time_us, bytes.fromhex(payload)))
    return found


def fields(path, *names_and_options):
    """The values of fields of all packets."""
    names = [name for name in names_and_options if "." in name and " " not in name]
    options = [one for one in names_and_options if one not in names]
    # By their ports, payloads of ours may look like those of other protocols.
    decoded = ("-d", "udp.port==1-65535,data")
    checked = ("-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE")
    shown = [word for name in names for word in ("-e", name)]
    command = ["tshark", "-r", str(path), "-n", *decoded, *checked, *options, "-T", "fields", *shown]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]
