"""The manual page, made of the table of options that `--help` is made of: `python -m rtpproxy.cli.manual > rtpproxy.8`.

The markup is that of man(7).
"""

import re
import sys

from rtpproxy.cli.options import GROUPS, Option

_DESCRIPTION = (
    "rtpproxy relays RTP and RTCP between phones. A SIP proxy or B2BUA asks it over a control socket for UDP ports and "
    "writes them into the SDP. The relay learns from the first packets where each phone is; then the kernel forwards "
    "the rest, by eBPF, where it can. Without BPF everything is relayed by the program itself.",
    "Options and control protocol are those of the C RTPproxy. Without -f it becomes a daemon: the command returns "
    "once the daemon serves, or prints why it cannot.",
)
_ABOUT_OPTIONS = (
    "Of an option that is given twice the last one counts, but for those that may be given any number of times.",
)
_SIGNALS = (
    ("TERM INT USR1 USR2 XCPU XFSZ VTALRM PROF", "End in order; a second one ends it at once."),
    ("HUP", "Refuse new sessions, and end in order when the last one has ended."),
)
_FILES = (
    ("/var/run/rtpproxy.sock", "Control socket, unless -s names others."),
    ("/var/run/rtpproxy.pid", "Process number, unless -p names another file."),
    ("/run/rtpproxy", "Notes of what to restore after a crash."),
)
_STATUS = (
    ("0", "It ended in order, or the daemon serves."),
    ("1", "It cannot start on this host as asked."),
    ("2", "The command line cannot be used as written."),
    ("128+N", "A second signal N ended it while it was ending."),
)
_EXAMPLES = (
    (
        "rtpproxy -l 192.0.2.1 -s unix:/var/run/rtpproxy.sock -u rtpproxy:kamailio -w 0770",
        "A daemon that Kamailio on the same host controls, and that is an ordinary user once it serves.",
    ),
    (
        "rtpproxy -f -d INFO -l 10.0.0.1/192.0.2.1 -s udp:127.0.0.1:22222 -u rtpproxy",
        "In the foreground, between a private and a public network.",
    ),
)
_SEE_ALSO = "kamailio(8), opensips(8), ip-link(8), capabilities(7)"


def page() -> str:
    """The page as man(1) wants it."""
    lines = ['.TH RTPPROXY 8 "" rtpproxy "System administration"', ".nh", ".ad l"]
    lines += [".SH NAME", "rtpproxy \\- media relay for SIP whose packets the kernel moves"]
    lines += [".SH SYNOPSIS", ".B rtpproxy", ".RI [ options ]"]
    lines += [".SH DESCRIPTION", *_paragraphs(_DESCRIPTION)]
    lines += [".SH OPTIONS", *_paragraphs(_ABOUT_OPTIONS)]
    for group in GROUPS:
        lines.append(f".SS {_escape(group.title)}")
        for option in group.options:
            lines += [".TP", _heading(option), _escape(_body(option))]
    for title, items in (("SIGNALS", _SIGNALS), ("FILES", _FILES), ("EXIT STATUS", _STATUS)):
        lines.append(f".SH {title}")
        for name, text in items:
            lines += [".TP", f".B {_escape(name)}", _escape(text)]
    lines.append(".SH EXAMPLES")
    for command, text in _EXAMPLES:
        lines += [".PP", _escape(text), ".PP", ".nf", ".RS", _escape(command), ".RE", ".fi"]
    lines += [".SH SEE ALSO", _escape(_SEE_ALSO)]
    return "\n".join(lines) + "\n"


def _paragraphs(texts: tuple[str, ...]) -> list[str]:
    lines = [part for text in texts for part in (".PP", _escape(text))]
    return lines[1:]


def _heading(option: Option) -> str:
    argument = option.synopsis.removeprefix(option.flag)
    return rf"\fB{_escape(option.flag)}\fR\fI{_escape(argument)}\fR" if argument else rf"\fB{_escape(option.flag)}\fR"


def _body(option: Option) -> str:
    return f"{option.text} {option.more}".rstrip()


def _escape(text: str) -> str:
    """Keep what means something to troff from doing so: backslashes, hyphens, and the first character of a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return re.sub(r"^(?=[.'])", r"\\&", text)


if __name__ == "__main__":
    sys.stdout.write(page())
