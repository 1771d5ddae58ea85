"""A decoder-only language model: embedding, x = x + block(norm(x)) for each block of the pattern, norm and head.

Initialization (standard deviations): token and position embeddings 0.02; projections into a block 0.02; projections
back to the residual stream 0.02 / sqrt(number of blocks), as in GPT-2; head min(0.02, 0.5 / sqrt(d_model)), so that the
first loss is ln(vocab_size); norms 1, biases 0. Other parameters of a block are initialized in its own file. A tied
head has the weights of the embedding and so their initialization; its first loss is larger, since each token first
predicts itself. Each part has its own generator, seeded by the seed and the part's name: models of equal seed have the
same initial embedding and head, and the same weights wherever they have the same block at the same place.
"""

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks import block_class
from src.model.blocks.attention.module import Attention
from src.model.blocks.base import INIT_STD, Block, BlockOutput, call_recomputed
from src.model.blocks.linear import Linear, linear
from src.model.blocks.moe.module import MoE
from src.model.blocks.norm import build_norm
from src.model.blocks.sliding_attention.module import SlidingAttention
from src.model.cost.memory_estimate import loss_chunk
from src.model.dropout import Dropout
from src.model.sequence_decoder import SequenceDecoder
from src.runtime.torch_compiler import prepare_linear_cross_entropy

prepare_linear_cross_entropy()


class ModelOutput(NamedTuple):
    """The output of the model; the head is applied separately, so that the loss never needs all logits at once."""

    hidden: Tensor
    """(B, T, D), after the final norm."""
    aux_loss: Tensor | None
    """Sum over the blocks, weighted; None if no block has one."""
    expert_load: Tensor | None
    """(number of MoE blocks, E): how often each expert was chosen."""
    router_z: Tensor | None = None
    """(number of MoE blocks,): mean square of the routers' logsumexp."""


def document_ids(tokens: Tensor, eot_id: int | None) -> Tensor | None:
    """Number the documents in each row of tokens (B, T) in order: a document begins with its end-of-text token.

    eot_id: that token; None if documents are not masked.
    """
    return None if eot_id is None else (tokens == eot_id).cumsum(dim=1)


def split_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Split rows into inputs and targets (B, T) each: of text (B, T + 1), of a task (B, 2, T).

    The target of a position that asks for no answer is negative, which the loss ignores.
    """
    return (rows[:, 0], rows[:, 1]) if rows.ndim == 3 else (rows[:, :-1], rows[:, 1:])


class TiedHead(nn.Module):
    """A head that uses the weights of the embedding, which owns them: they are saved, counted and updated once."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self._shared = (embedding,)  # in a tuple, so that it is not registered as a submodule

    @property
    def weight(self) -> Tensor:
        """The embedding's weight (V, D)."""
        return self._shared[0].weight

    def forward(self, hidden: Tensor) -> Tensor:
        """Map hidden states (..., D) to logits (..., V)."""
        return linear(hidden, self.weight)


class ModelCache:
    """The decoding state of a whole model."""

    def __init__(self, blocks: list[Any]) -> None:
        self.blocks = blocks
        self.offset = 0


class LanguageModel(nn.Module):
    """The model described by a `ModelSpec`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self._activation_checkpointing = False
        self.dropout: Dropout | None = None
        """Dropout of the next training pass; evaluation uses none."""
        self.embedding = nn.Embedding(spec.vocab_size, spec.d_model)
        self.positions = nn.Embedding(spec.learned_positions, spec.d_model) if spec.learned_positions else None
        self.norms = nn.ModuleList(build_norm(spec) for _ in spec.blocks)
        self.blocks = nn.ModuleList(block_class(kind)(spec) for kind in spec.blocks)
        self.decoder = SequenceDecoder(spec) if spec.has_decoder else None
        self.final_norm = build_norm(spec)
        tied = spec.tie_embeddings
        self.head = TiedHead(self.embedding) if tied else Linear(spec.d_model, spec.vocab_size, bias=False)
        self.init_weights()

    @property
    def activation_checkpointing(self) -> bool:
        """Whether the backward pass computes each block again."""
        return self._activation_checkpointing

    @activation_checkpointing.setter
    def activation_checkpointing(self, value: bool) -> None:
        self._activation_checkpointing = value
        for block in self._typed_blocks():
            block.is_recomputed = value

    @property
    def uses_flex(self) -> bool:
        """Whether attention with windows or document masks is computed by FlexAttention."""
        return any(block.uses_flex for block in self._typed_blocks())

    @uses_flex.setter
    def uses_flex(self, value: bool) -> None:
        for block in self._typed_blocks():
            block.uses_flex = value

    @property
    def uses_fla(self) -> bool:
        """Whether recurrences are computed by flash-linear-attention."""
        return any(block.uses_fla for block in self._typed_blocks())

    @uses_fla.setter
    def uses_fla(self, value: bool) -> None:
        for block in self._typed_blocks():
            block.uses_fla = value and block.has_fla_kernel

    def has_fla_kernel(self) -> bool:
        """Return whether flash-linear-attention has the recurrence of a block."""
        return any(block.has_fla_kernel for block in self._typed_blocks())

    def has_masked_attention(self, length: int, has_documents: bool) -> bool:
        """Return whether a block of attention has a window shorter than a sequence, or masks documents."""
        return any(
            has_documents or (isinstance(block, SlidingAttention) and block.window < length)
            for block in self._typed_blocks()
            if isinstance(block, Attention)
        )

    def init_weights(self) -> None:
        """Initialize every weight. The seed is the last one of torch's global generator."""
        seed = torch.initial_seed()

        def seed_part(name: str) -> None:
            torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:7]))

        seed_part("embedding")
        nn.init.normal_(self.embedding.weight, std=INIT_STD)
        if self.positions is not None:
            seed_part("positions")
            nn.init.normal_(self.positions.weight, std=INIT_STD)
        if not self.spec.tie_embeddings:
            seed_part("head")
            nn.init.normal_(self.head.weight, std=min(INIT_STD, 0.5 * self.spec.d_model**-0.5))
        if self.decoder is not None:
            seed_part("decoder")
            self.decoder.init_weights()
        for i, block in enumerate(self._typed_blocks()):
            seed_part(f"blocks.{i}")
            block.init_weights(len(self.blocks) ** -0.5)

    def _typed_blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(
        self,
        tokens: Tensor,
        cache: ModelCache | None = None,
        documents: Tensor | None = None,
        residual_step: Callable[..., BlockOutput] | None = None,
    ) -> ModelOutput:
        """Map tokens (B, T) to hidden states; with a cache, the tokens continue the cached sequence.

        documents: (B, T), from `document_ids`: each document is computed independently of the others.
        residual_step: replaces the method of that name, for example by its compiled form.
        """
        assert cache is None or documents is None, "a cache holds one document"
        residual_step = residual_step or self.residual_step
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self._position_rows(tokens, cache.offset if cache else 0, documents)
        dropout = self.dropout if self.training else None
        x = x if dropout is None else dropout.drop_embedding(x)
        aux_losses: list[Tensor] = []
        loads: list[Tensor] = []
        router_zs: list[Tensor] = []
        for i, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True)):
            mask = None if dropout is None else dropout.mask(x)
            output = residual_step(norm, block, x, cache.blocks[i] if cache else None, documents, mask)
            x = output.y
            if output.aux_loss is not None:
                aux_losses.append(output.aux_loss)
            if output.expert_load is not None:
                loads.append(output.expert_load)
            if output.router_z is not None:
                router_zs.append(output.router_z)
        if cache is not None:
            cache.offset += tokens.shape[1]
        aux_loss = torch.stack(aux_losses).sum() if aux_losses else None
        expert_load, router_z = (torch.stack(each) if each else None for each in (loads, router_zs))
        x = x if self.decoder is None else self.decoder(x)
        return ModelOutput(self.final_norm(x), aux_loss, expert_load, router_z)

    def _position_rows(self, tokens: Tensor, offset: int, documents: Tensor | None) -> Tensor:
        """Return the learned position of each token: (T, D), or (B, T, D) if each document counts from 0."""
        assert self.positions is not None
        end = offset + tokens.shape[1]
        assert end <= self.positions.num_embeddings, f"learned positions end at {self.positions.num_embeddings}"
        if documents is None:
            return self.positions.weight[offset:end]
        documents = documents.contiguous()
        first = torch.searchsorted(documents, documents)  # first position of each document
        return self.positions(torch.arange(tokens.shape[1], device=tokens.device) - first)

    def residual_step(
        self,
        norm: nn.Module,
        block: Callable[..., BlockOutput],
        x: Tensor,
        cache: Any,
        documents: Tensor | None,
        mask: Tensor | None = None,
    ) -> BlockOutput:
        """Return the block's output with y = x + mask * block(norm(x)); mask: dropout factors (B, T, D)."""

        def run_block(x: Tensor) -> BlockOutput:
            return block(norm(x), cache, documents)

        if self.activation_checkpointing and self.training:
            output: BlockOutput = call_recomputed(run_block, x)
        else:
            output = run_block(x)
        return output._replace(y=x + (output.y if mask is None else output.y * mask))

    def logits(self, tokens: Tensor, cache: ModelCache | None = None) -> Tensor:
        """Return the logits (B, T, V) of the next token at each position."""
        return self.head(self(tokens, cache).hidden)

    def make_cache(self, batch_size: int, max_len: int) -> ModelCache:
        """Build an empty decoding state for at most `max_len` positions."""
        like = self.embedding.weight
        return ModelCache([block.make_cache(batch_size, max_len, like) for block in self._typed_blocks()])

    def update_routers(self, expert_load: Tensor, applied: Tensor) -> None:
        """Update every router's load shares and bias after an optimizer step.

        expert_load: (number of MoE blocks, E), of the whole global batch. applied: 1.0, or 0.0 for a skipped step.
        """
        for block, load in zip(self._moe_blocks(), expert_load, strict=True):
            block.update_balance(load, applied)

    def load_shares(self) -> Tensor | None:
        """Return the load shares that the next step balances: (number of MoE blocks, E); None without such blocks."""
        blocks = self._moe_blocks()
        return torch.stack([block.load_share for block in blocks]) if blocks else None

    def set_load_shares(self, shares: Tensor | None) -> None:
        """Set the load shares that `load_shares` returns; None: equal shares, as in an untrained model."""
        blocks = self._moe_blocks()
        for block, share in zip(blocks, [None] * len(blocks) if shares is None else shares, strict=True):
            block.load_share.fill_(1 / self.spec.n_experts) if share is None else block.load_share.copy_(share)

    def _moe_blocks(self) -> list[MoE]:
        return [block for block in self.blocks if isinstance(block, MoE)]

    def packed_projections(self) -> dict[str, tuple[int, ...]]:
        """Return the names of weights that stack several projections along their rows, with the row count of each."""
        blocks = enumerate(self._typed_blocks())
        return {f"blocks.{i}.{name}": rows for i, block in blocks for name, rows in block.packed_projections().items()}

    def matrices(self) -> set[str]:
        """Return the names of the weights of blocks that `linear` multiplies: they may be bf16, and Muon updates them.

        A router's is not one of them, since the choice of experts is not to depend on rounding.
        """
        layers = self.blocks.named_modules(prefix="blocks")
        found = ((Linear, ("weight",)), (MoE, ("w_in", "w_out")))
        return {
            f"{name}.{weight}"
            for name, module in layers
            for kind, weights in found
            if isinstance(module, kind)  # the type of a module in shards is a subclass
            for weight in weights
        }

    def no_decay(self) -> set[str]:
        """Return the names of parameters without weight decay: norms, biases, embeddings, and those that blocks add."""
        names = {name for name, parameter in self.named_parameters() if parameter.ndim < 2}
        names |= {"embedding.weight", "positions.weight"} & {name for name, _ in self.named_parameters()}
        for i, block in enumerate(self._typed_blocks()):
            names |= {f"blocks.{i}.{name}" for name in block.no_decay()}
        return names


def token_loss(
    model: LanguageModel, output: ModelOutput, targets: Tensor, reduction: str = "mean", answers_only: bool = False
) -> Tensor:
    """Return the cross-entropy of targets (B, T) in nats: the mean, or with `none` one per target (B * T,).

    Targets of -100 are ignored: the mean is over the others, of which there has to be one.
    It is computed in chunks, so that all logits never exist at once, and in fp32 also under autocast. answers_only:
    most targets are ignored, so a CPU computes the logits of the others alone; a device would make the host wait for
    their number.
    """
    hidden, targets = output.hidden.flatten(0, 1), targets.flatten()
    if answers_only and targets.device.type == "cpu":
        answers = targets >= 0
        hidden, targets = hidden[answers], targets[answers]
    return F.linear_cross_entropy(
        hidden,
        model.head.weight,
        targets,
        reduction=reduction,
        options=nn.LinearCrossEntropyOptions(batch_chunk_size=loss_chunk(model.spec.vocab_size)),
    )
