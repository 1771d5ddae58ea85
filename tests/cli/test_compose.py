"""Composition of every YAML file, from any directory and without torch; errors of Hydra become one line."""

import errno
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from src.cli.command import run_cli
from src.cli.command_line import LEGACY_FLAGS, given_keys, parse_arguments, quote_paths, quote_value
from src.cli.compose import build_config, compose_config, expand_sweep, register_schema
from src.cli.validation import validate
from src.config.schema import CONF, ROOT, PrepareConfig, TrainConfig, UserError, experiment_files

GROUPS = {
    folder.name: sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in CONF.iterdir()
    # Lists of repositories are data, not settings; machines are for src.advise alone, checks for src.validate.
    if folder.is_dir() and folder.name not in ("repositories", "machine", "checks")
}
EXPERIMENT_NAMES = list(experiment_files())
COMMANDS = ("train", "prepare", "generate", "report", "export", "estimate", "doctor")


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_schema(TrainConfig, "train")


def compose_train(*overrides: str) -> TrainConfig:
    return compose_config(TrainConfig, "train", overrides)


def composition_error(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose_train(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run_python(code: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run code in a new interpreter whose working directory is not the repository."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.slow
def test_every_choice_composes_and_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.cli.validation.EXTRAS", {})  # ray may be missing
    for index in range(max(map(len, GROUPS.values()))):  # the n-th choice of every group at once
        chosen = {group: names[index % len(names)] for group, names in GROUPS.items()}
        more: list[str] = []
        if compose_train(f"data={chosen['data']}").data.is_task:
            chosen |= {"tokenizer": "none", "stage": "task"}
            more = ["training.seq_len=64"]  # longer ones need more keys
        else:  # both are for tasks
            others = {"tokenizer": ("none", "bpe_4k"), "stage": ("task", "language")}
            chosen |= {group: other for group, (name, other) in others.items() if chosen[group] == name}
        if chosen["data"] == "datatrove":  # it comes with its tokenizer
            chosen["tokenizer"], more = "bpe_4k", ["tokenizer.path=tokenizer.json"]
        if chosen["stage"].endswith(("_budgets", "_quarter")):
            chosen["schedule"] = "wsd"  # branches need a stable phase
        chosen["size"] = "tiny"  # the longest pattern needs eight layers; another test covers the other sizes
        config = compose_train(*(f"{group}={name}" for group, name in chosen.items()), *more)
        assert {group: getattr(config, group).name for group in chosen} == chosen
        validate(config)


QUICK = ("quick", "compare_active")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENT_NAMES if name not in QUICK)]
)
def test_every_experiment_composes_into_valid_jobs(name: str) -> None:
    sweep = expand_sweep("train", TrainConfig, [f"+experiment={name}"])
    assert sweep.is_from_experiment == (len(sweep.jobs) > 1)
    seen: set[str] = set()
    for job in sweep.jobs:
        if not seen.issuperset(job):  # each value once, not each combination
            validate(compose_train(*job))
            seen.update(job)


def test_every_architecture_in_every_size_is_valid() -> None:
    sizes = [compose_train(f"size={path.stem}") for path in (CONF / "size").glob("*.yaml")]
    for path in (CONF / "architecture").glob("*.yaml"):
        architecture = compose_train(f"architecture={path.stem}").architecture
        for config in sizes:
            if len(architecture.pattern) <= 2 * config.size.n_layers:  # test_validation.py tests the others
                validate(replace(config, architecture=architecture))


def test_a_size_sets_training_defaults_that_a_key_overrides() -> None:
    config = compose_train("size=micro", "training.seq_len=128")
    assert (config.training.seq_len, config.training.max_tokens) == (128, 10_000_000)
    assert config.optimizer.learning_rate == config.size.learning_rate


@pytest.mark.parametrize("command", ["prepare", "train"])
def test_original_data_has_the_large_vocabulary_by_default(command: str) -> None:
    schema: type[PrepareConfig | TrainConfig] = {"prepare": PrepareConfig, "train": TrainConfig}[command]
    register_schema(schema, command)
    for overrides, expected in (
        ("data=tinystories_bash", 32000),
        ("data=tinystories_v2_bash", 32000),
        ("data=tinystories_bash tokenizer=bpe_4k", 4096),
        ("data=tinystories_bash tokenizer.vocab_size=8000", 8000),
        ("data=embedded", 4096),
    ):
        assert compose_config(schema, command, overrides.split()).tokenizer.vocab_size == expected


FLAGS = (["--cfg", "job"], ["--help"], ["--info", "defaults"], ["--hydra-help"])


@pytest.mark.parametrize(
    "command", ["train", *(pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS if name != "train")]
)
def test_help_flags_work_from_any_directory_without_torch(command: str, tmp_path: Path) -> None:
    code = (
        "import io, sys; from contextlib import redirect_stdout\n"
        f"from src.{command} import main\n"
        f"for flags in {FLAGS!r}:\n"
        "    with redirect_stdout(io.StringIO()) as shown:\n"
        "        try: status = main(list(flags))\n"
        "        except SystemExit as stop: status = stop.code or 0\n"
        "    assert status == 0, (flags, status)\n"
        "    assert len(shown.getvalue()) > 8, (flags, shown.getvalue())\n"
        "assert 'torch' not in sys.modules and 'pandas' not in sys.modules\n"
    )
    result = run_python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_lists_choices_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    from src.train import main

    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for expected in (
        "architecture: dense, dense_conv, dense_qk_norm, gated_deltanet, griffin, hybrid, jamba, mamba, mamba1, moe",
        "max_steps",
        "-m",
        "--help KEY",
    ):
        assert expected in shown
    assert "_schema" not in shown, "Hydra's own names of the schemas"


@pytest.mark.parametrize(
    "arguments", [["architecture=moe", "--cfg", "job", "seed=7"], ["--cfg", "job", "architecture=moe", "seed=7"]]
)
def test_flags_and_settings_come_in_any_order(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from src.train import main

    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "name: moe" in shown and "seed: 7" in shown


def test_a_setting_may_follow_the_flag_for_a_sweep() -> None:
    arguments = parse_arguments(["seed=0,1", "-m", "architecture=dense,moe"])
    assert arguments.multirun and arguments.overrides == ["seed=0,1", "architecture=dense,moe"]


@pytest.mark.slow
def test_an_experiment_is_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose_train("+experiment=demo").sweep_name == "demo"


@pytest.mark.parametrize(
    ("overrides", "jobs"),
    [
        (["architecture=dense,moe", "seed=0,1"], 4),
        (["seed=range(0,3)"], 3),
        (["seed=choice(1,2)"], 2),
        (["+experiment=demo"], 12),
        (["+experiment=demo", "seed=0,1"], 8),
        (["+experiment=demo", "architecture=moe"], 3),
        (["+experiment=demo", "architecture=moe,dense", "training.max_steps=2"], 6),
        (["+experiment=demo", "hydra.mode=RUN"], 1),
        (["seed=3"], 1),
    ],
)
def test_a_command_line_expands_into_jobs(overrides: list[str], jobs: int) -> None:
    sweep = expand_sweep("train", TrainConfig, overrides)
    assert len(sweep.jobs) == jobs
    given = given_keys(overrides)
    assert all(given <= given_keys(job) for job in sweep.jobs)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainig.seq_len=64", "trainig.seq_len: no such setting; did you mean training.seq_len?"),
        ("training.seqlen=64", "did you mean training.seq_len?"),
        ("architectur=moe", "did you mean architecture?"),
        ("init_form=x", "did you mean init_from?"),
        ("learning_rate=3", "did you mean size.learning_rate or optimizer.learning_rate?"),
        ("experiment=demo", "did you mean +experiment?"),
        ("arch=moe", "did you mean architecture?"),
        ("lr=1e-3", "did you mean size.learning_rate or optimizer.learning_rate or learning_rates?"),
        ("optimizer.lr=1e-3", "did you mean optimizer.learning_rate?"),
        ("device=cpu", "did you mean runtime.device?"),
        ("foo=1", "foo: no such setting; --help lists them all"),
        ("data.language.files={a.txt: x}", "data.language.files: new names in a mapping need a + before the key"),
        ("+unknown.key=1", "unknown: no such setting"),
        ("+training.foo=1", "training.foo: no such setting"),
        ("++training.max_step=1", "training.max_step: no such setting; did you mean training.max_steps?"),
        ("+seed=3", "+seed=3: is there already; leave out the +"),
        ("hydra.nope=1", "hydra.nope: no such setting"),
        ("seed=abc", "seed=abc: must be of type integer"),
        ("seed=1.5", "seed=1.5: must be of type integer"),
        ("seed=", "seed=: must be of type integer"),
        ("seed=null", "seed=null: needs a value, it cannot be null"),
        ("runtime.compile=7", "runtime.compile=7: must be true or false"),
        ("sweep.live=18446744073709551616", "sweep.live=18446744073709551616: must be true or false"),
        ("runtime.compile=maybe", "runtime.compile=maybe: must be true or false"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate=fast: must be of type float"),
        ("optimizer.betas=3", "optimizer.betas=3: must be a list, as in optimizer.betas=[a,b]"),
        ("architecture.pattern=mlp", "must be a list"),
        ("training=5", "training=5: is a section; set one of its keys, as in training.KEY=VALUE"),
        (
            "architecture=mixtral",
            "no such choice; there are dense, dense_conv, dense_qk_norm, gated_deltanet, griffin, hybrid, jamba, mamba",
        ),
        (
            "size=huge",
            "size=huge: no such choice; there are 2m, 300k, large, medium, micro, mini, nano, pico, tiny, xlarge",
        ),
        ("+experiment=nope", "experiment=nope: no such choice; there are batch_size, compare_active"),
        ("seed=0,1", "seed=0,1: several values make a sweep"),
        ("architecture==moe", "architecture==moe: cannot be read; write key=value without spaces"),
        ("seed =3", "seed =3: cannot be read; write key=value without spaces"),
        ("architecture.pattern=[mlp", "architecture.pattern=[mlp: cannot be read"),
        ("recipe=[-1]", "recipe=[-1]: no such choice; there are classic, modern"),
        ("tokenizer=[null]", "tokenizer=[null]: no such choice; there are bpe_32k, bpe_4k, characters"),
        ("tokenizer=/etc/passwd", "tokenizer=/etc/passwd: no such choice; there are bpe_32k, bpe_4k, characters"),
        ("data=/path", "data=/path: no such choice; there are associative_recall, compression"),
        ("launcher=-0", "launcher=-0: no such choice; there are joblib"),
        ("stage=${nope:1}", "stage=${nope:1}: no such choice; there are code"),
        ("sweep_name=${nope:1}", "sweep_name=${nope:1}: is invalid (Unsupported interpolation type nope"),
        ("seed=${seed}", "seed=${seed}: is invalid (Recursive interpolation detected"),
        ("training=[1]", "training=[1]: is a section; set one of its keys"),
        ("stage.stages=1", "stage.stages=1: is a section; set one of its keys"),
        ("stage.stages.language.prompts=[null]", "prompts=[null]: needs a value, it cannot be null"),
    ],
)
def test_errors_name_key_value_and_remedy(override: str, expected: str) -> None:
    assert expected in composition_error("size=nano", override, "tracking=none")


@pytest.mark.parametrize("argument", ["moe", "=3", "~seed", "~training", "~/data"])
def test_arguments_other_than_key_value_are_errors(argument: str) -> None:
    with pytest.raises(UserError, match="settings are written key=value"):
        parse_arguments([argument])


@pytest.mark.parametrize("flag", LEGACY_FLAGS)
@pytest.mark.parametrize("form", ["--{}", "--{}=3"])
def test_legacy_flags_name_their_setting(flag: str, form: str) -> None:
    for spelling in (flag, flag.replace("-", "_")):
        argument = form.format(spelling)
        with pytest.raises(UserError) as caught:
            parse_arguments([argument, "3"])
        assert str(caught.value).startswith(f"{argument}: settings have no dashes; write {LEGACY_FLAGS[flag]}")


def test_settings_of_legacy_flags_compose() -> None:
    compose_train(*(remedy.partition(" (")[0] for remedy in LEGACY_FLAGS.values()))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seed", "3"], "--seed: no such flag; settings have no dashes"),
        (["-x"], "-x: no such flag"),
        (["--cfg=jobs"], "--cfg.*'job', 'hydra', 'all'"),
        (["--cfg"], "--cfg"),
        (["--config-name=foo"], "--config-name: not used here"),
        (["--config-dir", "foo"], "--config-dir: not used here"),
    ],
)
def test_unknown_flags_are_errors(arguments: list[str], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        parse_arguments([*arguments, "seed=3"])
    assert "\n" not in str(caught.value)


def test_paths_are_composed_unchanged() -> None:
    for first, second, third in (
        ("~/some data", "/a b/c", "x (1)/y"),
        ("a=b", "#1", "${HOME}/x"),
        ("[a]", "a;b!", "é"),
    ):
        config = compose_train(*quote_paths([f"output_root={first}", f"init_from={second}", f"data.dir={third}"]))
        assert (config.output_root, config.init_from, config.data.dir) == (first, second, third)


def test_lists_of_paths_are_composed_unchanged() -> None:
    register_schema(PrepareConfig, "prepare")
    given = quote_paths(["data.language.paths=[~/my stories, b/*.txt]", "data.code.paths=['a, b', \"c\"]"])
    config = compose_config(PrepareConfig, "prepare", given)
    assert config.data.language.paths == ["~/my stories", "b/*.txt"]
    assert config.data.code.paths == ["a, b", "c"]


def test_swept_and_quoted_paths_are_not_quoted() -> None:
    arguments = ["init_from=a,b", "init_from='a b'", "init_from=null", "init_from=", "seed=~", "output_root"]
    assert quote_paths(arguments) == arguments


def test_quoted_text_is_composed_unchanged() -> None:
    texts = ["it's", "${HOME}", "a, b", "#!/bin/bash", "f() {", "~", 'say "x"', "a\\b"]
    assert compose_train(f"tracking.tags=[{','.join(map(quote_value, texts))}]").tracking.tags == texts


def test_plain_values_are_not_interpolated() -> None:
    config = compose_train("stage=code")
    config.stage.stages["code"].prompts = ["echo ${1}", "${seed}"]
    assert build_config(TrainConfig, asdict(config)) == config


def test_an_experiment_with_invalid_yaml_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("a: [1", encoding="utf-8")
    monkeypatch.setattr("src.cli.compose.EXPERIMENTS", tmp_path)
    with pytest.raises(UserError, match=r"mine\.yaml: not a readable YAML file"):
        register_schema(TrainConfig, "train")


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EROFS, "make it writable")])
def test_disk_errors_are_one_line(number: int, remedy: str, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> int:
        raise OSError(number, os.strerror(number), "/data/file")

    assert run_cli(refuse) == 2
    error_output = capsys.readouterr().err
    assert (
        error_output.startswith(f"error: /data/file: {os.strerror(number)}; {remedy}") and error_output.count("\n") == 1
    )


def test_other_os_errors_keep_their_traceback() -> None:
    def fail() -> int:
        raise OSError(errno.EBADF, "Bad file descriptor")

    with pytest.raises(OSError, match="Bad file"):
        run_cli(fail)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=interval(0,1)", "seed=interval(0,1): an interval has no finite list of values; list some"),
        ("seed=range(0,1000000000)", "seed=range(0,1000000000): more than 10000 jobs in one sweep"),
        ("seed=range(0,3,0)", "seed=range(0,3,0): gives no values"),
        ("seed=range(3,3)", "seed=range(3,3): gives no value"),
    ],
)
def test_sweeps_without_values_or_with_too_many(override: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        expand_sweep("train", TrainConfig, ["size=nano", override, "match=none"])
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("hydra.run.dir=x", "hydra.run.dir=x: has no effect here; output_root sets the folder of runs"),
        ("hydra.verbose=true", "hydra.verbose=true: has no effect here; leave it out"),
        ("hydra.mode=MULTIRUN", "hydra.mode=MULTIRUN: write -m for a sweep"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib: is chosen by launcher=NAME"),
        ("--shell-completion", "--shell-completion: not used here"),
        ("--package=x", "--package: is for --cfg job"),
        ("--resolve", "--resolve: is for --cfg job"),
    ],
)
def test_settings_without_effect_are_errors(argument: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_arguments(["seed=1", argument])
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize("seeds_first", [True, False])
def test_seeds_vary_slowest_in_a_sweep(seeds_first: bool) -> None:
    """So that all architectures have equally many, and a machine that becomes slower is slower for all."""
    keys = ["seed=2,0", "architecture=dense,moe"]
    sweep = expand_sweep("train", TrainConfig, [*(keys if seeds_first else keys[::-1]), "size=nano"])
    assert [sorted(job) for job in sweep.jobs] == [
        [f"architecture={name}", f"seed={seed}", "size=nano"] for seed in (2, 0) for name in ("dense", "moe")
    ]
