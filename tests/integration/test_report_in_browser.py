"""The page of `bert-large report` in a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from bert_large.cli import main

from tests.support.recorded_runs import HOSTILE_NAME, record_run

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--enable-logging=stderr",
)  # fmt: skip
_DARK = "--blink-settings=preferredColorScheme=0"


@pytest.fixture(autouse=True)
def browser() -> None:
    """Skip the tests without Chromium, or fail them with REQUIRE_BROWSER=1."""
    if CHROMIUM is None:
        reason = "no browser: chromium is not installed"
        pytest.fail(reason) if os.environ.get("REQUIRE_BROWSER") == "1" else pytest.skip(reason)


def render(page: Path, picture: Path, width: int, height: int, *options: str) -> list[str]:
    """Render a page into a PNG and return the messages of the browser's console."""
    command = [str(CHROMIUM), *_OPTIONS, f"--user-data-dir={picture.with_suffix('.profile')}",
               f"--window-size={width},{height}", *options, f"--screenshot={picture}", page.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return re.findall(r":CONSOLE.*", done.stderr)


def colors(picture: Path) -> tuple[tuple[int, int], list[tuple[int, int, int]]]:
    """Return a picture's size and its colors, the most frequent first."""
    from PIL import Image  # comes with matplotlib

    image = Image.open(picture).convert("RGB")
    pixels = image.tobytes()
    counts = Counter(zip(pixels[0::3], pixels[1::3], pixels[2::3], strict=True))
    return image.size, [color for color, _ in counts.most_common()]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [record_run(folder / HOSTILE_NAME, restarts=[10], skipped_at=5), record_run(folder / "_other")]
    assert main(["report", *map(str, runs), "--output-file", str(folder / "report.html")]) == 0
    return folder / "report.html"


@pytest.mark.parametrize(
    ("width", "options", "background"), [(1280, [], (255, 255, 255)), (400, [_DARK], (0x14, 0x18, 0x1D))]
)
def test_page_shows(page: Path, tmp_path: Path, width: int, options: list[str], background: tuple[int, ...]) -> None:
    """Wide and light, narrow and dark: no console messages, not blank, curves in the colors of the runs."""
    assert render(page, tmp_path / "page.png", width, 2400, *options) == []
    size, found = colors(tmp_path / "page.png")
    assert size == (width, 2400)
    assert found[0] == background
    assert len(found) > 200
    assert {(0x1A, 0x7F, 0xC4), (0xD4, 0x56, 0x1A)} <= set(found)


def test_console_messages_are_found(tmp_path: Path) -> None:
    """The check above can fail."""
    broken = tmp_path / "broken.html"
    broken.write_text("<!doctype html><title>x</title><script>console.error('broken')</script>")
    (message,) = render(broken, tmp_path / "page.png", 400, 300)
    assert "broken" in message
    assert len(colors(tmp_path / "page.png")[1]) == 1
