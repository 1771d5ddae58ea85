"""The bits and recalls of tokens, compared with the offsets that the tokenizer reports."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer

from src.data.preparation.token_annotations import annotate_windows
from src.data.sources.generated import GeneratedDocument, generate_scripts, generate_stories
from src.data.sources.generated.parser import DOCUMENT_WRITERS, parse
from src.data.tokenizer.bpe import EOT_ID, encode, train_tokenizer

GENERATORS = {"stories": generate_stories, "scripts": generate_scripts}
Corpus = tuple[str, list[GeneratedDocument], Tokenizer, np.ndarray]


def stream(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    return np.array([EOT_ID, *(token for text in texts for token in [*encode(tokenizer, text), EOT_ID])])


@pytest.fixture(scope="module", params=GENERATORS)
def corpus(request: pytest.FixtureRequest) -> Corpus:
    documents = list(GENERATORS[request.param](seed=4, max_bytes=40_000))
    texts = [document.text for document in documents]
    tokenizer = train_tokenizer(texts, vocab_size=700)
    return request.param, documents, tokenizer, stream(tokenizer, texts)


def test_token_bits_are_the_sum_of_their_characters(corpus: Corpus) -> None:
    source, documents, tokenizer, tokens = corpus
    found = annotate_windows(tokens, [0], len(tokens) - 1, source, tokenizer, EOT_ID)
    expected: list[float] = []
    for document in documents:
        bits = parse(DOCUMENT_WRITERS[source], document.text).bits_by_character
        offsets = tokenizer.encode(document.text, add_special_tokens=False).offsets
        expected += [*(bits[start:end].sum() for start, end in offsets), 0.0]
    assert found.unparsed == 0
    assert found.bits[0] == pytest.approx(expected, abs=1e-9)
    assert found.bits.sum() == pytest.approx(sum(document.bits for document in documents), abs=1e-6)


def test_recalled_tokens_equal_the_tokens_of_the_mention(corpus: Corpus) -> None:
    source, documents, tokenizer, tokens = corpus
    found = annotate_windows(tokens, [0], len(tokens) - 1, source, tokenizer, EOT_ID)
    assert len(found.recalls) > 5 * len(documents)

    def words(first: int, end: int) -> str:
        return re.sub(r"^\W+", "", tokenizer.decode(tokens[first + 1 : end + 1].tolist()))

    for _, first, end, distance in found.recalls:
        name, mention = words(first, end), words(first - distance, end - distance + 9)
        assert name and mention.startswith(name) and distance >= 1
        assert EOT_ID not in tokens[first + 1 - distance : end + 1]
        assert found.bits[0, first:end].sum() == 0


def test_annotations_of_windows_equal_those_of_the_stream(corpus: Corpus) -> None:
    source, _, tokenizer, tokens = corpus
    whole = annotate_windows(tokens, [0], len(tokens) - 1, source, tokenizer, EOT_ID)
    starts, seq_len = [0, 100, 1000, 2500, len(tokens) - 301], 300
    found = annotate_windows(tokens, starts, seq_len, source, tokenizer, EOT_ID)
    expected = set()
    for window, start in enumerate(starts):
        assert found.bits[window] == pytest.approx(whole.bits[0, start : start + seq_len])
        for _, first, end, distance in whole.recalls - np.array([0, start, start, 0]):
            if first >= 0 and end <= seq_len:  # target 0 is the token after the window's first
                expected.add((window, first, end, distance if first + 1 >= distance else 0))
    assert set(map(tuple, found.recalls.tolist())) == expected
    distances = found.recalls[:, 3]
    assert (distances > 0).any() and (distances == 0).any()


def test_other_text_is_unannotated_and_counted(corpus: Corpus) -> None:
    source, documents, tokenizer, _ = corpus
    texts = [documents[0].text, documents[1].text + " é", documents[2].text]
    lengths = [len(encode(tokenizer, text)) + 1 for text in texts]
    tokens = stream(tokenizer, texts)
    found = annotate_windows(tokens, [0], len(tokens) - 1, source, tokenizer, EOT_ID)
    assert found.unparsed == 1
    assert np.flatnonzero(np.isnan(found.bits[0])).tolist() == list(range(lengths[0], lengths[0] + lengths[1] - 1))
    assert np.nansum(found.bits) == pytest.approx(documents[0].bits + documents[2].bits)
