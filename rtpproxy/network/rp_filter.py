"""Reads the setting rp_filter: whether a packet must come by the interface of the route back to its source (ip-sysctl).

It is of IPv4 only. What the kernel's stack would drop, the programs must not forward.
"""

from pathlib import Path

_SETTINGS = Path("/proc/sys/net/ipv4/conf")
_STRICT = 1


class RpFilter:
    """Knows the setting of each interface that was asked about."""

    def __init__(self, settings: Path = _SETTINGS) -> None:
        """`settings` has a directory for each interface, and one for all."""
        self._settings = settings
        self._known: dict[str, bool] = {}

    def is_strict(self, name: str) -> bool:
        """True if packets by an interface must come by the route back: the larger of its setting and that for all."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._read(name, self._value("all"))
        return known

    def check(self) -> bool:
        """Read all settings again: no event tells that one changed. True if one did. To be called every second."""
        for_all = self._value("all")
        now = {name: self._read(name, for_all) for name in self._known if (self._settings / name).is_dir()}
        is_changed, self._known = now != self._known, now
        return is_changed

    def _read(self, name: str, for_all: int) -> bool:
        return max(for_all, self._value(name)) == _STRICT

    def _value(self, name: str) -> int:
        """Read a setting; 0, which is off, where it is gone with its interface."""
        try:
            return int((self._settings / name / "rp_filter").read_text())
        except OSError:
            return 0
