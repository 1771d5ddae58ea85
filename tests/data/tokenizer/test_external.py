"""External tokenizers: accepted if every text round-trips, otherwise rejected with an example of the difference."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from src.config.schema import DataConfig, TokenizerConfig, UserError
from src.data.preparation.prepare import prepare_data
from src.data.preparation.splits import SPLITS
from src.data.tokenizer.bpe import (
    TOKENIZER_CONFIG,
    build_character_tokenizer,
    byte_lengths,
    count_ids,
    encode,
    get_eot_id,
    load_tokenizer,
    train_tokenizer,
)
from src.data.tokenizer.external import compare_tokenizers, load_external_tokenizer
from tests.data.conftest import make_texts

SIZE = 320


def gpt2(prefix_space: bool = False, eot: str = "<|endoftext|>", special: bool = True) -> Tokenizer:
    """Train a tokenizer like GPT-2's, with its pattern and the end of text as the last id."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(prefix_space)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE - 2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(make_texts(5, 100), trainer)
    tokenizer.add_tokens([AddedToken("  ", normalized=False)])  # as StarCoder and GPT-NeoX have runs of spaces
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([eot])
    assert tokenizer.get_vocab_size() == SIZE
    return tokenizer


def save_with_config(folder: Path, tokenizer: Tokenizer, config: object = None) -> TokenizerConfig:
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / TOKENIZER_CONFIG).write_text(json.dumps(config))
    return TokenizerConfig("given", SIZE, path=str(folder))


@pytest.fixture(scope="module")
def external_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    tokenizer = gpt2()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding()
    return load_external_tokenizer(save_with_config(tmp_path_factory.mktemp("gpt2"), tokenizer))[0]


@given(st.text())
def test_texts_round_trip(external_tokenizer: Tokenizer, text: str) -> None:
    ids = encode(external_tokenizer, text)
    assert external_tokenizer.decode(ids, skip_special_tokens=False) == text
    assert SIZE - 1 not in ids
    assert byte_lengths(external_tokenizer)[ids].sum() == len(text.encode())


@pytest.mark.parametrize(
    "config", [{"eos_token": "</doc>"}, {"eos_token": {"content": "</doc>", "special": True}}], ids=["name", "object"]
)
def test_eos_token_is_read_from_the_folder(config: object, tmp_path: Path) -> None:
    assert load_external_tokenizer(save_with_config(tmp_path / "given", gpt2(eot="</doc>"), config))[1] == "</doc>"


def test_eos_token_can_be_set(tmp_path: Path) -> None:
    settings = save_with_config(tmp_path / "given", gpt2(eot="</doc>"))
    assert load_external_tokenizer(replace(settings, eot="</doc>"))[1] == "</doc>"
    with pytest.raises(UserError, match=r"tokenizer\.eot=None: name the token .* ends a text, out of </doc>"):
        load_external_tokenizer(settings)
    with pytest.raises(UserError, match=r"tokenizer\.eot=<s>: name the token"):
        load_external_tokenizer(replace(settings, eot="<s>"))


def lowercasing_tokenizer() -> Tokenizer:
    tokenizer = gpt2()
    tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def composing_tokenizer() -> Tokenizer:
    tokenizer = gpt2()
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer


def word_tokenizer() -> Tokenizer:
    words = {word: index for index, word in enumerate(["<unk>", "<|endoftext|>", *(f"w{i}" for i in range(SIZE - 2))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def character_tokenizer() -> Tokenizer:
    """Build a character tokenizer with as many tokens as the other tokenizers here."""
    return build_character_tokenizer([chr(0x4E00 + i) for i in range(SIZE - 1)], SIZE)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lowercasing_tokenizer, r'"A.*" is decoded as "a'),
        (composing_tokenizer, "is decoded as"),
        (word_tokenizer, "is decoded as"),
        (character_tokenizer, "it cannot encode every character"),
        (lambda: gpt2(prefix_space=True), r'is decoded as " '),
        (lambda: gpt2(special=False), "is not a special token, so a text could produce it"),
    ],
    ids=["lower case", "NFC", "words", "characters", "space before", "end of text in a text"],
)
def test_lossy_tokenizers_are_rejected(make: Callable[[], Tokenizer], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^tokenizer\.path=.*{reason}") as error:
        load_external_tokenizer(save_with_config(tmp_path / "given", make()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize("content", ["cat", "<tag>"])
def test_added_tokens_that_strip_spaces_are_rejected(content: str, flags: dict[str, bool], tmp_path: Path) -> None:
    def with_token(**flags: bool) -> TokenizerConfig:
        tokenizer = gpt2()
        tokenizer.add_tokens([AddedToken(content, normalized=False, **flags)])
        return replace(save_with_config(tmp_path / "given", tokenizer), vocab_size=count_ids(tokenizer))

    assert load_external_tokenizer(with_token())[1] == "<|endoftext|>"
    assert load_external_tokenizer(with_token(single_word=True))[1] == "<|endoftext|>"
    with pytest.raises(UserError, match=r"text with its added tokens does not round-trip: .* is decoded as"):
        load_external_tokenizer(with_token(**flags))


def test_added_tokens_that_decode_as_bytes_are_rejected(tmp_path: Path) -> None:
    tokenizer = gpt2()
    tokenizer.add_tokens([AddedToken("naïf", normalized=False)])  # the library decodes its ï as a byte
    with pytest.raises(UserError, match=r"text with its added tokens does not round-trip: .*naï|na.u00ef"):
        load_external_tokenizer(
            replace(save_with_config(tmp_path / "given", tokenizer), vocab_size=count_ids(tokenizer))
        )


def test_tokenizers_are_checked_before_text_is_read(
    local_data: DataConfig, small_vocabulary: TokenizerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.data.preparation.pipeline.read_documents", None)
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{")
    lossy = gpt2(prefix_space=True)
    for settings, key in (
        (replace(small_vocabulary, path=str(broken)), "tokenizer.path="),
        (replace(small_vocabulary, compare=str(broken)), "tokenizer.compare="),
        (replace(small_vocabulary, vocab_size=2**20 + 1), "tokenizer.vocab_size="),
        (replace(save_with_config(tmp_path / "given", lossy), vocab_size=SIZE + 1), "tokenizer.vocab_size="),
        (save_with_config(tmp_path / "given", lossy), "tokenizer.path="),
    ):
        with pytest.raises(UserError, match=f"^{key}"):
            prepare_data(local_data, settings, tmp_path / "outputs")
        assert not (tmp_path / "outputs").exists()


def test_invalid_settings_are_an_error(tmp_path: Path) -> None:
    settings = save_with_config(tmp_path / "given", gpt2())
    with pytest.raises(UserError, match=rf"tokenizer\.vocab_size=300: .* has {SIZE}; set this number"):
        load_external_tokenizer(replace(settings, vocab_size=300))
    with pytest.raises(UserError, match=r"tokenizer\.path=.*nowhere: no tokenizer\.json there"):
        load_external_tokenizer(replace(settings, path=str(tmp_path / "nowhere")))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.path=.*broken\.json: not a tokenizer"):
        load_external_tokenizer(replace(settings, path=str(tmp_path / "broken.json")))


def test_data_with_an_external_tokenizer(
    local_data: DataConfig, small_vocabulary: TokenizerConfig, corpus_files: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = save_with_config(tmp_path / "given", gpt2())
    prepared = prepare_data(local_data, settings, tmp_path / "outputs", log=lambda _: None)
    assert (prepared.eot_id, prepared.vocab_size) == (SIZE - 1, SIZE)
    tokenizer = load_tokenizer(prepared.tokenizer_path)
    assert get_eot_id(tokenizer, prepared.tokenizer_path) == SIZE - 1
    texts = []
    for split in SPLITS:
        tokens, starts = prepared.tokens("language", split), prepared.offsets("language", split)
        assert (tokens[starts.astype(int)] == SIZE - 1).all() and (tokens == SIZE - 1).sum() == len(starts) + 1
        parts = [tokens[a + 1 : b] for a, b in zip(starts, [*starts[1:], len(tokens) - 1], strict=True)]
        texts += [tokenizer.decode(part.tolist()) for part in parts]
    assert sorted(texts) == sorted(corpus_files[0].read_text().split("\n<|endoftext|>\n"))

    copy = save_with_config(tmp_path / "copy", gpt2())
    assert prepare_data(local_data, copy, tmp_path / "outputs", log=lambda _: None).folder == prepared.folder
    compared = prepare_data(
        local_data, replace(small_vocabulary, compare=str(tmp_path / "given")), tmp_path / "outputs", log=lambda _: None
    )
    for name, entry in compared.manifest["tokenizer"]["compared"].items():
        split = compared.manifest["corpora"][name]["splits"]["val"]
        assert entry["bytes"] == split["bytes"]
        # The figures of the split count the end of each text as a token.
        tokens = entry["bytes"] / entry["this"]["bytes_per_token"]
        assert round(tokens) == split["tokens"] - split["documents"] - 1
    assert "| compared |" in (compared.folder / "DATA_CARD.md").read_text()


def test_comparison_counts_bytes_and_words(external_tokenizer: Tokenizer) -> None:
    ours = train_tokenizer(make_texts(1, 50), 300)
    found = compare_tokenizers(ours, external_tokenizer, ["é two", "three four five"])
    assert found["bytes"] == 21
    assert found["this"]["bytes_per_token"] == 21 / sum(len(encode(ours, t)) for t in ("é two", "three four five"))
    assert (
        found["other"]["tokens_per_word"]
        == sum(len(encode(external_tokenizer, t)) for t in ("é two", "three four five")) / 5
    )
