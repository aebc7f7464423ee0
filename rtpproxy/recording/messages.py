"""Messages between the relay and the process that writes recordings, as values and as bytes.

Each is one message of a SOCK_SEQPACKET socket. Descriptors that belong to it travel beside it (SCM_RIGHTS). Numbers are
in host order: both ends are on one host.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rtpproxy.config import RecordFormat
from rtpproxy.recording.packet import Packet, Place

MAX_BYTES = 64 << 10
"""Longest message of several packets; one that holds a single packet may be a little longer."""
ROOM_BYTES = 128 << 10
"""Room that any message fits into."""
_FORMATS = tuple(RecordFormat)
_DIRECTORIES, _RING, _OPEN, _JOIN, _PACKETS, _LOST, _LEAVE, _CLOSE, _ENDED, _FOUND = range(10)

_KIND = struct.Struct("=B")
_SPOOLED = struct.Struct("=?")
_RECORDS = struct.Struct("=QI")
_FILE = struct.Struct("=IBBQQHHHH")
_STREAM = struct.Struct("=I")
_JOINED = struct.Struct("=IIQ?BHH")
_MISSING = struct.Struct("=IQQ")
_STOP = struct.Struct("=IQ")
_OUTCOME = struct.Struct("=IQQ?")
_DATAGRAM = struct.Struct("=IQBHHI")
_LEFT = struct.Struct("=Q?H")


@dataclass(frozen=True, slots=True)
class Directories:
    """Names the directory of recordings and, if there is one, that of the spool: one or two descriptors."""

    is_spooling: bool


@dataclass(frozen=True, slots=True)
class MapRing:
    """Hands over the ring that the kernel writes packets to (`ring.Ring`): one descriptor."""

    size_bytes: int
    numbers: str
    record_bytes: int


@dataclass(frozen=True, slots=True)
class Open:
    """Hands over an open file, with its descriptor."""

    file: int
    """Number of the file; no two of one relay have the same."""
    format: RecordFormat
    is_continued: bool
    """The file was begun by a process that died."""
    given: int
    """Packets that were given to that process."""
    name: bytes
    """In the directory of recordings."""
    spool_name: bytes
    """In the spool, until the recording ends; empty without a spool."""
    title: str
    """Whose recording it is, in words."""
    teed: int = 0
    """Packets for the file that the kernel wrote to the ring while the dead process was to read them."""
    streams: tuple[int, ...] = ()
    """Numbers of the streams that were written to the file."""


@dataclass(frozen=True, slots=True)
class Join:
    """Writes a stream's packets to a file from now on. Sent again when the addresses change."""

    stream: int
    """Number of the stream; no two of one relay have the same."""
    file: int
    at_ns: int
    """Packets that arrived earlier are not concerned."""
    outgoing: tuple[Place, Place] | None = None
    """Show packets as if they left from the first place for the second; None for as they arrived."""


@dataclass(frozen=True, slots=True)
class Packets:
    """Packets of any streams, by stream, in the order of their arrival."""

    packets: tuple[tuple[int, Packet], ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """Tells that packets of a stream are missing at this point: there was no room for them on the way."""

    stream: int
    at_ns: int
    packets: int


@dataclass(frozen=True, slots=True)
class Leave:
    """Ends a stream's part in its file, which stays open for others."""

    stream: int
    at_ns: int
    """Packets that arrived later are not written."""


@dataclass(frozen=True, slots=True)
class Close:
    """Ends a file, after the streams in it."""

    file: int
    at_ns: int
    """Packets that arrived later are not written."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Tells that a file is closed, and in its directory unless something went wrong."""

    file: int
    packets: int
    """In the file."""
    is_in_place: bool
    """The file is where recordings belong."""
    why: str
    """What went wrong, in words; empty if nothing did."""
    teed: int = 0
    """Packets of the ring that belong into the file, whether or not they are there."""


@dataclass(frozen=True, slots=True)
class Found:
    """Tells of a file in the spool that a killed relay left."""

    name: bytes
    packets: int
    is_in_place: bool
    """It was finished, and is where recordings belong; else it is still in the spool."""
    why: str
    """Why it is still there, in words."""


ToReader = Directories | MapRing | Open | Join | Packets | Lost | Leave | Close
ToRelay = Ended | Found
Message = ToReader | ToRelay


def encode(message: Message) -> bytes:  # noqa: C901 - a table of all kinds
    """Turn a message into bytes. `encode_packets` is for many packets."""
    match message:
        case Directories():
            return _KIND.pack(_DIRECTORIES) + _SPOOLED.pack(message.is_spooling)
        case MapRing():
            sizes = _RECORDS.pack(message.size_bytes, message.record_bytes)
            return _KIND.pack(_RING) + sizes + message.numbers.encode()
        case Open():
            return _encode_open(message)
        case Join():
            return _encode_join(message)
        case Packets():
            return encode_packets(encode_packet(stream, packet) for stream, packet in message.packets)
        case Lost():
            return _KIND.pack(_LOST) + _MISSING.pack(message.stream, message.at_ns, message.packets)
        case Leave():
            return _KIND.pack(_LEAVE) + _STOP.pack(message.stream, message.at_ns)
        case Close():
            return _KIND.pack(_CLOSE) + _STOP.pack(message.file, message.at_ns)
        case Ended():
            counts = _OUTCOME.pack(message.file, message.packets, message.teed, message.is_in_place)
            return _KIND.pack(_ENDED) + counts + message.why.encode()
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


def _encode_open(message: Open) -> bytes:
    title = message.title.encode()
    head = _FILE.pack(
        *(message.file, _FORMATS.index(message.format), message.is_continued, message.given, message.teed),
        *(len(message.name), len(message.spool_name), len(title), len(message.streams)),
    )
    streams = map(_STREAM.pack, message.streams)
    return b"".join((_KIND.pack(_OPEN), head, message.name, message.spool_name, title, *streams))


def _encode_join(message: Join) -> bytes:
    head, about = _KIND.pack(_JOIN), (message.stream, message.file, message.at_ns)
    if message.outgoing is None:
        return head + _JOINED.pack(*about, False, 0, 0, 0)
    (source, from_port), (to, to_port) = message.outgoing
    return b"".join((head, _JOINED.pack(*about, True, len(source), from_port, to_port), source, to))


def _decode_open(body: bytes) -> Open:
    file, form, is_continued, given, teed, name_bytes, spool_bytes, title_bytes, _ = _FILE.unpack_from(body)
    rest = body[_FILE.size :]
    middle, last = name_bytes + spool_bytes, name_bytes + spool_bytes + title_bytes
    title = rest[middle:last].decode()
    streams = tuple(number for (number,) in _STREAM.iter_unpack(rest[last:]))
    about = file, _FORMATS[form], bool(is_continued), given, rest[:name_bytes], rest[name_bytes:middle], title
    return Open(*about, teed, streams)


def _decode_ring(body: bytes) -> MapRing:
    size_bytes, record_bytes = _RECORDS.unpack_from(body)
    return MapRing(size_bytes, body[_RECORDS.size :].decode(), record_bytes)


def _decode_join(body: bytes) -> Join:
    stream, file, at_ns, is_outgoing, host_bytes, from_port, to_port = _JOINED.unpack_from(body)
    if not is_outgoing:
        return Join(stream, file, at_ns)
    hosts = body[_JOINED.size :]
    return Join(stream, file, at_ns, (Place(hosts[:host_bytes], from_port), Place(hosts[host_bytes:], to_port)))


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


def _decode_ended(body: bytes) -> Ended:
    file, packets, teed, is_in_place = _OUTCOME.unpack_from(body)
    return Ended(file, packets, is_in_place, body[_OUTCOME.size :].decode(), teed)


def _decode_found(body: bytes) -> Found:
    packets, is_in_place, length = _LEFT.unpack_from(body)
    rest = body[_LEFT.size :]
    return Found(rest[:length], packets, is_in_place, rest[length:].decode())


_DECODERS: dict[int, Callable[[bytes], Message]] = {
    _DIRECTORIES: lambda body: Directories(*_SPOOLED.unpack(body)),
    _RING: _decode_ring,
    _OPEN: _decode_open,
    _JOIN: _decode_join,
    _PACKETS: _decode_packets,
    _LOST: lambda body: Lost(*_MISSING.unpack(body)),
    _LEAVE: lambda body: Leave(*_STOP.unpack(body)),
    _CLOSE: lambda body: Close(*_STOP.unpack(body)),
    _ENDED: _decode_ended,
    _FOUND: _decode_found,
}
