"""The pack in ComfyUI's real front end. It is run where `-m browser` asks for it; with FLOWCACHE_WRITE=1 it also makes
the thumbnails of the templates and the screenshots of the README."""

import os
import time
from pathlib import Path

import pytest

from tests.nodes import browser
from tests.nodes import server as servers

pytestmark = pytest.mark.browser
WRITE = bool(os.environ.get("FLOWCACHE_WRITE"))
FIRST, COMPARED = "1_first_video", "2_uncached_and_accelerated"
THUMBNAIL = (480, 25_000)   # pixels wide, bytes
SCREENSHOT = (1280, 80_000)
ENOUGH = 900   # seconds
SAMPLER, REPORT = "FlowCache_ChunkedARSampler", "FlowCache_Report"


@pytest.fixture(scope="module")
def server(root, version, tmp_path_factory):
    if version < (0, 27):
        pytest.skip("shown in the newest host alone")
    with servers.started(Path(os.environ["COMFYUI_PATH"]), root, tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="module")
def page(server):
    with browser.opened() as made:
        yield made


def run(page, server, watch) -> None:
    """Presses Run, and calls watch() until it has ended."""
    before = len(server.get("/history"))
    page.get_by_test_id("queue-button").click()
    deadline = time.monotonic() + ENOUGH
    while len(server.get("/history")) == before:
        assert time.monotonic() < deadline, "the run does not end"
        watch()
        page.wait_for_timeout(200)
    page.wait_for_timeout(3000)


def set_widgets(page, **values) -> None:
    """On every Chunked AR Sampler."""
    page.evaluate("""([kind, values]) => app.graph.nodes.filter(node => node.type == kind).forEach(
        node => node.widgets.filter(w => w.name in values).forEach(w => { w.value = values[w.name]; }))""",
                  [SAMPLER, values])


def keep(root: Path, name: str, png: bytes) -> None:
    if WRITE:
        browser.write_jpeg(root / "docs" / "images" / f"{name}.jpg", png, *SCREENSHOT)


def test_the_first_template_runs_and_shows_preview_and_result(server, root, page):
    browser.load(page, server, FIRST)
    set_widgets(page, steps=10, length=45)
    assert all(node["known"] and not node["red"] for node in browser.nodes(page).values())
    seen = {}

    def watch():
        sampler = browser.nodes(page)[SAMPLER]
        said = [text for text in sampler["texts"] if text.startswith("chunk 3/")]
        if said and sampler["pictures"] and not seen:
            seen.update(words=said[0])

    run(page, server, watch)
    assert "left" in seen["words"], "no preview was shown"
    shown = browser.nodes(page)
    assert not any(node["red"] for node in shown.values())
    assert shown[REPORT]["pictures"] == 1 and shown["SaveVideo"]["video"]
    keep(root, "canvas_done", page.screenshot())


def test_the_comparison_shows_its_sheet(server, page):   # with its measures in the picture
    browser.load(page, server, COMPARED)
    set_widgets(page, steps=10, length=21)
    run(page, server, lambda: None)
    shown = browser.nodes(page)
    assert not any(node["red"] for node in shown.values())
    assert shown["FlowCache_CompareRuns"]["pictures"] == 1


def test_a_wrong_value_turns_the_node_red(server, page):
    browser.load(page, server, FIRST)
    set_widgets(page, resume_from="nowhere")
    run(page, server, lambda: None)
    assert "nowhere" in page.inner_text("body")


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_every_template_opens_with_all_its_nodes(server, page, path):
    browser.load(page, server, path.stem)
    assert [name for name, node in browser.nodes(page).items() if not node["known"]] == []
    picture = browser.canvas(page)
    if WRITE:
        browser.write_jpeg(path.with_suffix(".jpg"), picture, *THUMBNAIL)
