"""Lists of port ranges, as `net.ipv4.ip_local_reserved_ports` has them."""

Ranges = list[tuple[int, int]]
"""First and last port of each range, in ascending order."""


def parse_ranges(text: str) -> Ranges:
    """Read the kernel's form, `1000,2000-2010`."""
    ranges = []
    for part in text.strip().split(","):
        if part:
            low, _, high = part.partition("-")
            ranges.append((int(low), int(high or low)))
    return ranges


def format_ranges(ranges: Ranges) -> str:
    """Write the kernel's form; without the line feed the kernel would not accept an empty list."""
    return ",".join(f"{low}-{high}" for low, high in ranges) + "\n"


def merge(ranges: Ranges) -> Ranges:
    """Return the same ports in as few ranges as possible."""
    merged: Ranges = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def subtract(ranges: Ranges, taken: Ranges) -> Ranges:
    """Return the ports of `ranges` that are not in `taken`."""
    left = merge(ranges)
    for low, high in taken:
        pieces = []
        for start, end in left:
            pieces += [(start, min(end, low - 1)), (max(start, high + 1), end)]
        left = [(start, end) for start, end in merge([piece for piece in pieces if piece[0] <= piece[1]])]
    return left
