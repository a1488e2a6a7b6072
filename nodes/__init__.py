"""What ComfyUI asks the pack for: its nodes, and the folder of their help pages."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension, io

WEB_DIRECTORY = "./web"   # as seen from the root of the pack


async def comfy_entrypoint() -> "ComfyExtension":
    """The extension that ComfyUI registers. ComfyUI is imported here, so that importing the pack needs none."""
    from comfy_api.latest import ComfyExtension

    class FlowCacheExtension(ComfyExtension):
        async def get_node_list(self) -> "list[type[io.ComfyNode]]":
            return []

    return FlowCacheExtension()
