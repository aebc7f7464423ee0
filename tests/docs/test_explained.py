"""What an operator may be told has an explanation in docs/troubleshooting.md."""

import ast
import re

from rtpproxy.control.messages import ErrorCode
from rtpproxy.offload import entry
from tests.docs.pages import DOCS, ROOT, text

TROUBLESHOOTING = DOCS / "troubleshooting.md"


def explained() -> set[str]:
    """Code spans in the first column of the tables."""
    rows = re.findall(r"^\|((?:\\\||[^|])*)\|", text(TROUBLESHOOTING), re.MULTILINE)
    return {span for row in rows for span in re.findall(r"`([^`]+)`", row)}


def told(call: ast.expr) -> str:
    """A text of the sources with `…` where something is put in."""
    parts = call.values if isinstance(call, ast.JoinedStr) else [call]
    return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in parts)


def test_every_verdict_is_explained():
    struct = re.search(r"^struct verdicts \{(.*?)^\};", text(ROOT / "bpf" / "verdict.h"), re.MULTILINE | re.DOTALL)
    assert struct is not None
    verdicts = re.findall(r"^\s*__u64 (\w+);", struct[1], re.MULTILINE)
    assert len(verdicts) > 20
    assert [name for name in verdicts if name not in explained()] == []


def test_everything_that_userspace_drops_is_explained():
    names = re.findall(r'"(dropped_\w+)"', text(ROOT / "rtpproxy" / "service" / "sessions.py"))
    assert len(names) > 2
    assert [name for name in names if name not in explained()] == []


def test_every_error_code_is_explained():
    assert [code.name for code in ErrorCode if f"E{code.value}" not in explained()] == []


def test_every_reason_of_a_plan_is_explained():
    reasons = [value for value in vars(entry).values() if isinstance(value, entry.NotOffloaded)]
    # These two are shown in other words, together with streams of sessions that are not complete.
    shown = {*reasons, "not complete or not learned yet"} - {entry.NOT_LEARNED, entry.PEER_UNKNOWN}
    assert [reason for reason in shown if reason not in explained()] == []


def test_every_reason_of_the_kernel_tier_is_explained():
    reasons = set()
    for path in (ROOT / "rtpproxy" / "offload").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                place = {"NoRoute": 0, "_leave": 1}.get(name, len(node.args))
                reasons |= {
                    told(text)
                    for text in node.args[place : place + 1]
                    if isinstance(text, ast.JoinedStr | ast.Constant)
                }
    assert len(reasons) > 5
    assert [reason for reason in sorted(reasons) if reason not in explained()] == []
