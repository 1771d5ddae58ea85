"""A trained model with its tokenizer: text in, text out. For `generate`, `chat` and `serve`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from src.config.schema import ModelSpec, SamplingConfig, UserError
from src.data.tokenizer.bpe import encode
from src.inference.generation import generate
from src.model.language_model import LanguageModel


@dataclass(frozen=True)
class TextModel:
    """A model on its device; `src.runs.open_model` opens one."""

    run: Path
    model: LanguageModel
    tokenizer: Tokenizer
    eot_id: int

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    def read(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt, after the token with which documents begin."""
        return [self.eot_id, *encode(self.tokenizer, prompt)]

    def check_length(self, tokens: list[int], max_new_tokens: int) -> None:
        """Check that prompt and continuation have positions. Raises: UserError."""
        limit = self.spec.learned_positions
        if limit and len(tokens) + max_new_tokens > limit:
            raise UserError(
                f"max_new_tokens={max_new_tokens}: with the prompt's {len(tokens)} tokens, more than the {limit} "
                f"learned positions of this model; at most {max(0, limit - len(tokens))}"
            )

    def stream(self, tokens: list[int], sampling: SamplingConfig, *, cache: bool = True) -> Iterator[str]:
        """Yield the text of each token that continues the tokens; empty in the middle of a character."""
        decoder = DecodeStream(skip_special_tokens=True)
        for token in generate(self.model, tokens, sampling, stop=self.eot_id, cache=cache):
            yield decoder.step(self.tokenizer, token) or ""
