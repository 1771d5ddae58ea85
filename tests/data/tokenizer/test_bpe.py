"""Every text round-trips, and no text can produce the special token."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from src.config.schema import UserError
from src.data.tokenizer.bpe import (
    EOT,
    EOT_ID,
    build_character_tokenizer,
    byte_lengths,
    encode,
    encode_batch,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)

LINES = [f'if [[ "${{HOME}}" == {i} ]]; then\n\t\techo "the value_{i} is $x"\n    fi\n\n' for i in range(50)]
VOCAB_SIZE = 290


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([*LINES, EOT * 50], VOCAB_SIZE)


@given(st.text())
def test_texts_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids) == text
    assert EOT_ID not in ids
    assert byte_lengths(tokenizer)[ids].sum() == len(text.encode())


@given(
    st.lists(st.sampled_from([EOT, "<|", "endoftext", "|>", " ", "\n", "\t", "é", "\u200d", "é", "  if", "\0", "'s"]))
)
def test_text_cannot_produce_special_tokens(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = encode(tokenizer, text)
    assert EOT_ID not in ids
    assert encode_batch(tokenizer, [text]) == [ids]
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the $HOME _x", ["the", " $", "HOME", " _", "x"]),
        ('"$x" --help 755', ['"$', "x", '"', " --", "help", " 7", "5", "5"]),
        ("then\n\t\tls\n\n  a  # b", ["then", "\n\t\t", "ls", "\n\n  ", "a", " ", " #", " b"]),
        ("don't file.sh", ["don", "'t", " file", ".sh"]),
    ],
)
def test_no_token_crosses_a_piece(tokenizer: Tokenizer, text: str, pieces: list[str]) -> None:
    assert tokenizer.pre_tokenizer is not None
    assert [text[slice(*span)] for _, span in tokenizer.pre_tokenizer.pre_tokenize_str(text)] == pieces


def test_the_pattern_of_qwen2_cuts_at_other_places() -> None:
    pre_tokenizer = train_tokenizer(LINES, VOCAB_SIZE, "qwen2").pre_tokenizer
    assert pre_tokenizer is not None
    text = "don't  do\n\t\tls 12 &&\n"
    pieces = [text[slice(*span)] for _, span in pre_tokenizer.pre_tokenize_str(text)]
    assert pieces == ["don", "'t", " ", " do", "\n", "\t", "\tls", " ", "1", "2", " &&\n"]


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(iter([*LINES, EOT * 50]), VOCAB_SIZE).to_str() == tokenizer.to_str()


def test_a_loaded_tokenizer_encodes_as_before(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.get_vocab_size() == VOCAB_SIZE
    assert loaded.token_to_id(EOT) == EOT_ID
    assert encode(loaded, f"a{EOT}b") == encode(tokenizer, f"a{EOT}b")
    assert loaded.decode([EOT_ID], skip_special_tokens=False) == EOT


def test_all_bytes_are_tokens(tokenizer: Tokenizer) -> None:
    lengths = byte_lengths(tokenizer)
    assert lengths.dtype == np.int64
    assert lengths.shape == (VOCAB_SIZE,)
    assert (lengths == 1).sum() == 256
    assert lengths[EOT_ID] == 0


def test_small_text_gives_a_smaller_vocabulary() -> None:
    tokenizer = train_tokenizer(LINES, 4096)
    assert 257 < tokenizer.get_vocab_size() < 4096
    assert tokenizer.decode(tokenizer.encode(LINES[0]).ids) == LINES[0]


@pytest.mark.parametrize("vocab_size", [0, 256, 2**21])
def test_vocab_size_out_of_range_is_an_error(vocab_size: int) -> None:
    with pytest.raises(UserError, match=f"tokenizer.vocab_size={vocab_size}"):
        train_tokenizer(LINES, vocab_size)


def test_bytes_alone_form_a_vocabulary() -> None:
    assert train_tokenizer(LINES, 257).get_vocab_size() == 257


def test_text_that_is_not_utf8_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="not valid UTF-8"):
        encode(tokenizer, "caf\udce9")


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}']
)
def test_loading_another_file_is_an_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=str(path)):
        load_tokenizer(path)


ALPHABET = "abc é\n\r\t\u200d<|>😀"


@pytest.fixture(scope="module")
def character_tokenizer() -> Tokenizer:
    return build_character_tokenizer([ALPHABET[:5], ALPHABET[5:], "abc"], 256)


@given(st.text(alphabet=ALPHABET))
def test_characters_round_trip(character_tokenizer: Tokenizer, text: str) -> None:
    ids = encode(character_tokenizer, text)
    assert character_tokenizer.decode(ids) == text
    assert len(ids) == len(text)
    assert EOT_ID not in ids
    assert encode_batch(character_tokenizer, [text]) == [ids]
    assert byte_lengths(character_tokenizer)[ids].sum() == len(text.encode())


def test_character_tokenizer_is_saved_and_streamed(character_tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(character_tokenizer, EOT, tmp_path)
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.to_str() == character_tokenizer.to_str()
    assert loaded.get_vocab_size() == len(ALPHABET) + 1
    assert [loaded.token_to_id(character) for character in sorted(ALPHABET)] == list(range(1, len(ALPHABET) + 1))
    assert loaded.decode([EOT_ID], skip_special_tokens=False) == EOT
    stream = DecodeStream(skip_special_tokens=True)
    assert "".join(stream.step(loaded, token) or "" for token in encode(loaded, "a é😀\n\nb")) == "a é😀\n\nb"


def test_an_unknown_character_is_reported(character_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"'a cat': the tokenizer has no token for the character 't'"):
        encode(character_tokenizer, "a cat")
    with pytest.raises(UserError, match="not valid UTF-8"):
        encode(character_tokenizer, "caf\udce9")


def test_too_many_characters_are_an_error() -> None:
    with pytest.raises(
        UserError, match=r"tokenizer\.vocab_size=3: the text has 3 different .*set tokenizer\.vocab_size=4"
    ):
        build_character_tokenizer(["abc"], 3)
