"""torch.compile changes speed alone."""

from dataclasses import replace

import pytest
import torch

from src.model.build import build_model
from src.model.language_model import token_loss
from tests.contract.small import ARCHITECTURES, composed, random_tokens, small_spec
from tests.reference.documents import numbers


# Torch's own compiler still imports a part of torch that torch calls deprecated.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
# The experts split by a count that only the running program knows; dynamo looks at .grad where it goes on after that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_equals_eager(architecture: str) -> None:
    kinds = dict.fromkeys(composed(architecture, "modern").architecture.pattern)
    model = build_model(replace(small_spec(architecture), blocks=tuple(kinds)), seed=0)
    torch._dynamo.reset()
    compiled = torch.compile(model)
    for tokens in (random_tokens(2, 33), random_tokens(2, 33, seed=1)):
        found = {}
        for name, forward in (("eager", model), ("compiled", compiled)):
            model.zero_grad()
            output = forward(tokens[:, :-1])
            loss = token_loss(model, output, tokens[:, 1:])
            loss = loss if output.aux_loss is None else loss + output.aux_loss
            loss.backward()
            found[name] = (loss.detach(), [parameter.grad for parameter in model.parameters()])
        torch.testing.assert_close(found["compiled"][0], found["eager"][0], rtol=1e-5, atol=0)
        for one, other in zip(found["compiled"][1], found["eager"][1], strict=True):
            assert one is not None and other is not None
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
# Dynamo itself makes an instance of each autograd function that it traces.
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")
@pytest.mark.slow
def test_masked_documents_compile_to_one_graph() -> None:
    """Every kind of block that honours them, learned positions and recomputation: nothing asks where they begin."""
    kinds = ("attention", "sliding_attention", "mamba", "mamba1")
    model = build_model(replace(small_spec("dense", "classic"), blocks=kinds), seed=0).train()
    model.activation_checkpointing = True
    torch._dynamo.reset()
    tokens, documents = random_tokens(2, 48), numbers((5, 20, 23), 2)
    found = {}
    for name, forward in (("eager", model), ("compiled", torch.compile(model, fullgraph=True))):
        model.zero_grad()
        hidden = forward(tokens, documents=documents).hidden
        hidden.square().sum().backward()
        found[name] = [
            hidden.detach(),
            *(parameter.grad for parameter in model.parameters() if parameter.grad is not None),
        ]
    for one, other in zip(found["compiled"], found["eager"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
