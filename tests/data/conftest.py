"""A small corpus of stories and scripts of few words, with enough repetition for a vocabulary of 300."""

import json
import random
from pathlib import Path

import pytest

from src.config.schema import CorpusConfig, DataConfig, TokenizerConfig

WORDS = ["the", "cat", "saw", "a", "red", "ball", "and", "ran", "home", "to", "its", "friend", "then", "it", "slept"]
VOCAB_SIZE = 300


def make_texts(seed: int, n: int) -> list[str]:
    rng = random.Random(seed)
    return [f"Story {seed}-{i}: " + " ".join(rng.choices(WORDS, k=rng.randint(20, 60))) for i in range(n)]


def write_corpus(root: Path) -> tuple[Path, Path]:
    """Write stories.txt (200 stories) and scripts.jsonl (200 scripts of 12 sources) into a folder `text`."""
    stories = root / "text" / "stories.txt"
    stories.parent.mkdir()
    stories.write_text("\n<|endoftext|>\n".join(make_texts(1, 200)), encoding="utf-8")
    scripts = stories.with_name("scripts.jsonl")
    rows = [
        {"text": f"#!/bin/bash\n{text}\n", "source": f"package-{i % 12}", "licence": "MIT", "path": f"bin/{i}"}
        for i, text in enumerate(make_texts(2, 200))
    ]
    scripts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return stories, scripts


@pytest.fixture
def corpus_files(tmp_path: Path) -> tuple[Path, Path]:
    """Write the small corpus."""
    return write_corpus(tmp_path)


@pytest.fixture
def local_data(corpus_files: tuple[Path, Path]) -> DataConfig:
    stories, scripts = corpus_files
    return DataConfig(
        name="local",
        language=CorpusConfig(source="local", paths=[str(stories)], extensions=[".txt", ".md"]),
        code=CorpusConfig(source="local", paths=[str(scripts)], extensions=[".sh", ".bash"]),
    )


@pytest.fixture
def small_vocabulary() -> TokenizerConfig:
    return TokenizerConfig(name="bpe", vocab_size=VOCAB_SIZE)
