"""The errors that the relay raises, named by their cause. Error codes of the protocol are in `control/`."""


class RtpproxyError(Exception):
    """Base of all errors with a one-line message meant for a person."""


class ConfigError(RtpproxyError):
    """An option or address that cannot be used as written (exit status 2)."""


class StartError(RtpproxyError):
    """The relay cannot start on this machine as asked (exit status 1)."""


class OffloadError(RtpproxyError):
    """The kernel refused a program, a map, an attachment or a netlink request."""


class PortBusyError(RtpproxyError):
    """Another process has a port of the pair; another pair may be free."""


class PortSpaceError(RtpproxyError):
    """A local address has no free port pair."""


class NoPortsError(RtpproxyError):
    """No port pair is free, or none can be opened."""

    def __init__(self, message: str, *, is_new_session: bool = False) -> None:
        super().__init__(message)
        self.is_new_session = is_new_session


class SessionNotFoundError(RtpproxyError):
    """No session matches the call-id and tags of a command."""


class StoppingError(RtpproxyError):
    """A new session was refused because the relay is stopping slowly."""


class OverloadError(RtpproxyError):
    """A new session was refused because the relay has too little processor time for those that it has."""


class NotificationOffError(RtpproxyError):
    """A command asks for notification, but no target is configured."""


class RecordingError(RtpproxyError):
    """A recording or copy that a command asks for cannot be made."""


class PlaybackError(RtpproxyError):
    """A prompt that a command asks for cannot be played, or not any more."""


class NoCodecsError(RtpproxyError):
    """A prompt is to be played in the codecs that a party offered, and it has offered none."""


class NoPromptError(RtpproxyError):
    """No prompt can be made: of this input, at this place, or on this machine."""


class CodecMissingError(RtpproxyError):
    """The library of a codec is not installed; the message says how to install it."""


class ModuleError(RtpproxyError):
    """A module cannot do what a command asks it for."""
