"""A model of ours as EleutherAI's lm-eval asks one (`lm_eval.api.model.TemplateLM`). Extra [lm-eval].

Requests are answered as by its backend `hf` with the exported model, so the numbers are the same: a context is cut from
the left to the context of the model, and its tokenizer begins each text with the end-of-text token.
"""

from importlib import import_module
from typing import Any

import torch

from src.config.schema import SamplingConfig
from src.data.tokenizer.bpe import encode
from src.inference.generation import generate
from src.inference.text_model import TextModel

TOKENS_AT_ONCE = 4096
"""Tokens of a batch, with padding."""
MAX_NEW_TOKENS = 256
"""Of a generated answer, unless the task says otherwise."""
Pair = tuple[Any, list[int], list[int]]
"""A request, the tokens of its context, and those of its continuation."""


class RequestAnswers:
    """What `TemplateLM` leaves to a model: tokens, the likelihood of continuations, and greedy text."""

    def __init__(self, model: TextModel) -> None:
        super().__init__()
        self.text_model = model
        self.max_length = model.spec.learned_positions or model.spec.max_seq_len

    @property
    def eot_token_id(self) -> int:
        return self.text_model.eot_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text, after the end-of-text token unless `add_special_tokens` is false."""
        tokens = encode(self.text_model.tokenizer, string)
        return tokens if add_special_tokens is False else [self.eot_token_id, *tokens]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Answer without a progress bar for tokenization, which takes milliseconds."""
        return super().loglikelihood(requests, disable_tqdm=True)  # pyright: ignore[reportAttributeAccessIssue]

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: list[Pair], **_: Any) -> list[tuple[float, bool]]:
        """Return, for each continuation, its log-probability and whether greedy decoding gives it.

        Rows are padded at the right, which no earlier position of a causal model sees.
        """
        model = self.text_model.model
        device, answers = model.embedding.weight.device, [(0.0, False)] * len(requests)
        rows = [(context + continuation)[-(self.max_length + 1) :] for _, context, continuation in requests]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
        while order:
            n = max(1, TOKENS_AT_ONCE // len(rows[order[0]]))
            batch, order = order[:n], order[n:]
            longest = len(rows[batch[0]]) - 1
            padded = [rows[i][:-1] + [self.eot_token_id] * (longest + 1 - len(rows[i])) for i in batch]
            logits = model.logits(torch.tensor(padded, device=device))
            for row, i in zip(logits, batch, strict=True):
                targets = torch.tensor(rows[i], device=device)[-len(requests[i][2]) :]
                own = row[len(rows[i]) - 1 - len(targets) : len(rows[i]) - 1].float()
                found = own.log_softmax(dim=-1).gather(1, targets[:, None])
                answers[i] = float(found.double().sum()), bool((own.argmax(dim=-1) == targets).all())
        return answers

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Return the log-probability of whole texts, in windows of the context without overlap."""
        utils: Any = import_module("lm_eval.utils")
        found: list[float] = []
        for request in requests:
            windows = utils.get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.eot_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [(None, *utils.make_disjoint_window(window)) for window in windows]
            found.append(sum(value for value, _ in self._loglikelihood_tokens(pairs)))
        return found

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """Continue each context up to one of its stop texts."""
        return [self._generate(*request.args) for request in requests]

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until, n = settings.get("until") or [], int(settings.get("max_gen_toks", MAX_NEW_TOKENS))
        temperature = float(settings.get("temperature") or 1.0) if settings.get("do_sample") else 0.0
        sampling = SamplingConfig(n, temperature, int(settings.get("top_k") or 0))
        model, tokens, text = self.text_model, list[int](), ""
        start = self.tok_encode(context)[-max(1, self.max_length - n) :]
        for token in generate(model.model, start, sampling, stop=model.eot_id):
            tokens.append(token)
            text = model.tokenizer.decode(tokens)
            ends = [at for stop in ([until] if isinstance(until, str) else until) if (at := text.find(stop)) >= 0]
            if ends:
                return text[: min(ends)]
        return text


def as_lm_eval_model(model: TextModel) -> Any:
    """Return a model for `lm_eval.evaluate`."""
    api: Any = import_module("lm_eval.api.model")
    return type("AdvancedCodeModel", (RequestAnswers, api.TemplateLM), {})(model)
