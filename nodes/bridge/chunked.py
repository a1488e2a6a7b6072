"""The sampler that denoises chunk by chunk: the host's `Sampler` interface on the outside, a `Generation` inside."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from .foreign import refuse_conditioning, refuse_context_windows, refuse_multi_gpu, refuse_step_caches
from .listening import Listener
from .memory import kv_bytes, prepare_sampling
from .model_hooks import KEY
from .network import network_of
from .progress import ProgressBar
from .run import ChunkedRun, ChunkRequest, asked, profile_of
from .summary import sentence
from .template import template_of

logger = logging.getLogger(__name__)


class ChunkedSampler(comfy.samplers.Sampler):
    """request: what to do; listen: makes the listener of a run. It holds nothing of a run, so one serves many."""

    def __init__(self, request: ChunkRequest, listen: Callable[[], Listener] = Listener) -> None:
        self.request, self._listen = request, listen

    def prepare(self, guider: Any, options: dict[str, Any], noise: Tensor, sigmas: Tensor) -> None:
        """Checks what can be checked before the model is loaded, and what its memory estimate should count."""
        check(guider, options, noise)
        plan, settings = asked(guider, options, self.request, sigmas, noise, 0)
        wrapper = prepare_sampling(plan, kv_bytes(guider.model_patcher.model, plan, settings))
        add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, wrapper, options["transformer_options"])

    def sample(self, guider: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Callable | None, noise: Tensor,
               latent_image: Tensor | None = None, denoise_mask: Tensor | None = None,
               disable_pbar: bool = False) -> Tensor:
        """Latents `(B, C, F, h, w)` in the model's own scale."""
        options, seed = create_model_options_clone(extra_args["model_options"]), extra_args.get("seed") or 0
        check(guider, options, noise)
        if denoise_mask is not None:
            raise ValueError("a latent with a noise mask: chunks are denoised whole; remove Set Latent Noise Mask")
        prompts = self._prompts(guider, noise, latent_image, seed)
        run = ChunkedRun(guider, options, self.request, sigmas, noise, latent_image, seed, prompts)
        try:
            return self._sampled(run, callback, disable_pbar).to(noise.device)
        finally:
            run.close()

    def _sampled(self, run: ChunkedRun, callback: Callable | None, silent: bool) -> Tensor:
        listener = self._listen()
        bar = ProgressBar(run, callback, silent, listener.words)
        try:
            listener.begin(run)
            samples = run.generation.run(bar, listener.chunk, listener.state if listener.keeps_state else None)
            bar.finish(samples)
            logger.info("FlowCache: %d chunks, %s", len(run.plan.chunks), sentence(run.generation.trace))
            return samples
        finally:
            bar.close()
            listener.end(run.generation.trace)

    def _prompts(self, guider: Any, noise: Tensor, latent: Tensor | None, seed: int) -> list[dict[str, Any]]:
        """Conditionings of every prompt, ready for the network: the guider's own, then those for later chunks."""
        prompts: list[dict[str, Any]] = [{}] if 0 not in self.request.prompts else []
        known = inspect.signature(comfy.samplers.process_conds).parameters
        for _, given in sorted(self.request.prompts.items()):
            conds = {"positive": comfy.sampler_helpers.convert_cond(given)}
            more = {"latent_shapes": [noise.shape]} if "latent_shapes" in known else {}
            conds = comfy.samplers.process_conds(guider.model_patcher.model, noise, conds, noise.device, latent, None,
                                                 seed, **more)
            refuse_conditioning(conds)
            if len(conds["positive"]) != len(guider.conds["positive"]):
                raise ValueError(f"a prompt of {len(conds['positive'])} conditionings for later chunks: expected "
                                 f"{len(guider.conds['positive'])}, as many as the first prompt has")
            prompts.append(conds)
        return prompts


def check(guider: Any, options: dict[str, Any], noise: Tensor) -> None:
    """Raises ValueError for a model, a latent or a node that does not go with sampling in chunks."""
    network = network_of(guider.model_patcher.model)
    profile_of(template_of(options))
    if noise.ndim != 5 or noise.shape[1] != network.out_dim:
        raise ValueError(f"latent {tuple(noise.shape)}: expected a video of {network.out_dim} channels, (batch, "
                         f"{network.out_dim}, frames, height / 8, width / 8); connect an empty latent for Wan video, "
                         "or leave the latent open and set width, height and length")
    if network.in_dim != network.out_dim:
        raise ValueError(f"a model with {network.in_dim} input channels: image-to-video models of this kind are not "
                         "sampled in chunks; use a text-to-video checkpoint")
    refuse_step_caches(options)
    refuse_context_windows(options)
    refuse_multi_gpu(options)
    refuse_conditioning(guider.conds)
