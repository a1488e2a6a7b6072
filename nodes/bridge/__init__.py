"""The core's hooks on ComfyUI's own Wan network: the one place of the pack that touches tensors of the host.

`network` finds the network in a model; `model_hooks` puts the hook contract around it; `backbone` lets a `Generation`
run on it; `whole` serves samplers that step the whole video; `outer` decides between them when a run starts.
"""
