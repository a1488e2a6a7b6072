"""ComfyUI's front end in a real browser, on a server of `server.py`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.nodes.server import PACK, Server

WINDOW = {"width": 1600, "height": 900}
UP = 120_000   # milliseconds
NODES = """() => app.graph.nodes.map(node => ({
    type: node.type, known: node.type in LiteGraph.registered_node_types, red: !!node.has_errors,
    pictures: node.imgs?.length ?? 0, video: !!node.videoContainer,
    texts: (node.widgets ?? []).map(widget => String(widget.value))}))"""
LEGIBLE = """() => {   // at any zoom
    app.canvas.min_font_size_for_lod = 0;
    for (const [name, value] of [["LiteGraph.Canvas.MinFontSizeForLOD", 0], ["Comfy.Minimap.Visible", false]])
        app.ui.settings.setSettingValue(name, value);
}"""
BOX = """() => {   // of all nodes, in pixels of the window
    const {scale, offset} = app.canvas.ds, nodes = app.graph.nodes;
    const at = (pick, way, i) => (pick(...nodes.map(node => node.pos[i] + way(node))) + offset[i]) * scale;
    const x = at(Math.min, () => -20, 0), y = at(Math.min, () => -50, 1);
    return {x, y, width: at(Math.max, node => node.size[0] + 20, 0) - x,
            height: at(Math.max, node => node.size[1] + 20, 1) - y};
}"""


def chromium() -> str | None:
    """The browser named in CHROMIUM, or one of the system; None is Playwright's own."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened() -> Iterator[Any]:
    """A page without anything from earlier visits."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser.new_page(viewport=WINDOW)
        finally:
            browser.close()


def load(page: Any, server: Server, name: str) -> None:
    """A template of the pack, all of it in view."""
    page.goto(f"{server.url}/?template={name}&source={PACK}", timeout=UP)
    page.wait_for_function("() => window.app?.graph?.nodes.some(node => node.type.startsWith('FlowCache_'))",
                           timeout=UP)
    page.wait_for_timeout(1500)   # the front end lays out widgets, and tells of missing models, after that
    page.keyboard.press("Escape")
    page.evaluate(LEGIBLE)
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1000)


def nodes(page: Any) -> dict[str, dict[str, Any]]:
    """What the canvas holds, by type; of several of one type, the last."""
    return {node["type"]: node for node in page.evaluate(NODES)}


def canvas(page: Any) -> bytes:
    """The graph alone, as PNG."""
    page.evaluate("() => app.canvas.setDirty(true, true)")
    page.wait_for_timeout(300)
    return page.screenshot(clip=page.evaluate(BOX))


def write_jpeg(path: Path, png: bytes, width: int, limit: int) -> None:
    """At most `width` pixels wide, in the best quality that keeps within `limit` bytes."""
    from PIL import Image

    picture = Image.open(BytesIO(png)).convert("RGB")
    picture.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
    for quality in range(90, 10, -5):
        packed = BytesIO()
        picture.save(packed, "JPEG", quality=quality, optimize=True)
        if packed.tell() <= limit:
            path.write_bytes(packed.getvalue())
            return
    raise AssertionError(f"{path.name}: no quality keeps within {limit} bytes")
