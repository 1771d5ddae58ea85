"""Mixture of experts: softmax router, top-k, normalized weights, no dropped tokens (Mixtral; MegaBlocks).

With k = 1 the weight is the probability itself, as in the Switch Transformer.

Load balancing loss per layer (Switch Transformer, eq. 4, divided by k, so that 1 is balance) and router z-loss (ST-MoE,
eq. 5). The load shares are those of the whole global batch of the previous optimizer step (equal shares in the first
step), because the shares of the current step are known only after its last micro batch. So the gradient does not depend
on how a batch is split into micro batches or over processes, as it would with the shares of each micro batch.

If `router_bias_rate` is above 0, routing also uses a bias per expert (Wang et al., 2024, arXiv 2408.15664): it is added
to the softmax probabilities for top-k only, never to the weights, and changes by a fixed step after each optimizer
step. To balance by the bias only, set `aux_loss_weight` to 0: it stays as configured. Tokens are sorted by expert, so
each expert is one matrix product over its own tokens, and all experts are one grouped product where the device has it.

M: tokens of the batch (B * T); D: d_model; F: expert_d_ff; E: experts; k: experts per token.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear
from src.model.blocks.linear import linear
from src.model.blocks.mlp.module import apply_activation
from src.runtime.device import has_grouped_product

GRAIN = 8
"""`F.grouped_mm` takes rows of a multiple of 16 bytes."""


class Gather(torch.autograd.Function):
    """Gather `copies` copies of each row of x (M, D) in the order of `index` (M copies), whose inverse is `inverse`.

    The backward pass gathers too. Autograd's own scatters: compiled graphs then need one atomic addition per element,
    and the result on GPUs is not deterministic.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.copies = copies
        return x.index_select(0, index // copies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inverse,) = ctx.saved_tensors
        gathered = gradients[0].index_select(0, inverse)
        if ctx.copies > 1:
            gathered = gathered.unflatten(0, (-1, ctx.copies)).sum(dim=1)
        return gathered, None, None, None


class MoE(Block):
    """y = sum over the chosen experts of weight * expert(x)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.kind, self.n_experts, self.top_k = spec.mlp, spec.n_experts, spec.top_k
        self.aux_loss_weight, self.router_z_loss_weight = spec.aux_loss_weight, spec.router_z_loss_weight
        inputs = 2 if spec.mlp == "swiglu" else 1
        self.router = nn.Linear(spec.d_model, spec.n_experts, bias=False)
        self.bias_rate = spec.router_bias_rate
        self.router_bias: Tensor | None
        # It has no gradient but changes the output, so it is saved with the weights.
        self.register_buffer("router_bias", torch.zeros(spec.n_experts) if spec.router_bias_rate else None)
        # Used only in training: saved with the state of the optimizer, not with the weights.
        self.load_share: Tensor
        self.register_buffer("load_share", torch.full((spec.n_experts,), 1 / spec.n_experts), persistent=False)
        self.w_in = nn.Parameter(torch.empty(spec.n_experts, inputs * spec.expert_d_ff, spec.d_model))
        self.w_out = nn.Parameter(torch.empty(spec.n_experts, spec.d_model, spec.expert_d_ff))

    def forward(self, x: Tensor, cache: Any = None, documents: Tensor | None = None) -> BlockOutput:
        tokens = x.reshape(-1, x.shape[-1])  # (M, D)
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(tokens.float(), self.router.weight.float())  # (M, E)
        probabilities = logits.softmax(dim=-1)
        weights, experts = self._route(probabilities)  # (M, k)
        # Normalized, a single weight would always be 1 and the router would get no gradient from the loss.
        if self.top_k > 1:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if len(tokens) == 1 and not torch.is_grad_enabled():
            return BlockOutput(self._decode_token(tokens, weights, experts).view_as(x))

        order = experts.flatten().argsort(stable=True)  # (M k): assignments grouped by expert
        load = F.one_hot(experts.flatten(), self.n_experts).sum(dim=0)  # (E,)
        inverse = order.argsort()  # (M k): the position of each assignment in that order
        outputs = self._run_experts(Gather.apply(tokens, order, inverse, self.top_k), load)
        y = Gather.apply(outputs, inverse, order, 1).view(-1, self.top_k, x.shape[-1])
        y = (y * weights[..., None].to(y.dtype)).sum(dim=1).view_as(x)
        if not torch.is_grad_enabled():  # no loss to balance
            return BlockOutput(y)
        z_loss = logits.logsumexp(dim=-1).square().mean()
        aux_loss = self.aux_loss_weight * self._balance_loss(probabilities) + self.router_z_loss_weight * z_loss
        return BlockOutput(y, aux_loss, load, z_loss.detach())

    def _run_experts(self, tokens: Tensor, load: Tensor) -> Tensor:
        """Map tokens (M k, D), sorted by expert, by the expert of each; load (E,): the number of tokens of each."""
        device = tokens.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype
        is_aligned = self.w_in.shape[-1] % GRAIN == self.w_out.shape[-1] % GRAIN == 0
        if is_aligned and has_grouped_product(tokens.device, dtype):  # otherwise, the loop reads the loads once
            offsets = load.cumsum(0, dtype=torch.int32)
            hidden = apply_activation(F.grouped_mm(tokens.to(dtype), self.w_in.to(dtype).mT, offs=offsets), self.kind)
            return F.grouped_mm(hidden, self.w_out.to(dtype).mT, offs=offsets)
        outputs = [
            self._run_expert(group, w_in, w_out)
            for group, w_in, w_out in zip(tokens.split(load.tolist()), self.w_in, self.w_out, strict=True)
            if torch.compiler.is_compiling() or len(group)  # with few tokens, most experts get none
        ]
        return torch.cat(outputs).view(tokens.shape)  # a compiled graph does not know that the loads sum to M k

    def _run_expert(self, tokens: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
        return linear(apply_activation(linear(tokens, w_in), self.kind), w_out)

    def _decode_token(self, token: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
        """Compute one token (1, D) without sorting and without a loss."""
        outputs = [self._run_expert(token, self.w_in[expert], self.w_out[expert]) for expert in experts[0].tolist()]
        return weights.to(token.dtype) @ torch.cat(outputs)

    def _route(self, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and indices of the chosen experts, both (M, k)."""
        if self.router_bias is None:
            return probabilities.topk(self.top_k, dim=-1)
        experts = (probabilities + self.router_bias).topk(self.top_k, dim=-1).indices
        return probabilities.gather(-1, experts), experts

    def _balance_loss(self, probabilities: Tensor) -> Tensor:
        # `load_share` is a share of all assignments, so it is already divided by k.
        return self.n_experts * (self.load_share * probabilities.mean(dim=0)).sum()

    @torch.no_grad()
    def update_balance(self, load: Tensor, applied: Tensor) -> None:
        """Store the load (E,) of a whole global batch; with a bias, raise it for experts below the mean load.

        applied: 1.0, or 0.0 if the optimizer step was skipped.
        """
        self.load_share.lerp_(load / load.sum(), applied)
        if self.router_bias is not None:
            deficit = load.sum() - self.n_experts * load  # proportional to mean load - load, in integers
            self.router_bias += self.bias_rate * applied * deficit.sign()

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.router)
        nn.init.normal_(self.w_in, std=INIT_STD)
        nn.init.normal_(self.w_out, std=INIT_STD * residual_scale)
