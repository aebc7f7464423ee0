"""The kernel says nothing of trouble, in none of its boots."""

import re

import pytest

TROUBLE = re.compile(r"\b(WARNING|BUG|Oops|Call Trace|Kernel panic|soft lockup|hung task|refcount_t|KASAN|UBSAN)\b")


@pytest.mark.last
@pytest.mark.short
def test_kernel_log_is_clean(gateway):
    gateway.save_journal()
    logs = sorted(gateway.report.glob("kernel-*.log"))
    lines = [line for log in logs for line in log.read_text().splitlines()]
    assert len(lines) > 100
    assert not [line for line in lines if TROUBLE.search(line)]
    assert gateway.kernel_errors() == gateway.kernel_errors_at_boot
