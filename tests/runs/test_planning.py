"""Errors of a run that are found before it starts, once its data is known."""

import pytest

from src.config.schema import UserError
from src.data.tokenizer.bpe import build_character_tokenizer
from src.runs.planning import check_prompts


def test_a_prompt_that_the_tokenizer_cannot_encode() -> None:
    tokenizer = build_character_tokenizer(["abc"], 256)
    check_prompts("stage.stages.a.prompts", ["cab", ""], tokenizer)
    with pytest.raises(UserError, match=r"^stage\.stages\.a\.prompts: 'cat': the tokenizer has no .* character 't'"):
        check_prompts("stage.stages.a.prompts", ["cab", "cat"], tokenizer)
