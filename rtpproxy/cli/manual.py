"""Writes the manual page and docs/options.md, from the same table of options as `--help`.

`python -m rtpproxy.cli.manual > rtpproxy.8` writes the page in the markup of man(7);
`python -m rtpproxy.cli.manual --markdown > docs/options.md` writes the same as Markdown.
"""

import re
import sys
import textwrap

from rtpproxy.cli.options import DEFAULTS, GROUPS, Option, written
from rtpproxy.config import CACHE_DIRECTORY, NOTES_DIRECTORY
from rtpproxy.process.signals import STOP, STOP_SLOWLY

_DESCRIPTION = (
    "rtpproxy relays RTP and RTCP between phones. A SIP proxy or B2BUA asks it over a control socket for UDP ports and "
    "writes these into the SDP. The relay learns from the first packets of a call where each phone is; then the kernel "
    "forwards the rest, by eBPF, where it can. Without BPF the program itself relays all packets.",
    "Options and control protocol are those of the C RTPproxy. Without -f it becomes a daemon: the command returns "
    "once the daemon serves, or prints why it cannot.",
)
_ABOUT_OPTIONS = (
    "If an option is given twice, the last one counts, except for options that may be given any number of times. "
    "A long option may be shortened as long as it is clear which one is meant.",
)
_SIGNALS = (
    (" ".join(signal.name.removeprefix("SIG") for signal in STOP), "Stop cleanly; a second signal stops it at once."),
    (STOP_SLOWLY.name.removeprefix("SIG"), "Refuse new sessions, and stop cleanly when the last one has ended."),
)
_FILES = (
    (written(DEFAULTS["control"]).removeprefix("unix:"), "Control socket, unless -s names others."),
    (written(DEFAULTS["pid_file"]), "Process ID, unless -p names another file."),
    (NOTES_DIRECTORY, "Notes of running relays: what to undo on this host after a crash, and which ports are taken."),
    (CACHE_DIRECTORY, "Compiled BPF programs, for the next start."),
)
_STATUS = (
    ("0", "It stopped cleanly, or the daemon serves."),
    ("1", "It cannot start on this host as asked."),
    ("2", "The command line cannot be used as written."),
    ("128+N", "A second signal N ended it while it was stopping."),
)
_EXAMPLES = (
    (
        "rtpproxy -l 192.0.2.1 -s unix:/var/run/rtpproxy.sock -u rtpproxy:kamailio -w 0770",
        "A daemon for a Kamailio on the same host that runs as user and group kamailio, as Debian's does. The relay "
        "runs as a user of its own, which must be there, once it serves:",
    ),
    (
        "rtpproxy -f -d INFO -l 10.0.0.1/192.0.2.1 -s udp:127.0.0.1:22222 -u rtpproxy",
        "In the foreground, between a private and a public network, with commands over UDP:",
    ),
)
_SEE_ALSO = "kamailio(8), opensips(8), ip-link(8), capabilities(7)"
_WIDTH = 110
"""Characters in a line of Markdown."""
_GENERATED = "<!-- Written by `make docs` from rtpproxy/cli/options.py; do not edit. -->"


def page() -> str:
    """Write the manual page in the markup of man(7)."""
    lines = ['.TH RTPPROXY 8 "" rtpproxy "System administration"', ".nh", ".ad l"]
    lines += [".SH NAME", "rtpproxy \\- media relay for SIP whose packets the kernel moves"]
    lines += [".SH SYNOPSIS", ".B rtpproxy", ".RI [ options ]"]
    lines += [".SH DESCRIPTION", *_paragraphs(_DESCRIPTION)]
    lines += [".SH OPTIONS", *_paragraphs(_ABOUT_OPTIONS)]
    for group in GROUPS:
        lines.append(f".SS {_escape(group.title)}")
        lines += _paragraphs((group.note,)) if group.note else []
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
    flags = option.synopsis.removesuffix(option.argument)
    return rf"\fB{_escape(flags)}\fR\fI{_escape(option.argument)}\fR".removesuffix(r"\fI\fR")


def _body(option: Option) -> str:
    return f"{option.text} {option.more}".rstrip()


def _escape(text: str) -> str:
    """Escape what troff interprets: backslash, hyphen, tilde, caret, and a dot or apostrophe that starts a line."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("~", "\\(ti").replace("^", "\\(ha")
    return re.sub(r"^(?=[.'])", r"\\&", text)


def markdown() -> str:
    """Write docs/options.md."""
    parts = [_GENERATED, "# Options", "```\nrtpproxy [options]\n```", *map(_prose, _ABOUT_OPTIONS)]
    for group in GROUPS:
        parts.append(f"## {group.title}")
        if group.note:
            parts.append(_prose(group.note))
        for option in group.options:
            parts += [f"### `{option.synopsis}`", _prose(option.help)]
            if option.default:
                parts.append("Default: " + (_prose(option.default) if " " in option.default else f"`{option.default}`"))
            if option.more:
                parts.append(_prose(option.more))
    for title, heads, items in (
        ("Signals", "signal | effect", _SIGNALS),
        ("Files", "file | content", _FILES),
        ("Exit status", "status | meaning", _STATUS),
    ):
        rows = "\n".join(f"| `{name}` | {_marked(text)} |" for name, text in items)
        parts += [f"## {title}", f"| {heads} |\n|---|---|\n{rows}"]
    parts.append("## Examples")
    for command, text in _EXAMPLES:
        parts += [_prose(text), f"```\n{command}\n```"]
    return "\n\n".join(parts) + "\n"


_CODE = re.compile(
    r"(?<![\w`-])(?:(?:--[a-z_]+(?:-[a-z]+)?|-[A-Za-z26]\b)"
    r"(?: (?:bound\b|[0-9a-f.:]+/[0-9]+|\w+:\w+|0[0-7]+|/?[AB]\b))?"
    r"|(?:c?unix|udp6?|tcp6?|systemd|stdioc?):[^\s,;]*|CAP_[A-Z_]+|\*(?= ))"
)
"""Matches what is shown as code: options with their arguments, sockets, capabilities."""


def _marked(text: str) -> str:
    """Mark options, sockets and capabilities as code."""
    return _CODE.sub(lambda found: f"`{found[0]}`", text).replace("` `", " ")


def _prose(text: str) -> str:
    """Mark options, sockets and capabilities as code, and wrap the lines."""
    return textwrap.fill(_marked(text), _WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.stdout.write(markdown() if sys.argv[1:] == ["--markdown"] else page())
