"""Answer requests for completions in the form of OpenAI's interface (`/v1/completions`), from values of JSON."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers.decoders import DecodeStream

from src.config.schema import SamplingConfig, UserError
from src.inference.generation import generate
from src.inference.text_model import TextModel

MAX_PROMPT = 1 << 15
"""Tokens of a prompt."""
MAX_TEXTS = 64
"""Texts of a request: prompts times n."""
MAX_LOGPROBS = 20
LOGITS_AT_ONCE = 256
"""Positions whose logits are in memory together."""
UNSUPPORTED = {"top_p": 1, "presence_penalty": 0, "frequency_penalty": 0, "suffix": None, "logit_bias": None}
"""Parameters that this server does not have, and the value at which they have no effect."""


@dataclass(frozen=True)
class Question:
    """A checked request."""

    prompts: list[list[int]]
    sampling: SamplingConfig
    n: int
    stop: list[str]
    is_streamed: bool
    streams_usage: bool
    echo: bool
    logprobs: int | None


@dataclass
class Text:
    """What was written to continue a prompt."""

    tokens: list[int]
    """With the token that ends the text, if it was drawn."""
    text: str
    finish_reason: str


class Completions:
    """Answers requests with one model."""

    def __init__(self, model: TextModel, name: str, max_new_tokens: int, max_seconds: float) -> None:
        self.model, self.name = model, name
        self.max_new_tokens, self.max_seconds = max_new_tokens, max_seconds

    def check(self, body: Any) -> Question:
        """Check the body of a request. Raises: UserError naming the parameter."""
        if not isinstance(body, dict):
            raise UserError("the request must be an object")
        for key, harmless in UNSUPPORTED.items():
            if body.get(key) not in (harmless, None) and body[key] != {}:
                raise UserError(f"{key}: is not supported; leave it out")
        prompts = self._read_prompts(body.get("prompt", ""))
        n, stop = _number(body, "n", 1, 1, MAX_TEXTS), body.get("stop") or []
        stop = [stop] if isinstance(stop, str) else stop
        if not isinstance(stop, list) or not all(isinstance(each, str) and each for each in stop):
            raise UserError("stop: must be a text, or a list of texts")
        if body.get("best_of") not in (None, n):
            raise UserError("best_of: is not supported; leave it out")
        options = body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise UserError("stream_options: must be an object")
        logprobs = None if body.get("logprobs") in (None, False) else _number(body, "logprobs", 1, 0, MAX_LOGPROBS)
        question = Question(
            prompts,
            SamplingConfig(
                max_new_tokens=_number(body, "max_tokens", 16, 0, self.max_new_tokens),
                temperature=_number(body, "temperature", 1.0, 0.0, 100.0),
                top_k=_number(body, "top_k", 0, 0, 10**9),
                seed=_number(body, "seed", secrets.randbelow(2**31), 0, 2**62),
            ),
            n,
            stop,
            body.get("stream") is True,
            options.get("include_usage") is True,
            body.get("echo") is True,
            logprobs,
        )
        if len(prompts) * n > MAX_TEXTS:
            raise UserError(f"prompt, n: {len(prompts) * n} texts; at most {MAX_TEXTS}")
        if question.is_streamed and (len(prompts) * n > 1 or question.echo or logprobs is not None):
            raise UserError("stream: is for one text, without echo and logprobs")
        for tokens in prompts:
            self.model.check_length(tokens, question.sampling.max_new_tokens)
        return question

    def _read_prompts(self, prompt: Any) -> list[list[int]]:
        """Return the tokens of each prompt: a text, a list of texts, tokens, or a list of tokens."""
        several = isinstance(prompt, list) and not (prompt and all(isinstance(each, int) for each in prompt))
        found: list[list[int]] = []
        for each in prompt if several else [prompt]:
            if isinstance(each, str):
                if any("\ud800" <= letter <= "\udfff" for letter in each):
                    raise UserError("prompt: is not valid text")
                tokens = self.model.read(each)
            elif isinstance(each, list) and all(type(token) is int for token in each):
                tokens = each or [self.model.eot_id]
                if not all(0 <= token < self.model.spec.vocab_size for token in tokens):
                    raise UserError(f"prompt: tokens must be from 0 to {self.model.spec.vocab_size - 1}")
            else:
                raise UserError("prompt: must be a text, tokens, or a list of these")
            if len(tokens) > MAX_PROMPT:
                raise UserError(f"prompt: {len(tokens)} tokens; at most {MAX_PROMPT}")
            found.append(tokens)
        if not found:
            raise UserError("prompt: is an empty list")
        return found

    def answer(self, question: Question) -> dict[str, Any]:
        """Return the whole answer. Text i of a prompt is drawn with the seed of the request plus i."""
        deadline = time.monotonic() + self.max_seconds
        choices: list[dict[str, Any]] = []
        n_written = 0
        for prompt in question.prompts:
            for i in range(question.n):
                sampling = replace(question.sampling, seed=question.sampling.seed + i)
                written = Text([], "", "length")
                for _ in self._write(prompt, sampling, question.stop, written, deadline):
                    pass
                n_written += len(written.tokens)
                text = self._show(prompt) + written.text if question.echo else written.text
                shown = prompt + written.tokens if question.echo else written.tokens
                logprobs = (
                    None if question.logprobs is None else self._logprobs(prompt, written.tokens, question, shown)
                )
                choices.append(self._choice(len(choices), text, written.finish_reason) | {"logprobs": logprobs})
        return self._wrap(choices) | {"usage": _usage(question, n_written)}

    def stream(self, question: Question) -> Iterator[dict[str, Any]]:
        """Yield the answer in parts, as the tokens are drawn."""
        written = Text([], "", "length")
        frame = self._wrap([])
        deadline = time.monotonic() + self.max_seconds
        for piece in self._write(question.prompts[0], question.sampling, question.stop, written, deadline):
            yield {**frame, "choices": [self._choice(0, piece, None)]}
        yield {**frame, "choices": [self._choice(0, "", written.finish_reason)]}
        if question.streams_usage:
            yield {**frame, "usage": _usage(question, len(written.tokens))}

    def _write(
        self, prompt: list[int], sampling: SamplingConfig, stop: list[str], written: Text, deadline: float
    ) -> Iterator[str]:
        """Continue a prompt, add to `written`, and yield its text in pieces; none is taken back for a `stop`."""
        decoder, eot_id, n_yielded = DecodeStream(skip_special_tokens=True), self.model.eot_id, 0
        has_time = sampling.max_new_tokens and time.monotonic() < deadline
        for token in generate(self.model.model, prompt, sampling) if has_time else ():
            written.tokens.append(token)  # also the last one: lm-eval counts on a log-probability for it
            if token == eot_id:
                written.finish_reason = "stop"
                break
            written.text += decoder.step(self.model.tokenizer, token) or ""
            ends = [at for each in stop if (at := written.text.find(each)) >= 0]
            if ends:
                written.text, written.finish_reason = written.text[: min(ends)], "stop"
                break
            held = max((_overlap(written.text, each) for each in stop), default=0)
            if len(written.text) - held > n_yielded:
                yield written.text[n_yielded : len(written.text) - held]
                n_yielded = len(written.text) - held
            if time.monotonic() > deadline:
                break
        if written.text[n_yielded:]:
            yield written.text[n_yielded:]

    @torch.inference_mode()
    def _logprobs(self, prompt: list[int], new: list[int], question: Question, shown: list[int]) -> dict[str, Any]:
        """Return the log-probabilities of the tokens that an answer shows; the first of a text has none."""
        model = self.model.model
        tokens = torch.tensor([prompt + new], device=model.embedding.weight.device)
        own: list[float | None] = [None]
        best: list[dict[str, float] | None] = [None]
        targets = tokens[0, 1:].split(LOGITS_AT_ONCE)
        for hidden, target in zip(model(tokens).hidden[0, :-1].split(LOGITS_AT_ONCE), targets, strict=True):
            found = model.head(hidden).float().log_softmax(dim=-1)
            own += found.gather(1, target[:, None])[:, 0].tolist()
            top = found.topk(max(1, min(question.logprobs or 1, found.shape[-1])))
            best += (
                {self._show([index]): value for index, value in zip(indices, values, strict=True)}
                for indices, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
            )
        texts = [self._show([token]) for token in shown]
        lengths = [0 if i == 0 and shown[0] == self.model.eot_id else len(text) for i, text in enumerate(texts)]
        offsets = [sum(lengths[:i]) for i in range(len(lengths))]
        start = len(own) - len(shown)
        return {
            "tokens": texts, "token_logprobs": own[start:], "top_logprobs": best[start:], "text_offset": offsets,
        }  # fmt: skip

    def _show(self, tokens: list[int]) -> str:
        kept = tokens[1:] if tokens[:1] == [self.model.eot_id] and len(tokens) > 1 else tokens
        return self.model.tokenizer.decode(kept, skip_special_tokens=False)

    def _choice(self, index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": index, "text": text, "finish_reason": finish_reason, "logprobs": None}

    def _wrap(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"cmpl-{secrets.token_hex(8)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": choices,
        }


def _usage(question: Question, n_written: int) -> dict[str, int]:
    n_read = sum(map(len, question.prompts))
    return {"prompt_tokens": n_read, "completion_tokens": n_written, "total_tokens": n_read + n_written}


def _number(body: dict[str, Any], key: str, default: Any, least: Any, most: Any) -> Any:
    """Return a number of the type of `default`. Raises: UserError."""
    value = body.get(key)
    if value is None:
        return default
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default) or not least <= value <= most:
        raise UserError(f"{key}={value!r:.40}: must be a number from {least:g} to {most:g}")
    return value


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text begin a stop text."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-n:])), 0)
