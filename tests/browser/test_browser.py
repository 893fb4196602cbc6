"""Lessons in a real browser: JupyterLab and headless Chromium run all cells, move a slider, and talk to tiny-r1.

Screenshots are kept in .pytest_cache/screenshots/.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
ROOT = Path(__file__).parents[2]
SHOTS = ROOT / ".pytest_cache" / "screenshots"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
PATIENCE = 240_000  # milliseconds, for a lesson on a slow machine


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a copy of the lessons."""
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "images", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name)
    settings = folder / "settings" / "@jupyterlab"
    (settings / "notebook-extension").mkdir(parents=True)
    (settings / "apputils-extension").mkdir()
    # All cells in the page, also those out of sight; and no question about news.
    (settings / "notebook-extension" / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text(json.dumps(news))
    env = os.environ | {
        "HOME": str(folder / "home"), "DSV3_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1",
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_PLATFORM_DIRS": "1",
    }  # fmt: skip
    (folder / "home").mkdir()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0", "--allow-root"]
    command += ["--expose-app-in-browser", f"--ServerApp.root_dir={folder}"]
    log = folder / "lab.log"
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=folder, env=env, stdout=out, stderr=out)
    try:
        yield address(server, log)
    finally:
        server.terminate()
        server.wait(30)


def address(server, log):
    """``http://127.0.0.1:PORT/lab`` with its token, once JupyterLab says it."""
    end = time.monotonic() + 120
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:\d+/lab\?token=\w+", log.read_text()):
            return found[0]
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def run_lesson(lab, browser):
    """Open a lesson, run all its cells; gives the page."""
    pages = []

    def run(name):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        pages.append(page)
        page.set_default_timeout(PATIENCE)
        # A workspace of its own: the default one would open the lesson before, too.
        page.goto(lab.replace("/lab?", f"/lab/workspaces/{name}/tree/notebooks/{name}.ipynb?"))
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        page.evaluate("() => window.jupyterapp.restored")
        page.wait_for_selector("text=/Python 3.*Idle/")
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function(
            "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.innerText.includes('*'))"
        )
        assert page.locator('[data-mime-type="application/vnd.jupyter.error"]').count() == 0
        empty = page.locator(".jp-CodeCell .jp-InputPrompt").filter(has_text=re.compile(r"\[ \]:"))
        assert empty.count() == 0, "a cell did not run"
        return page

    SHOTS.mkdir(parents=True, exist_ok=True)
    yield run
    for page in pages:
        page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
        page.close()


def shoot(page, locator, name):
    locator.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / f"{name}.png")


def move(slider, answer):
    """Drag a slider's handle to the right end until ``answer`` says something else; the page may still be moving."""
    before, mouse, end = answer.inner_html(), slider.page.mouse, time.monotonic() + PATIENCE / 1000
    while answer.inner_html() == before:
        assert time.monotonic() < end, "the slider changes nothing"
        slider.scroll_into_view_if_needed()
        rail, handle = slider.locator(".noUi-target").bounding_box(), slider.locator(".noUi-handle").bounding_box()
        mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        mouse.down()
        mouse.move(rail["x"] + rail["width"], handle["y"] + handle["height"] / 2, steps=5)
        mouse.up()
        slider.page.wait_for_timeout(3000)


def test_start_here_counts_anew_when_a_slider_moves(run_lesson):
    page = run_lesson("00_start_here")
    slider = page.locator(".widget-slider", has_text="GPUs").first
    answer = page.locator(".widget-html pre").first
    shoot(page, answer, "00_start_here")
    move(slider, answer)
    shoot(page, answer, "00_start_here-moved")
    assert answer.inner_text().startswith("DeepSeek-R1")


def test_the_fp8_explorer_answers_a_slider(run_lesson):
    page = run_lesson("03_fp8_casting")
    slider = page.locator(".widget-slider").first
    answer = page.locator(".widget-html").first
    move(slider, answer)
    shoot(page, answer, "03_fp8_casting")


def test_a_chat_message_is_answered(run_lesson):
    page = run_lesson("09_generation")
    field = page.locator(".dsv3-chat-input input, .dsv3-chat-input textarea").first
    field.fill("37 + 48 = ?")
    field.press("Tab")
    page.locator("button.dsv3-chat-send, .dsv3-chat-send button").first.click()
    answer = page.locator(".dsv3-chat-answer").last
    sync_api.expect(answer).to_contain_text("85", timeout=PATIENCE)
    shoot(page, answer, "09_generation")
