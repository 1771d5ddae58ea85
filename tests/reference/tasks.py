"""Plain solvers of the synthetic tasks: the answers of one sequence, from its inputs alone."""

from collections.abc import Callable

from src.config.schema import TaskConfig

Answers = dict[int, int]
"""Position -> answer."""


def solve_mqar(inputs: list[int], config: TaskConfig) -> Answers:
    pairs = config.pairs or 0
    value_of = dict(zip(inputs[0 : 2 * pairs : 2], inputs[1 : 2 * pairs : 2], strict=True))
    return {i: value_of[inputs[i]] for i in range(2 * pairs, len(inputs)) if inputs[i] in value_of}


def solve_associative_recall(inputs: list[int], config: TaskConfig) -> Answers:
    query = inputs.index(2) + 1
    return {query: inputs[inputs.index(inputs[query]) + 1]}


def solve_induction(inputs: list[int], config: TaskConfig) -> Answers:
    return {len(inputs) - 1: inputs[inputs.index(0) + 1]}


def solve_copying(inputs: list[int], config: TaskConfig) -> Answers:
    mark, blank = config.vocab_size - 1, config.vocab_size - 2
    place = inputs.index(mark)
    tokens = [token for token in inputs[:place] if token != blank]
    assert all(token == blank for token in inputs[place + 1 :])
    return {place + 1 + i: token for i, token in enumerate(tokens)}


def solve_parity(inputs: list[int], config: TaskConfig) -> Answers:
    bits = [token - 1 for token in inputs if token]
    return {len(bits) - 1: sum(bits) % 2 + 1}


def solve_modular_arithmetic(inputs: list[int], config: TaskConfig) -> Answers:
    end = inputs.index(4)
    text = "".join({1: "+", 2: "-", 3: "*"}.get(token, str(token - 5)) for token in inputs[:end])
    return {end: eval(text) % (config.vocab_size - 5) + 5}


def solve_in_context_recall(inputs: list[int], config: TaskConfig) -> Answers:
    n_keys = (config.vocab_size - (config.noise_vocab_size or 0)) // 2
    value_of: dict[int, int] = {}
    answers: Answers = {}
    for i in range(0, len(inputs) - 1, 2):
        if inputs[i] < n_keys:
            if inputs[i] in value_of:
                answers[i] = value_of[inputs[i]]
            value_of[inputs[i]] = inputs[i + 1]
    return answers


def solve_fuzzy_recall(inputs: list[int], config: TaskConfig) -> Answers:
    half, pad = (config.vocab_size - 1) // 2, config.vocab_size - 1
    value_of: dict[tuple[int, ...], tuple[int, ...]] = {}
    answers: Answers = {}
    i = next(i for i, token in enumerate(inputs) if token != pad)
    while i < len(inputs):
        middle = next(j for j in range(i, len(inputs)) if inputs[j] >= half)
        end = next((j for j in range(middle, len(inputs)) if inputs[j] < half), len(inputs))
        key, value = tuple(inputs[i:middle]), tuple(inputs[middle:end])
        if key in value_of:
            assert value_of[key] == value, "a key has one value in a sequence"
            answers |= {middle - 1 + j: token for j, token in enumerate(value)}
        value_of[key] = value
        i = end
    return answers


def solve_compression(inputs: list[int], config: TaskConfig) -> Answers:
    return dict(enumerate(inputs[: inputs.index(config.vocab_size - 1)]))


SOLVERS: dict[str, Callable[[list[int], TaskConfig], Answers]] = {
    "mqar": solve_mqar,
    "associative_recall": solve_associative_recall,
    "induction": solve_induction,
    "copying": solve_copying,
    "selective_copying": solve_copying,
    "parity": solve_parity,
    "modular_arithmetic": solve_modular_arithmetic,
    "in_context_recall": solve_in_context_recall,
    "noisy_recall": solve_in_context_recall,
    "fuzzy_recall": solve_fuzzy_recall,
    "compression": solve_compression,
}
"""All tasks but memorization, whose answers no sequence shows."""
