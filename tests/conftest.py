"""Lava ends at Python 3.10: there every test runs and none may be skipped; elsewhere those marked ``needs_lava`` are."""

import os
import sys
from collections.abc import Iterator

import pytest

HAS_LAVA = sys.version_info < (3, 11) or "TAAF_LAVA_ON_NEWER_PYTHON" in os.environ  # expected here, not found by looking


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Lava where there is none."""
    if not HAS_LAVA:
        for item in items:
            if item.get_closest_marker("needs_lava"):
                item.add_marker(pytest.mark.skip(reason="needs Lava, which ends at Python 3.10"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that is skipped although Lava belongs to this Python has failed."""
    report = (yield).get_result()  # type: ignore[func-returns-value, attr-defined]
    if HAS_LAVA and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped; with Lava nothing may be skipped ({report.longrepr})"
