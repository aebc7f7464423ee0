"""Messages between the relay and the process that writes, sends and watches, as values and as bytes.

Each is one message of a SOCK_SEQPACKET socket. Descriptors that belong to it travel beside it (SCM_RIGHTS). Numbers are
in host order: both ends are on one host.
"""

import operator
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from rtpproxy.config import RecordFormat
from rtpproxy.recording.packet import Packet, Place

MAX_BYTES = 64 << 10
"""Longest message of several packets; one that holds a single packet may be a little longer."""
ROOM_BYTES = 128 << 10
"""Room that any message fits into."""
_FORMATS = tuple(RecordFormat)
_DIRECTORIES, _NO_DIRECTORY, _RING, _OPEN, _OPEN_COPY, _AIM, _JOIN, _TEED, _PACKETS, _LOST, _LEAVE, _CLOSE = range(12)
_ENDED, _FOUND, _PROGRESS, _OPEN_TAP, _NOTICED, _COLLECTED, _SEVERAL = range(12, 19)
_NO_TYPE = 255

_KIND = struct.Struct("=B")
_SPOOLED = struct.Struct("=??")
_RECORDS = struct.Struct("=QI")
_FILE = struct.Struct("=IBBQQHHH")
_COPY = struct.Struct("=IQQQQ")
_TAP = struct.Struct("=IQQQBHH")
_AIMED = struct.Struct("=I??HI")
_NUMBER = struct.Struct("=I")
_JOINED = struct.Struct("=IIQ?BHH")
_MISSING = struct.Struct("=IQQ")
_STOP = struct.Struct("=IQ")
_OUTCOME = struct.Struct("=IQQQ?")
_SENT = struct.Struct("=IQQ")
_DATAGRAM = struct.Struct("=IQBHHI")
_LEFT = struct.Struct("=Q?H")
_REPORTED = struct.Struct("=qqqqq")


@dataclass(frozen=True, slots=True)
class Directories:
    """Names the directory of recordings and, once it is there, the spool: one or two descriptors."""

    has_spool: bool
    finishes: bool
    """Finish what killed relays left in the spool. No file of this relay is there without a lock."""


@dataclass(frozen=True, slots=True)
class NoDirectory:
    """Says that this relay makes no recordings: the process needs no directory."""


@dataclass(frozen=True, slots=True)
class MapRing:
    """Hands over the ring that the kernel writes packets to (`ring.Ring`): one descriptor."""

    size_bytes: int
    numbers: str
    record_bytes: int


@dataclass(frozen=True, slots=True)
class Open:
    """Hands over an open file, with its descriptor."""

    output: int
    """Number of the file; no two outputs (files, copies) of one relay have the same."""
    format: RecordFormat
    is_continued: bool
    """The file was begun by a process that died."""
    given: int
    """Packets that were given to that process."""
    name: bytes
    """In the directory of recordings."""
    spool_name: bytes
    """In the spool, until the recording ends; empty if it was moved already."""
    title: str
    """Whose recording it is, in words."""
    teed: int = 0
    """Packets for the file that the kernel wrote to the ring while the dead process was to read them."""
    tees: tuple[int, ...] = ()
    """Numbers under which the kernel wrote packets for the file to the ring."""


@dataclass(frozen=True, slots=True)
class OpenCopy:
    """Begins to copy, for now to nowhere. Its members mean the same as those of `Open`."""

    output: int
    given: int = 0
    packets: int = 0
    """Of these and those in the ring, packets that the dead process sent or withheld, as far as it told."""
    withheld: int = 0
    teed: int = 0
    tees: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenTap:
    """Begins to look at packets. Its members mean the same as those of `OpenCopy`."""

    output: int
    kind: str
    """What looks at them (`handlers`)."""
    settings: bytes = b""
    """For that."""
    payload_type: int | None = None
    """Only RTP packets of this payload type are meant; None for all packets."""
    given: int = 0
    packets: int = 0
    teed: int = 0
    tees: tuple[int, ...] = ()

    @property
    def withheld(self) -> int:
        """Nothing: there is no packet that a tap leaves alone."""
        return 0


class To(NamedTuple):
    """Where copies go: a numeric address without zone, a port, and the number of the zone (link) or 0."""

    host: str
    port: int
    zone: int


@dataclass(frozen=True, slots=True)
class Aim:
    """Sends a copy's packets to another place, at once; what waits to be sent goes there, too."""

    output: int
    to: To | None
    """None withholds them."""
    has_socket: bool
    """A descriptor comes with it: the socket to send by from now on. The first place has one."""


@dataclass(frozen=True, slots=True)
class Join:
    """Brings a stream's packets to an output from now on. Sent again when the addresses change."""

    stream: int
    """Number of the stream on its way to one output; no two of one relay have the same."""
    output: int
    at_ns: int
    """Packets that arrived earlier are not concerned."""
    outgoing: tuple[Place, Place] | None = None
    """Show packets as if they left from the first place for the second; None for as they arrived."""


@dataclass(frozen=True, slots=True)
class Teed:
    """Tells for which streams the packets are that the ring has under a number. Sent once, after these have joined."""

    tee: int
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Packets:
    """Packets of any streams, by stream, in the order of their arrival."""

    packets: tuple[tuple[int, Packet], ...]


@dataclass(frozen=True, slots=True)
class Several:
    """Messages without descriptors, in their order. Each message wakes the process, so those of one turn share one."""

    messages: tuple["Message", ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """Tells that packets of a stream are missing at this point: there was no room for them on the way."""

    stream: int
    at_ns: int
    packets: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Ends a stream's part in its output, which stays open for others."""

    stream: int
    at_ns: int
    """Packets that arrived later are not written or sent."""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends an output, after the streams in it."""

    output: int
    at_ns: int
    """Packets that arrived later are not written or sent."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Tells that an output is closed: a file is in its directory then, unless something went wrong."""

    output: int
    packets: int
    """In the file; sent or withheld, of a copy."""
    is_in_place: bool
    """The file is where recordings belong."""
    why: str
    """What went wrong, in words; empty if nothing did."""
    teed: int = 0
    """Packets of the ring that belong into the output, whether or not they are there."""
    withheld: int = 0
    """Of the packets, those that came while a copy went nowhere."""


class Sent(NamedTuple):
    """How far a copy or tap is: packets that it is done with, and of these the withheld ones."""

    output: int
    packets: int
    withheld: int


@dataclass(frozen=True, slots=True)
class Progress:
    """Tells how far copies and taps are, about once a second: what a process that dies does not tell at their end."""

    sent: tuple[Sent, ...]


@dataclass(frozen=True, slots=True)
class Noticed:
    """Tells what a tap found, in its own words."""

    output: int
    found: bytes


@dataclass(frozen=True, slots=True)
class Found:
    """Tells of a file in the spool that a killed relay left."""

    name: bytes
    packets: int
    is_in_place: bool
    """It was finished, and is where recordings belong; else it is still in the spool."""
    why: str
    """Why it is still there, in words."""


class Reports(NamedTuple):
    """What became of RTCP that was to be reported to Homer."""

    sent: int = 0
    """Packets that were sent to a collector."""
    lost: int = 0
    """Packets that were to be sent, and were not."""
    malformed: int = 0
    """Datagrams that could not be read, or not to their end."""
    encrypted: int = 0
    """Datagrams that are SRTCP, and so left out."""
    without_report: int = 0
    """Datagrams of which there is nothing to report, malformed ones included."""

    def plus(self, more: "Reports") -> "Reports":
        """Add each of the counts."""
        return Reports(*map(operator.add, self, more))

    def minus(self, before: "Reports") -> "Reports":
        """Subtract each of the counts."""
        return Reports(*map(operator.sub, self, before))


@dataclass(frozen=True, slots=True)
class Collected:
    """Tells how the counts of reports changed since the last such message (`collectors`)."""

    changes: Reports
    """Some may be negative: packets that were told as sent may turn out not to have been taken."""
    why: str
    """Why the latest packets were lost, in words; empty if none ever were."""


Opening = Open | OpenCopy | OpenTap
ToReader = Directories | NoDirectory | MapRing | Opening | Aim | Join | Teed | Packets | Several | Lost | Leave | Close
ToRelay = Ended | Found | Progress | Noticed | Collected
Message = ToReader | ToRelay


def encode(message: Message) -> bytes:  # noqa: C901 - a table of all kinds
    """Turn a message into bytes. `encode_packets` is for many packets."""
    match message:
        case Directories():
            return _KIND.pack(_DIRECTORIES) + _SPOOLED.pack(message.has_spool, message.finishes)
        case NoDirectory():
            return _KIND.pack(_NO_DIRECTORY)
        case MapRing():
            sizes = _RECORDS.pack(message.size_bytes, message.record_bytes)
            return _KIND.pack(_RING) + sizes + message.numbers.encode()
        case Open():
            return _encode_open(message)
        case OpenCopy():
            counts = message.given, message.packets, message.withheld, message.teed
            head = _COPY.pack(message.output, *counts)
            return _KIND.pack(_OPEN_COPY) + head + _encode_numbers(message.tees)
        case OpenTap():
            return _encode_open_tap(message)
        case Aim():
            host, port, zone = message.to or ("", 0, 0)
            head = _AIMED.pack(message.output, message.to is not None, message.has_socket, port, zone)
            return _KIND.pack(_AIM) + head + host.encode()
        case Join():
            return _encode_join(message)
        case Teed():
            return _KIND.pack(_TEED) + _encode_numbers((message.tee, *message.streams))
        case Packets():
            return encode_packets(encode_packet(stream, packet) for stream, packet in message.packets)
        case Several():
            return encode_several(map(encode, message.messages))
        case Lost():
            return _KIND.pack(_LOST) + _MISSING.pack(message.stream, message.at_ns, message.packets)
        case Leave():
            return _KIND.pack(_LEAVE) + _STOP.pack(message.stream, message.at_ns)
        case Close():
            return _KIND.pack(_CLOSE) + _STOP.pack(message.output, message.at_ns)
        case Ended():
            counts = message.packets, message.teed, message.withheld, message.is_in_place
            return _KIND.pack(_ENDED) + _OUTCOME.pack(message.output, *counts) + message.why.encode()
        case Progress():
            return b"".join((_KIND.pack(_PROGRESS), *(_SENT.pack(*one) for one in message.sent)))
        case Collected():
            return _KIND.pack(_COLLECTED) + _REPORTED.pack(*message.changes) + message.why.encode()
        case Noticed():
            return _KIND.pack(_NOTICED) + _NUMBER.pack(message.output) + message.found
        case Found():
            head = _LEFT.pack(message.packets, message.is_in_place, len(message.name))
            return _KIND.pack(_FOUND) + head + message.name + message.why.encode()


def decode(data: bytes) -> Message:
    """Turn the bytes of a message into its value."""
    return _DECODERS[data[0]](data[1:])


def encode_packet(stream: int, packet: Packet) -> bytes:
    """Encode one packet, for `encode_packets`."""
    arrived_ns, (source, from_port), (to, to_port), payload = packet
    head = _DATAGRAM.pack(stream, arrived_ns, len(source), from_port, to_port, len(payload))
    return b"".join((head, source, to, payload))


def encode_packets(encoded: Iterable[bytes]) -> bytes:
    """Make one message of packets that `encode_packet` encoded."""
    return b"".join((_KIND.pack(_PACKETS), *encoded))


def encode_several(encoded: Iterable[bytes]) -> bytes:
    """Make one message of several that `encode` encoded."""
    return b"".join((_KIND.pack(_SEVERAL), *(_NUMBER.pack(len(one)) + one for one in encoded)))


def _encode_open(message: Open) -> bytes:
    title = message.title.encode()
    head = _FILE.pack(
        *(message.output, _FORMATS.index(message.format), message.is_continued, message.given, message.teed),
        *(len(message.name), len(message.spool_name), len(title)),
    )
    names = message.name + message.spool_name + title
    return _KIND.pack(_OPEN) + head + names + _encode_numbers(message.tees)


def _encode_open_tap(message: OpenTap) -> bytes:
    kind, given = message.kind.encode(), (message.given, message.packets, message.teed)
    wanted = _NO_TYPE if message.payload_type is None else message.payload_type
    head = _TAP.pack(message.output, *given, wanted, len(kind), len(message.settings))
    return _KIND.pack(_OPEN_TAP) + head + kind + message.settings + _encode_numbers(message.tees)


def _encode_numbers(numbers: Iterable[int]) -> bytes:
    return b"".join(map(_NUMBER.pack, numbers))


def _decode_numbers(data: bytes) -> tuple[int, ...]:
    return tuple(number for (number,) in _NUMBER.iter_unpack(data))


def _encode_join(message: Join) -> bytes:
    head, about = _KIND.pack(_JOIN), (message.stream, message.output, message.at_ns)
    if message.outgoing is None:
        return head + _JOINED.pack(*about, False, 0, 0, 0)
    (source, from_port), (to, to_port) = message.outgoing
    return b"".join((head, _JOINED.pack(*about, True, len(source), from_port, to_port), source, to))


def _decode_open(body: bytes) -> Open:
    output, form, is_continued, given, teed, name_bytes, spool_bytes, title_bytes = _FILE.unpack_from(body)
    rest = body[_FILE.size :]
    middle, last = name_bytes + spool_bytes, name_bytes + spool_bytes + title_bytes
    title = rest[middle:last].decode()
    about = output, _FORMATS[form], bool(is_continued), given, rest[:name_bytes], rest[name_bytes:middle], title
    return Open(*about, teed, _decode_numbers(rest[last:]))


def _decode_open_copy(body: bytes) -> OpenCopy:
    output, given, packets, withheld, teed = _COPY.unpack_from(body)
    return OpenCopy(output, given, packets, withheld, teed, _decode_numbers(body[_COPY.size :]))


def _decode_open_tap(body: bytes) -> OpenTap:
    output, given, packets, teed, wanted, kind_bytes, settings_bytes = _TAP.unpack_from(body)
    rest = body[_TAP.size :]
    end = kind_bytes + settings_bytes
    about = rest[:kind_bytes].decode(), rest[kind_bytes:end], None if wanted == _NO_TYPE else wanted
    return OpenTap(output, *about, given, packets, teed, _decode_numbers(rest[end:]))


def _decode_noticed(body: bytes) -> Noticed:
    return Noticed(_NUMBER.unpack_from(body)[0], body[_NUMBER.size :])


def _decode_aim(body: bytes) -> Aim:
    output, is_aimed, has_socket, port, zone = _AIMED.unpack_from(body)
    to = To(body[_AIMED.size :].decode(), port, zone) if is_aimed else None
    return Aim(output, to, has_socket)


def _decode_teed(body: bytes) -> Teed:
    tee, *streams = _decode_numbers(body)
    return Teed(tee, tuple(streams))


def _decode_ring(body: bytes) -> MapRing:
    size_bytes, record_bytes = _RECORDS.unpack_from(body)
    return MapRing(size_bytes, body[_RECORDS.size :].decode(), record_bytes)


def _decode_join(body: bytes) -> Join:
    stream, output, at_ns, is_outgoing, host_bytes, from_port, to_port = _JOINED.unpack_from(body)
    if not is_outgoing:
        return Join(stream, output, at_ns)
    hosts = body[_JOINED.size :]
    return Join(stream, output, at_ns, (Place(hosts[:host_bytes], from_port), Place(hosts[host_bytes:], to_port)))


def _decode_packets(body: bytes) -> Packets:
    return Packets(tuple(_each_packet(body)))


def _each_packet(body: bytes) -> Iterator[tuple[int, Packet]]:
    at, end = 0, len(body)
    while at < end:
        stream, arrived_ns, host_bytes, from_port, to_port, length = _DATAGRAM.unpack_from(body, at)
        first = at + _DATAGRAM.size
        middle, last = first + host_bytes, first + 2 * host_bytes
        at = last + length
        source, to = Place(body[first:middle], from_port), Place(body[middle:last], to_port)
        yield stream, Packet(arrived_ns, source, to, body[last:at])


def _decode_several(body: bytes) -> Several:
    return Several(tuple(_each_message(body)))


def _each_message(body: bytes) -> Iterator[Message]:
    at = 0
    while at < len(body):
        (length,) = _NUMBER.unpack_from(body, at)
        at += _NUMBER.size
        yield decode(body[at : at + length])
        at += length


def _decode_ended(body: bytes) -> Ended:
    output, packets, teed, withheld, is_in_place = _OUTCOME.unpack_from(body)
    return Ended(output, packets, is_in_place, body[_OUTCOME.size :].decode(), teed, withheld)


def _decode_progress(body: bytes) -> Progress:
    return Progress(tuple(Sent(*one) for one in _SENT.iter_unpack(body)))


def _decode_found(body: bytes) -> Found:
    packets, is_in_place, length = _LEFT.unpack_from(body)
    rest = body[_LEFT.size :]
    return Found(rest[:length], packets, is_in_place, rest[length:].decode())


def _decode_collected(body: bytes) -> Collected:
    return Collected(Reports(*_REPORTED.unpack_from(body)), body[_REPORTED.size :].decode())


_DECODERS: dict[int, Callable[[bytes], Message]] = {
    _DIRECTORIES: lambda body: Directories(*_SPOOLED.unpack(body)),
    _NO_DIRECTORY: lambda _: NoDirectory(),
    _RING: _decode_ring,
    _OPEN: _decode_open,
    _OPEN_COPY: _decode_open_copy,
    _OPEN_TAP: _decode_open_tap,
    _AIM: _decode_aim,
    _JOIN: _decode_join,
    _TEED: _decode_teed,
    _PACKETS: _decode_packets,
    _SEVERAL: _decode_several,
    _LOST: lambda body: Lost(*_MISSING.unpack(body)),
    _LEAVE: lambda body: Leave(*_STOP.unpack(body)),
    _CLOSE: lambda body: Close(*_STOP.unpack(body)),
    _ENDED: _decode_ended,
    _FOUND: _decode_found,
    _PROGRESS: _decode_progress,
    _COLLECTED: _decode_collected,
    _NOTICED: _decode_noticed,
}
