"""The post-processor of an exported tokenizer.json: it begins every text with the end-of-text token.

Training and `src.generate` add that token themselves and encode without a post-processor. Other programs apply the one
in tokenizer.json. Only the text of that one member changes, so that an import restores every byte.
"""

import json
import re

from src.config.schema import UserError

KEY = "post_processor"
SPACE = re.compile(r"[ \t\n\r]*")


def add_post_processor(tokenizer: bytes, eot: str, eot_id: int) -> tuple[bytes, str]:
    """Return a tokenizer.json that begins every text with `eot`, and the text of the value that it replaces.

    Raises: UserError if there is no such member, as in no file written by tokenizers.
    """
    content = tokenizer.decode("utf-8")
    span = _find_value(content)
    if span is None:
        raise UserError(f"tokenizer.json: has no {KEY}; run python -m src.prepare rerun=true")
    begin, end = span
    return (content[:begin] + _build_template(eot, eot_id) + content[end:]).encode("utf-8"), content[begin:end]


def remove_post_processor(tokenizer: bytes, eot: str, eot_id: int, before: str = "null") -> bytes:
    """Undo `add_post_processor`; a tokenizer.json with another post-processor is returned unchanged.

    Raises: TypeError or ValueError if `before` is not JSON.
    """
    json.loads(before)
    content = tokenizer.decode("utf-8")
    span = _find_value(content)
    if span is None or json.loads(content[span[0] : span[1]]) != json.loads(_build_template(eot, eot_id)):
        return tokenizer
    return (content[: span[0]] + before + content[span[1] :]).encode("utf-8")


def _build_template(eot: str, eot_id: int) -> str:
    token, text = {"SpecialToken": {"id": eot, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return json.dumps(
        {
            "type": "TemplateProcessing",
            "single": [token, text],
            "pair": [token, text, second],
            "special_tokens": {eot: {"id": eot, "ids": [eot_id], "tokens": [eot]}},
        }
    )


def _find_value(content: str) -> tuple[int, int] | None:
    """Return start and end of the value of `post_processor` in the text of a JSON object."""
    decoder = json.JSONDecoder()

    def skip(at: int) -> int:
        found = SPACE.match(content, at)
        return found.end() if found else at

    at = skip(0) + 1  # the brace
    while (at := skip(at)) < len(content) and content[at] != "}":
        name, at = decoder.raw_decode(content, at)
        begin = skip(skip(at) + 1)  # the colon
        _, end = decoder.raw_decode(content, begin)
        if name == KEY:
            return begin, end
        at = skip(end) + 1  # the comma
    return None
