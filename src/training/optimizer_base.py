"""torch's optimizers, without importing torch's compiler (src/runtime/torch_compiler.py): no optimizer is compiled."""

import torch

from src.runtime.torch_compiler import undecorated


class Optimizer(torch.optim.Optimizer):
    """The base of all optimizers."""

    add_param_group = undecorated(torch.optim.Optimizer.add_param_group)
    load_state_dict = undecorated(torch.optim.Optimizer.load_state_dict)
    state_dict = undecorated(torch.optim.Optimizer.state_dict)
    zero_grad = undecorated(torch.optim.Optimizer.zero_grad)


class AdamW(Optimizer, torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101)."""

    step = torch.no_grad()(undecorated(torch.optim.AdamW.step))
