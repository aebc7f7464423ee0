"""The page of benchmarks is made from the published results."""

import json
import re

from tests.bench.page import PAGE, RESULTS, render, with_parts


def published():
    return json.loads(RESULTS.read_text())


def strings(value):
    """All texts anywhere in parsed JSON."""
    if isinstance(value, dict):
        return strings([*value, *value.values()])
    if isinstance(value, list):
        return [text for item in value for text in strings(item)]
    return [value] if isinstance(value, str) else []


def test_page_is_made_from_the_results():
    assert PAGE.read_text() == render(published()), "run `python -m tests.bench.page`"


def test_published_run_was_whole():
    results = published()
    assert not results["is_quick"]
    assert {"forwarding", "program", "userspace", "control", "loaded", "idle_check", "memory"} <= results.keys()
    assert {row["rows"] for row in results["program"]} == {1, 2000, 30_000}
    assert re.fullmatch(r"[0-9a-f]{12}", results["commit"]), "measured from a commit, without changes"


def test_results_name_the_machine_but_no_path():
    results = published()
    assert {"cpu", "cores", "kernel", "bcc", "clang", "driver"} <= results["machine"].keys()
    assert [text for text in strings(results) if text.startswith(("/", "./", "../"))] == []


def test_a_part_that_was_measured_alone_names_its_run():
    about = {**published(), "date": "2031-02-03", "commit": "0123456789ab"}
    churn = {**about["churn"], "calls": 123}
    results = {name: about[name] for name in ("format", "date", "commit", "is_quick", "machine", "options")}
    whole = with_parts(published(), {**results, "churn": churn})
    assert whole["date"] == published()["date"]
    assert whole["forwarding"] == published()["forwarding"]
    assert whole["churn"]["calls"] == 123
    assert render(whole).count("*In a run of its own on 2031-02-03: commit 0123456789ab, ") == 1
    again = with_parts(whole, {**results, "loaded": about["loaded"]})
    alone = {*published().get("runs", {}), "churn", "loaded"}
    assert render(again).count("*In a run of its own on ") == len(alone)
