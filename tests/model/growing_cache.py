"""The slow, obvious latent cache: concatenates."""

import torch
from torch import Tensor

from mtp.model import MTPModel, PassInput


class GrowingCache:
    def __init__(self) -> None:
        self.latents: dict[int, Tensor] = {}
        self.rope_keys: dict[int, Tensor] = {}

    def append(self, layer: int, latent: Tensor, rope_key: Tensor) -> tuple[Tensor, Tensor]:
        if layer in self.latents:
            latent = torch.cat((self.latents[layer], latent), dim=1)
            rope_key = torch.cat((self.rope_keys[layer], rope_key), dim=1)
        self.latents[layer], self.rope_keys[layer] = latent, rope_key
        return latent, rope_key


@torch.no_grad()
def decode_in_passes(model: MTPModel, tokens: Tensor, cuts: list[int]) -> tuple[list[Tensor], GrowingCache]:
    """Hidden states of every horizon, from passes that end at `cuts`; t_{i+k} wraps round as in training."""
    cache, passes, start = GrowingCache(), [], 0
    for end in cuts:
        positions = torch.arange(start, end).expand(len(tokens), -1)
        mask = torch.arange(end) <= positions.unsqueeze(-1)
        given = PassInput(positions, mask, cache)
        states = [model.decode_backbone(tokens[:, start:end], given)]
        if model.prediction.chained:
            for k in range(1, model.config.n_future):
                following = tokens.roll(-k, dims=1)[:, start:end]
                states.append(model.prediction.decode(k, states[-1], following, given))
        else:
            states += model.prediction.draft_hiddens(states[0], given)
        passes.append(states)
        start = end
    return [torch.cat(parts, dim=1) for parts in zip(*passes, strict=True)], cache
