"""Errors of a run that are found before it starts, once its data is known."""

import pytest

from src.cli.compose import register_schema
from src.config.schema import TrainConfig, UserError
from src.data.tokenizer.bpe import build_character_tokenizer
from src.runs.planning import check_job, check_prompts


def test_a_prompt_that_the_tokenizer_cannot_encode() -> None:
    tokenizer = build_character_tokenizer(["abc"], 256)
    check_prompts("stage.stages.a.prompts", ["cab", ""], tokenizer)
    with pytest.raises(UserError, match=r"^stage\.stages\.a\.prompts: 'cat': the tokenizer has no .* character 't'"):
        check_prompts("stage.stages.a.prompts", ["cab", "cat"], tokenizer)


register_schema(TrainConfig, "train")
EACH_SEED = ["data=embedded", "size=nano", "seed=3", "data_draws=each_seed"]


def test_each_seed_draws_its_own_text() -> None:
    assert check_job(EACH_SEED)[0].data.seed == 3
    assert check_job([*EACH_SEED, "data.seed=3"])[0].data.seed == 3  # as the command that repeats a run has it
    assert check_job(["data=embedded", "size=nano", "seed=3"])[0].data.seed == 0


@pytest.mark.parametrize("override", ["data.seed=4", "data.dir=outputs/data/embedded-00000000"])
def test_a_draw_of_another_seed_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=rf"{override.partition('=')[0]}.*leave one out"):
        check_job([*EACH_SEED, override])
