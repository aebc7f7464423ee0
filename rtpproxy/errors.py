"""Every error the relay raises, named by its cause. Wire numbers live in `control.messages`."""


class RtpproxyError(Exception):
    """Base of all errors with a one-line message meant for a person."""


class ConfigError(RtpproxyError):
    """An option or address that cannot be used as written (exit status 2)."""


class StartError(RtpproxyError):
    """The relay cannot start on this machine as asked (exit status 1)."""


class OffloadError(RtpproxyError):
    """The kernel refused a program, a map, an attachment or a netlink request."""


class PortBusyError(RtpproxyError):
    """A port of the pair is taken by another process; another pair may do."""


class PortSpaceError(RtpproxyError):
    """A local address has no free port pair."""


class NoPortsError(RtpproxyError):
    """No free port pair is left, or none can be opened."""

    def __init__(self, message: str, *, is_new_session: bool = False) -> None:
        super().__init__(message)
        self.is_new_session = is_new_session


class SessionNotFoundError(RtpproxyError):
    """No session matches the call-id and tags of a command."""


class StoppingError(RtpproxyError):
    """A new session was refused because a slow shutdown is under way."""


class NotificationOffError(RtpproxyError):
    """A command asks for notification, and no target was configured."""
