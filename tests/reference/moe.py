"""Reference implementation of `MoE`: a loop over tokens instead of sorted groups."""

import math

import torch
from torch import Tensor

from src.model.blocks.moe.module import MoE


def _expert(x: Tensor, w_in: Tensor, w_out: Tensor, kind: str) -> Tensor:
    hidden = w_in @ x
    if kind == "swiglu":
        gate, up = hidden[: len(hidden) // 2], hidden[len(hidden) // 2 :]
        hidden = gate / (1 + torch.exp(-gate)) * up
    else:
        hidden = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    return w_out @ hidden


def reference_moe(block: MoE, x: Tensor) -> tuple[Tensor, Tensor, list[int], Tensor]:
    """Map x (B, T, D) token by token; return y, the weighted auxiliary loss, the choices of each expert, and router_z.

    The weights of the chosen experts are a softmax over their logits, which equals the normalized softmax over all; a
    single expert is weighted by its probability among all. The router's bias affects the choice and not the weights.
    The balance loss uses the experts' shares of the previous step. In float64.
    """
    tokens = x.double().flatten(0, 1)
    router, w_in, w_out = block.router.weight.double(), block.w_in.double(), block.w_out.double()
    y = torch.zeros_like(tokens)
    mean_probability, mean_square = router.new_zeros(block.n_experts), router.new_zeros(())
    load = [0] * block.n_experts
    bias = [0.0] * block.n_experts if block.router_bias is None else block.router_bias.tolist()
    for number, token in enumerate(tokens):
        logits = router @ token
        partition = logits.exp().sum()
        probability = logits.exp() / partition
        mean_probability = mean_probability + probability / len(tokens)
        mean_square = mean_square + partition.log() ** 2 / len(tokens)
        scores = [p + b for p, b in zip(probability.tolist(), bias, strict=True)]
        chosen = sorted(range(block.n_experts), key=scores.__getitem__)[-block.top_k :]
        weights = logits[chosen].softmax(dim=0) if block.top_k > 1 else probability[chosen]
        for weight, e in zip(weights, chosen, strict=True):
            y[number] = y[number] + weight * _expert(token, w_in[e], w_out[e], block.kind)
            load[e] += 1
    aux_loss = block.aux_loss_weight * block.n_experts * (block.load_share.double() * mean_probability).sum()
    return y.view(x.shape), aux_loss + block.router_z_loss_weight * mean_square, load, mean_square
