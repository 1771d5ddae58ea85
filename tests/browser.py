"""Chromium without a window, for tests of pages that carry a probe."""

import html
import json
import re
import shutil
import subprocess
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def probe(url: str, *flags: str) -> tuple[dict[str, Any], str]:
    """Open a page; return what its probe has written as JSON into `<pre id="found">`, and the log of the browser."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", *flags, "--dump-dom", url]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    match = re.search(r'<pre id="found">(.*?)</pre>', process.stdout, re.DOTALL)
    assert match, process.stderr[-2000:]
    return json.loads(html.unescape(match[1])), process.stderr
