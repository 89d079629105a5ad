"""Which tests belong to which Python. On 3.10, which has Lava, every test runs (one if there is a browser); no other skip."""

import os
import sys
from collections.abc import Iterator

import pytest

MISSING: set[str] = set()  # markers of what this Python is known not to have; decided here, not by trying to import
if sys.version_info >= (3, 11):
    MISSING = {"needs_slayer"} if os.environ.get("TAAF_LAVA_ON_NEWER_PYTHON") else {"needs_slayer", "needs_lava"}
collect_ignore = ["unit/test_norse.py", "conformance/test_nir_lava.py"] if "needs_slayer" in MISSING else []  # import norse


def _lacks(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in MISSING) or _lacks_browser(item)


def _lacks_browser(item: pytest.Item) -> bool:
    if item.get_closest_marker("needs_browser") is None:
        return False
    from browser import find_browser  # a program, not a package: looked for

    return find_browser() is None


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks are slower on several threads: tiny convolutions lose more than they gain."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs Lava, or a browser, where there is none."""
    for item in items:
        if _lacks_browser(item):
            item.add_marker(pytest.mark.skip(reason="needs Chromium (Debian: apt-get install chromium); found none on PATH"))
        elif _lacks(item):
            item.add_marker(pytest.mark.skip(reason="needs Lava, which ends at Python 3.10"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A test that is skipped for any other reason has failed."""
    report = (yield).get_result()  # type: ignore[func-returns-value, attr-defined]
    if report.skipped and not _lacks(item):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: skipped ({report.longrepr}); on this Python it has to run"
