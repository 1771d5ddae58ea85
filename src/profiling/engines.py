"""Inference engines that decode our export of a model in this process: mlx-lm, and llama.cpp by xllamacpp.

Both get the weights of our model in fp32, through the files that `src.export` writes, and continue the same prompt
greedily. mlx-lm decodes with its `generate_step`, llama.cpp with its server, whose answer to one HTTP request has all
tokens of a turn. The libraries are extras, and are imported only when a model is started.
"""

import importlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from src.config.schema import BenchmarkConfig, ModelSpec, SamplingConfig, UserError
from src.data.tokenizer.bpe import EOT, train_tokenizer
from src.huggingface import mapping_of, write_folder
from src.huggingface.gguf_file import refusal_of, write_gguf
from src.huggingface.model_card import lacking_in_mlx
from src.model.language_model import LanguageModel
from src.runtime.device import Device, is_nvidia_gpu, is_out_of_memory

Decode = Callable[[int], list[int]]
"""Decodes so many more tokens, and returns them."""
INSTALL = "pip install -c constraints.txt -e '.[engines]'"
PREFILL_STEP = 256
"""Tokens of the prompt that mlx-lm reads between two looks at the clock."""


class EngineFailure(Exception):
    """An engine cannot decode a model, or not in time."""

    def __init__(self, engine: str, reason: str) -> None:
        super().__init__(f"{engine}: {reason}")
        self.engine, self.reason = engine, reason


class Start(NamedTuple):
    """What an engine is started with."""

    model: LanguageModel
    """On the CPU."""
    prompt: list[int]
    n_tokens: int
    """Tokens that are decoded at most."""
    max_seconds: float
    """Time in which the prompt has to be read."""
    device: Device


def engine_refusals(config: BenchmarkConfig, spec: ModelSpec) -> dict[str, str]:
    """Return why each engine that cannot decode a model here cannot."""
    if config.batch_size > 1:
        return dict.fromkeys(ENGINES, f"measured with one text, and batch_size={config.batch_size}")
    if is_nvidia_gpu(config.runtime.device):
        return dict.fromkeys(ENGINES, "not measured on this GPU; add runtime=cpu")
    found: dict[str, str] = {}
    for name, engine in ENGINES.items():
        missing = [package for package in engine.packages if importlib.util.find_spec(package) is None]
        try:
            reason = f"{' and '.join(missing)} not installed; {INSTALL}" if missing else engine.refusal_of(spec)
        except UserError as error:  # it has no form of transformers
            reason = str(error)
        if reason:
            found[name] = reason
    return found


def start_engine(name: str, start: Start, scratch: Path) -> Decode:
    """Load a model into an engine, through files in the folder `scratch`.

    Raises: EngineFailure, here or while it decodes.
    """
    with _as_failure(name), TemporaryDirectory(dir=scratch) as folder:
        decode = ENGINES[name].start(start, Path(folder))

    def decode_or_fail(n: int) -> list[int]:
        with _as_failure(name):
            tokens = decode(n)
            if len(tokens) != n:
                raise ValueError(f"it wrote {len(tokens)} tokens instead of {n}")
        return tokens

    return decode_or_fail


@contextmanager
def _as_failure(name: str) -> Iterator[None]:
    """Turn any error of an engine into a reason to leave it out; memory that runs out is for the caller."""
    try:
        yield
    except TimeoutError:
        raise EngineFailure(name, "one call takes more than point_seconds") from None
    except Exception as error:
        if is_out_of_memory(error):
            raise
        line = " ".join(str(error).split())[:200]
        raise EngineFailure(name, f"cannot run this model ({type(error).__name__}: {line})") from error


def _start_mlx(start: Start, folder: Path) -> Decode:
    os.environ["HF_HUB_OFFLINE"] = "1"
    write_folder(folder, start.model.spec, start.model.state_dict(), _tokenizer(), SamplingConfig(), {}, "")
    mx: Any = importlib.import_module("mlx.core")
    mx.set_default_device(mx.gpu if start.device.is_apple_gpu else mx.cpu)  # before mlx_lm keeps a stream of it
    # The code is ours, and was written above.
    model, _ = importlib.import_module("mlx_lm.utils").load_model(folder, trust_remote_code=True)
    generation = importlib.import_module("mlx_lm.generate")
    end = time.perf_counter() + start.max_seconds

    def raise_if_late(done: int, total: int) -> None:
        if time.perf_counter() > end and done < total:
            raise TimeoutError

    tokens = generation.generate_step(
        mx.array(start.prompt), model, max_tokens=-1, prefill_step_size=PREFILL_STEP,
        prompt_progress_callback=raise_if_late,
    )  # fmt: skip

    def decode(n: int) -> list[int]:
        found = [token for token, _ in islice(tokens, n)]
        with mx.stream(generation.generation_stream):
            mx.synchronize()  # it has begun to compute the next token
        return found

    return decode


def _start_llama_cpp(start: Start, folder: Path) -> Decode:
    path, max_seconds = folder / "model.gguf", start.max_seconds
    write_gguf(path, start.model.spec, start.model.state_dict(), _tokenizer(), EOT, "f32", "benchmark")
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = str(path), len(start.prompt) + start.n_tokens, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = start.device.threads
    params.n_gpu_layers = -1 if start.device.is_apple_gpu else 0
    params.port, params.verbosity, params.warmup, params.fit_params = 0, -1, False, False
    # The defaults have parts in fp16.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    server = xllamacpp.Server(params)
    address = urlsplit(server.listening_address)
    tokens = list(start.prompt)
    settings = {"temperature": 0, "samplers": ["temperature"], "ignore_eos": True, "return_tokens": True}

    def decode(n: int) -> list[int]:
        assert server, "it ends with its last reference"
        question = json.dumps({"prompt": tokens, "n_predict": n, "cache_prompt": True, **settings})
        connection = HTTPConnection(address.netloc, timeout=max_seconds)
        connection.request("POST", "/completion", question, {"Content-Type": "application/json"})
        found = json.load(connection.getresponse())["tokens"]
        connection.close()
        tokens.extend(found)
        return found

    return decode


def _tokenizer() -> bytes:
    """Return a tokenizer.json for the files of an export; nothing is tokenized with it."""
    return train_tokenizer(["a few few words"] * 3, 260).to_str().encode()


class Engine(NamedTuple):
    packages: tuple[str, ...]
    refusal_of: Callable[[ModelSpec], str | None]
    """Returns why the engine has no such model."""
    start: Callable[[Start, Path], Decode]


ENGINES = {
    "mlx": Engine(("mlx", "mlx_lm"), lambda spec: lacking_in_mlx(spec, mapping_of(spec)), _start_mlx),
    "llama_cpp": Engine(("xllamacpp", "gguf"), refusal_of, _start_llama_cpp),
}
