"""VLAN tags (IEEE 802.1Q) as values."""

TAG_BYTES = 4
VlanTag = tuple[int, int]
"""Protocol (0x8100 or 0x88a8) and VLAN id."""
