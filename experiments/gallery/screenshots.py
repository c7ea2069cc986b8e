"""Screenshots of the report and of the app, in a Chromium that is already there.

1. The report of the hallucination: as it opens, and its causal graph.
2. The app: the picture `colour` is chosen and its question asked; taken when the last set of the
   answer has been found and nothing is in work.

Without Playwright, Chromium or the app's packages nothing is taken, and a line says so.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import date
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

import causal_lvlm as cl

WIDTH, HEIGHT = 1440, 900
PATIENCE, QUIET = 120_000, 4_000  # milliseconds
METHODS = ("attention", "relevancy", "rollout")  # of the report's page

Shot = Callable[[str, str, str], None]


def chromium() -> str | None:
    """Return the Chromium of this machine, None if there is none."""
    return (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )


def take(kit: Any, out: Path, save: Callable[[Image.Image, Path], None]) -> dict[str, Any] | None:
    """Take all of them; return what the page says about them, None if they cannot be taken."""
    browser_path = chromium()
    missing = [name for name in ("playwright", "gradio") if find_spec(name) is None]
    if browser_path is None:
        missing.append("Chromium")
    if missing:
        print(f"no screenshots: {', '.join(missing)} missing; earlier ones are kept", flush=True)
        return None
    from playwright.sync_api import sync_playwright

    pictures: list[dict[str, str]] = []
    with sync_playwright() as tool:
        browser = tool.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PATIENCE)

        def shot(file: str, alt: str, caption: str) -> None:
            with Image.open(BytesIO(page.screenshot())) as image:
                save(image, out / f"{file}.png")
            pictures.append({"file": file, "alt": alt, "caption": caption})

        _report(kit, page, shot)
        _app(page, shot)
        browser.close()
    return {
        "taken": date.today().isoformat(), "by_this_run": True, "width": WIDTH, "height": HEIGHT,
        "pictures": pictures,
    }  # fmt: skip


def _report(kit: Any, page: Any, shot: Shot) -> None:
    _, trace = kit.run("hallucination")
    found = cl.explain(trace, "spoon", seed=kit.seed)
    scored = [cl.attribute(trace, found.target, name) for name in METHODS]
    with tempfile.TemporaryDirectory() as folder:
        path = cl.report(trace, [found], Path(folder) / "report.html", attributions=scored)
        page.goto(path.as_uri())
        page.wait_for_function(_drawn)
        shot(
            "report",
            "The report of the word “spoon” in a browser: the answer as words to click, the "
            "sentence, and the explaining set.",
            "The report of entry 2 as it opens.",
        )
        page.click("#tab-graph")
        page.wait_for_function(_drawn)
        shot(
            "report-graph",
            "The report's causal graph: nodes on the picture and beside the words, edges with "
            "their marks, a slider for the radius.",
            "The same, its causal graph.",
        )


def _app(page: Any, shot: Shot) -> None:
    from causal_lvlm.app.server import serving

    with serving() as running:
        page.goto(running.url)
        page.wait_for_selector("#picture .tools, #picture .empty")
        page.locator("#sample input").click()
        page.get_by_role("option", name="colour", exact=True).click()
        page.wait_for_selector("#picture svg image")
        page.locator("#ask").click()
        page.wait_for_selector("#sentence .sentence")
        _settle(page)
        shot(
            "app",
            "The app in a browser: a picture, its question and the answer on one side, what the "
            "answer depends on at the other.",
            "The app after a question about the picture of entry 1.",
        )
        page.goto("about:blank")


def _settle(page: Any) -> None:
    """Wait until the text of the page stays the same: results come in stages."""
    before = ""
    for _ in range(PATIENCE // QUIET):
        page.wait_for_timeout(QUIET)
        now = page.inner_text("body")
        if now == before:
            return
        before = now


_drawn = "[...document.querySelectorAll('svg')].some(s => s.getBoundingClientRect().width > 150)"
