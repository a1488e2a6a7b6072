"""What ComfyUI asks the pack for: its nodes, and the folder of their help pages.

Every public node class that a file of this folder defines is a node of the pack; the folder is the list.
"""

import importlib
import logging
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"   # as seen from the root of the pack

logger = logging.getLogger(__name__)


async def comfy_entrypoint() -> "ComfyExtension":
    """The extension that ComfyUI registers. ComfyUI is imported here, so that importing the pack needs none."""
    from comfy_api.latest import ComfyExtension

    class FlowCacheExtension(ComfyExtension):
        async def get_node_list(self) -> "list[type[io.ComfyNode]]":
            return node_classes()

    return FlowCacheExtension()


def node_classes() -> "list[type[io.ComfyNode]]":
    """All nodes, by file name. A file that cannot be imported is logged, and the others still load."""
    from comfy_api.latest import io

    found: list[type[io.ComfyNode]] = []
    for info in pkgutil.iter_modules(__path__):
        try:
            module = importlib.import_module(f".{info.name}", __name__)
        except Exception:
            logger.exception("FlowCache: nodes/%s.py cannot be imported on this ComfyUI; its nodes are missing, the "
                             "others work", info.name)
            continue
        found += [value for name, value in vars(module).items()
                  if isinstance(value, type) and issubclass(value, io.ComfyNode)
                  and value.__module__ == module.__name__ and not name.startswith("_")]
    return found
