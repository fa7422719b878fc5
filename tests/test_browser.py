"""The widgets as a reader meets them: in JupyterLab, in headless Chromium, driven by Playwright.

One JupyterLab on this machine's loopback address, one notebook a test. A page may log no error of ours.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
MISSING = "Chromium is not on this machine; install Debian's package chromium, and playwright with pip"
TOKEN = "course"
TESTS = Path(__file__).parent
PRELUDE = f"import sys; sys.path.insert(0, {str(TESTS)!r})\nfrom dspark_lab import widgets\n"
PICTURES = os.environ.get("WIDGET_PICTURES")  # a folder for a screenshot a test, to look at

if not CHROMIUM and not os.environ.get("CI"):
    pytest.skip(MISSING, allow_module_level=True)


def wait_for(server, url):
    """Until ``url`` answers."""
    for _ in range(300):
        if server.poll() is not None:
            pytest.fail(f"JupyterLab ended: {server.returncode}")
        try:
            return urlopen(f"{url}/api/status?token={TOKEN}")
        except (URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail("JupyterLab did not start")


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """A running JupyterLab: its folder and its address."""
    folder = tmp_path_factory.mktemp("notebooks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--port={port}", "--no-browser", f"--IdentityProvider.token={TOKEN}", "--allow-root"]
    options += [f"--ServerApp.root_dir={folder}"]
    (folder / ".config" / "labconfig").mkdir(parents=True)  # the announcements would ask the network for news
    quiet = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (folder / ".config" / "labconfig" / "page_config.json").write_text(json.dumps(quiet))
    home = {"JUPYTER_CONFIG_DIR": str(folder / ".config"), "JUPYTER_DATA_DIR": str(folder / ".data")}
    path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    log = (folder / "server.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env={**os.environ, **home, "PYTHONPATH": path},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    wait_for(server, f"http://127.0.0.1:{port}")
    yield folder, f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait(20)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, MISSING
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def notebook(jupyter, browser, request):
    """``notebook(code)``: a page on a notebook whose one cell runs ``code``; no error may be logged until the end."""
    folder, url = jupyter
    context = browser.new_context(viewport={"width": 1200, "height": 1000}, reduced_motion="reduce")
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: line.type == "error" and errors.append(line.text))
    page.on("request", lambda asked: errors.append(asked.url) if not ours(asked.url, url) else None)

    def opened(code):
        cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
        head = {
            "nbformat": 4,
            "nbformat_minor": 5,
            "metadata": {"kernelspec": {"name": "python3", "display_name": "P"}},
        }
        path = folder / f"{request.node.name}.ipynb"
        path.write_text(json.dumps({**head, "cells": [{**cell, "source": PRELUDE + code}]}))
        page.goto(f"{url}/lab/workspaces/{request.node.name}/tree/{path.name}?token={TOKEN}")
        page.locator(".jp-Notebook .cm-content").first.click(timeout=60_000)
        page.get_by_text("| Idle").wait_for(timeout=60_000)  # a cell that is run before the kernel is there is dropped
        page.keyboard.press("Shift+Enter")
        return page

    yield opened
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{request.node.name}.png")
    context.close()
    assert [error for error in errors if not harmless(error)] == []


def ours(asked, url):
    """Whether an address that the page asked for is this machine's own."""
    return asked.startswith((url, url.replace("http", "ws"), "data:", "blob:"))


def harmless(error):
    """JupyterLab's own complaints, which have nothing to do with the widgets."""
    return "status of 404" in error or "api/workspaces" in error or "Failed to load resource" in error


def test_the_ribbon_guesses_by_mouse_and_by_keyboard(notebook):
    text = "[*hand_text([0], length=0), *hand_text([3, 0, 7])]"  # its first round has no draft, and so no row
    page = notebook(f"from hand_rounds import *\nribbon = widgets.Ribbon({text}, decode)\nribbon")
    row = page.locator(".dspark .row")
    row.first.locator("button").nth(3).wait_for(timeout=60_000)
    assert row.count() == 1 and "p and its fate are shown after" in row.first.locator("button").first.get_attribute(
        "aria-label"
    )
    row.first.locator("button").nth(3).click()
    assert "Round 2: Right: you said position 4" in page.locator(".question").inner_text()
    assert row.locator(".number").all_inner_texts() == ["2", "3"]
    assert row.count() == 2 and row.first.locator("button.rejected").count() == 1
    row.nth(1).locator("button").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "position 3: q" in page.locator(".detail").inner_text()
    page.keyboard.press("Enter")
    assert "Not so: you said position 3, it was rejected at position 1" in page.locator(".question").inner_text()
    page.keyboard.press("ArrowUp")
    page.locator("button.rest").click()
    assert "All rounds are shown." in page.locator(".question").inner_text() and row.count() == 3


def test_the_accept_rule_moves_by_keys_and_draws(notebook):
    page = notebook("rule = widgets.AcceptRule(words=['of', 'course', 'no', 'problem'])\nrule")
    page.locator("button.say").wait_for(timeout=60_000)
    assert page.locator("[role=slider]").count() == 8 and page.locator("button.one").count() == 0
    page.locator("button.say").click()
    assert "The acceptance is the overlap, 0.600" in page.locator(".told").inner_text()
    page.locator("[data-at=q0]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowUp")
    assert page.locator("[data-at=q0]").get_attribute("aria-valuenow") == "0.21"
    page.locator("button.many").click()
    page.get_by_text(re.compile(r"Accepted \d+ of 100")).wait_for()


def test_bars_are_dragged(notebook):
    page = notebook("rule = widgets.AcceptRule(words=['of', 'course', 'no', 'problem'])\nrule")
    bar = page.locator("[data-at=p3]")
    bar.wait_for(timeout=60_000)
    box = bar.bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] * 0.9)
    page.mouse.down()
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] * 0.7)
    page.mouse.move(box["x"] + 10, box["y"] + box["height"] * 0.5)
    page.mouse.up()
    assert float(page.locator("[data-at=p3]").get_attribute("aria-valuenow")) == pytest.approx(0.5, abs=0.03)


def test_a_live_race_streams_and_can_be_stopped(notebook):
    code = "import dspark_lab as lab\npair = lab.load_pair()\npair.stop_tokens = frozenset()\n"  # runs on
    page = notebook(code + "widgets.Race(pair, {'prose': 'Tell me about the sea.'}, max_tokens=2000)")
    start = page.get_by_role("button", name="start", exact=True)
    start.wait_for(timeout=90_000)
    assert start.is_disabled()
    page.get_by_role("button", name="prose", exact=True).click()
    start.click()
    clock = page.locator(".lane .clock").first
    page.wait_for_function(
        "() => /[1-9]\\d* passes/.test(document.querySelector('.lane .clock')?.textContent)", timeout=60_000
    )
    first = clock.inner_text()
    page.wait_for_function("was => document.querySelector('.lane .clock').textContent !== was", arg=first)
    page.get_by_role("button", name="stop", exact=True).click()
    page.get_by_text("Stopped; the lanes stand where they were.").wait_for(timeout=20_000)
    still = clock.inner_text()
    page.wait_for_timeout(500)
    assert clock.inner_text() == still and start.is_enabled()
    assert "Live, on this machine" in page.locator(".dspark .label").inner_text()


def test_a_recorded_race_plays_and_says_that_it_is_one(notebook):
    page = notebook("from test_widgets import hand_trace\nwidgets.Race(traces=[hand_trace()])")
    page.get_by_role("button", name="math", exact=True).click(timeout=60_000)
    page.get_by_role("button", name="start", exact=True).click()
    page.get_by_text("Right: you said math; math won least, and none lost.").wait_for(timeout=20_000)
    assert "A recording, not a live run" in page.locator(".dspark .label").inner_text()
    assert page.locator(".lane.finished").count() == 2


def test_the_cost_explorer_reveals_after_the_guess(notebook):
    page = notebook("widgets.CostExplorer()")
    reveal = page.get_by_role("button", name="that is my guess")
    reveal.wait_for(timeout=60_000)
    assert page.locator(".jp-OutputArea-output figure img").count() == 0
    reveal.click()
    image = page.locator(".jp-OutputArea-output figure img")
    image.wait_for(timeout=20_000)
    assert image.get_attribute("alt").startswith("Speed by draft length")
    assert page.get_by_text(re.compile("you said 3, and .* is best")).count() == 1


def test_a_figure_has_its_alternative_text_in_jupyterlab(notebook):
    page = notebook("from gallery import FAST\nfrom dspark_lab import plots\nplots.by_position(FAST)")
    image = page.locator(".jp-OutputArea-output figure img")
    image.wait_for(timeout=60_000)
    assert image.get_attribute("alt").startswith("Conditional by position")
    assert page.locator("figcaption").inner_text() == image.get_attribute("alt")
    assert image.evaluate("image => image.naturalWidth") > 300
