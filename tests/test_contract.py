from src.contract import CONTRACT_KEYS, MEANINGS, SPEED_KEYS, comparable_groups, differences

BASE = {"size": "nano", "seq_len": 128, "git_commit": "a" * 40, "device": "cpu", "threads": 2, "init_from": None}


def test_equal_contracts_have_no_differences_and_one_group():
    contracts = {"a": BASE, "b": dict(reversed(BASE.items()))}
    assert differences(contracts) == []
    assert comparable_groups(contracts) == [["a", "b"]]


def test_a_difference_names_key_values_and_runs():
    contracts = {"a": BASE, "b": {**BASE, "seq_len": 256}, "c": {**BASE, "seq_len": 256}}
    assert differences(contracts) == ["seq_len: 128 (a) | 256 (b, c)"]
    assert comparable_groups(contracts) == [["a"], ["b", "c"]]


def test_a_missing_key_is_a_difference_and_not_the_same_as_null():
    contracts = {"a": BASE, "b": {key: value for key, value in BASE.items() if key != "init_from"}}
    assert differences(contracts) == ["init_from: null (a) | (missing) (b)"]
    assert comparable_groups(contracts) == [["a"], ["b"]]


def test_an_empty_contract_equals_no_other():
    assert comparable_groups({"a": BASE, "b": {}, "c": {}}) == [["a"], ["b", "c"]]
    assert len(differences({"a": BASE, "b": {}})) == len(BASE)


def test_device_and_threads_matter_for_speed_only():
    contracts = {"a": BASE, "b": {**BASE, "threads": 8}}
    assert comparable_groups(contracts) == [["a", "b"]]
    assert comparable_groups(contracts, speed=True) == [["a"], ["b"]]
    assert differences(contracts) == ["threads: 2 (a) | 8 (b) (matters for speed only)"]


def test_another_version_of_the_code_is_another_contract():
    contracts = {"a": BASE, "b": {**BASE, "git_commit": "b" * 40}}
    assert comparable_groups(contracts) == [["a"], ["b"]]
    assert differences(contracts) == ["git_commit: aaaaaaaaaaaa (a) | bbbbbbbbbbbb (b)"]


def test_an_unlisted_key_counts():
    assert comparable_groups({"a": {"bash": "5.2"}, "b": {"bash": "3.2"}}) == [["a"], ["b"]]


def test_long_lists_of_runs_are_shortened():
    contracts = {f"r{i}": {"seq_len": i // 5} for i in range(6)}
    assert differences(contracts) == ["seq_len: 0 (r0, r1 and 3 more) | 1 (r5)"]


def test_nothing_to_compare():
    assert differences({}) == [] and comparable_groups({}) == []


def test_every_key_has_its_line_and_seed_and_architecture_are_none():
    assert set(SPEED_KEYS) < set(CONTRACT_KEYS)
    assert all(MEANINGS[key] for key in CONTRACT_KEYS)
    assert not {"seed", "architecture"} & set(CONTRACT_KEYS)


def test_long_texts_are_cut_to_what_differs():
    text = "name: adamw, learning_rate: {}, betas: [0.9, {}], rate of code: 1.5"
    contracts = {"a": {"optimizer": text.format(0.003, 0.95)}, "b": {"optimizer": text.format(0.001, 0.99)}}
    assert differences(contracts) == [
        "optimizer: learning_rate: 0.003, betas: [0.9, 0.95] (a) | learning_rate: 0.001, betas: [0.9, 0.99] (b)"
    ]
    contracts["c"] = {"optimizer": "name: muon"}
    assert (
        differences(contracts)[0].endswith("| name: muon (c)")
        and "betas: [0.9, 0.95], rate" in differences(contracts)[0]
    )
