"""The helpers' assertions show their values, too."""

import pytest

pytest.register_assert_rewrite("tests.hostile.model", "tests.hostile.played")
