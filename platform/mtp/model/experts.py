"""The routed experts of one layer, in the fused layout that Hugging Face and DeepSpeed AutoEP share.

Dropless: every token goes to each of its k experts, however uneven the load. Knows nothing of how experts are chosen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtp.config import ModelConfig


class Experts(nn.Module):
    """E SwiGLU experts: gate_up_proj (E, 2 ff, d), gate rows first; down_proj (E, d, ff)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        experts, d, ff = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * ff, d))
        self.down_proj = nn.Parameter(torch.empty(experts, d, ff))
        self.act_fn = nn.SiLU()  # AutoEP reads it

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor, counts: Tensor) -> Tensor:
        """Weighted sum of each token's experts.

        Args:
            x: (N, d).
            chosen: (N, k) int64 experts of each token.
            weights: (N, k) fp32.
            counts: (E,) int64, how many times each expert stands in `chosen`.

        Returns:
            (N, d).
        """
        order = chosen.flatten().argsort()
        token = order // chosen.shape[1]
        run = self._grouped if self._grouped_kernel_fits(x) else self._looped
        outputs = run(x[token], counts) * weights.flatten()[order].unsqueeze(-1).to(x.dtype)
        return torch.zeros_like(x).index_add(0, token, outputs)

    @torch.compiler.disable  # its shape function knows bf16 only, and a loop over counts cannot be traced
    def _grouped(self, x: Tensor, counts: Tensor) -> Tensor:
        """x (N k, d) sorted by expert -> each row through its own expert; no loop, and no wait for a GPU's counts."""
        ends = counts.cumsum(0).to(torch.int32)
        gate, up = F.grouped_mm(x, self.gate_up_proj.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        return F.grouped_mm(F.silu(gate) * up, self.down_proj.transpose(1, 2), offs=ends)

    def _looped(self, x: Tensor, counts: Tensor) -> Tensor:
        """The same, one expert after the other, where the grouped kernel cannot go.

        unbind gives one gradient for the whole parameter (zeros for experts without tokens), where indexing would
        make a full-size one for each expert.
        """
        groups = zip(x.split(counts.tolist()), self.gate_up_proj.unbind(0), self.down_proj.unbind(0), strict=True)
        outputs = []
        for rows, w_in, w_out in groups:
            gate, up = F.linear(rows, w_in).chunk(2, dim=-1)
            outputs.append(F.linear(F.silu(gate) * up, w_out))
        return torch.cat(outputs)

    def _grouped_kernel_fits(self, x: Tensor) -> bool:
        """The kernel exists, takes this dtype on this device, and rows lie on its 16-byte grid."""
        if not hasattr(F, "grouped_mm"):
            return False
        on_grid = all(size * x.element_size() % 16 == 0 for size in (x.shape[-1], self.down_proj.shape[-1]))
        dtypes = (torch.float32, torch.bfloat16) if x.device.type == "cpu" else (torch.bfloat16,)
        return on_grid and x.dtype in dtypes
