"""Looks up the addresses of host names and of interfaces, for the command line.

Modules that take long to import are imported where they are used, so that `--help` is quick.
"""

from rtpproxy import addr
from rtpproxy.errors import ConfigError, OffloadError


def look_up(name: str, is_ipv6: bool | None) -> str:
    """Ask the resolver for an address of a host name, IPv6 or IPv4; None means either. Raises ConfigError.

    The name of an interface is refused at once, without asking a name server.
    """
    import socket

    check_no_interface(name, is_ipv6)
    family = {None: socket.AF_UNSPEC, False: socket.AF_INET, True: socket.AF_INET6}[is_ipv6]
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConfigError(f"and not found as a name: {reason}") from error
    return str(found[0][4][0])


def look_nothing_up(name: str, is_ipv6: bool | None) -> str:
    """Refuse every name, as `--no_resolve` asks. Raises ConfigError."""
    check_no_interface(name, is_ipv6)
    raise ConfigError("and --no_resolve forbids names")


def check_no_interface(name: str, is_ipv6: bool | None) -> None:
    """Raise ConfigError, with the addresses to choose from, if an interface has this name."""
    import socket

    try:
        index = socket.if_nametoindex(name)
    except (OSError, ValueError, UnicodeError):
        return
    hosts = [host for host in _addresses_of(index) if is_ipv6 in (None, addr.is_ipv6(host))]
    if hosts:
        raise ConfigError(f"but {name} is an interface; its addresses are {', '.join(hosts)}; give one of them")
    family = {None: "", False: "IPv4 ", True: "IPv6 "}[is_ipv6]
    raise ConfigError(f"but {name} is an interface, and has no {family}address")


def _addresses_of(index: int) -> list[str]:
    """List the addresses of an interface, IPv4 first, without link-local IPv6 ones."""
    import ipaddress
    from contextlib import closing

    from rtpproxy.network.addresses import addresses_of_host
    from rtpproxy.network.netlink import Rtnetlink

    try:
        with closing(Rtnetlink()) as netlink:
            found = [ipaddress.ip_address(host) for host, carrier in addresses_of_host(netlink) if carrier == index]
    except (OSError, OffloadError):
        # The error still says that it is an interface, though without addresses to choose from.
        return []
    usable = [host for host in found if host.version == 4 or not host.is_link_local]
    return [str(host) for host in sorted(usable, key=lambda host: host.version)]
