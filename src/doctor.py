"""`python -m src.doctor`: measure this machine, and compare its results with the CPU."""

import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from src.cli.command import run_cli, run_command
from src.cli.compose import compose_config, register_schema
from src.cli.next_command import command_of, print_next
from src.config.checks import check_settings
from src.config.formatting import NOTHING, count_of, show_bytes, show_flops
from src.config.schema import CONF, DoctorConfig, ModelSpec, RuntimeConfig, TrainConfig
from src.model.size_matching import match_config
from src.runtime.host import machine_bytes

if TYPE_CHECKING:
    from src.profiling.doctor import Comparison
    from src.runtime.device import Device

SEQ_LEN, VOCAB_SIZE, BATCH = 64, 512, 2


def doctor(config: DoctorConfig) -> int:
    """Examine the machine and print the results; the status is 1 if a comparison fails.

    Raises:
        UserError: a setting is invalid, or the device is missing.
    """
    check_settings(config)

    from src.runtime.device import open_device

    device = open_device(RuntimeConfig("doctor", config.device, threads=config.threads))
    found = examine(device, config.compile)
    print(json.dumps(found, indent=2) if config.format == "json" else describe(found))
    if found["ok"] and config.format == "text":
        print_next([command_of("train", "-m", "+experiment=demo", "dry_run=true")])
    return 0 if found["ok"] else 1


def examine(device: "Device", compiled: bool) -> dict[str, Any]:
    """Measure and compare everything; return plain values for JSON. Progress goes to standard error."""
    import torch

    from src.profiling.doctor import matmul_speeds, measure_options

    log_progress(f"speed of products on {device.kind} ...")
    speeds = matmul_speeds(device)
    log_progress(f"which options are faster{', including torch.compile' if compiled else ''} ...")
    size = "nano" if device.kind == "cpu" else "mini"
    spec = match_config(compose_train("dense", "modern", f"size={size}")).spec
    options = list(measure_options(spec, device, compiled=compiled))
    comparisons = list(compare_all(device, compiled))
    failed = [one for one in comparisons if not one.ok]
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "system": platform.platform()},
        "device": device.kind,
        "accelerator": device.kind != "cpu",
        "precision": device.precision,
        "threads": device.threads,
        "machine_bytes": machine_bytes(),
        "device_bytes": device.capacity_bytes(),
        "matmul_flops_per_second": speeds,
        "options": [{**option._asdict(), "pays": option.is_faster} for option in options],
        "comparisons": [one._asdict() for one in comparisons],
        "failed": len(failed),
        "ok": not failed,
    }


def compare_all(device: "Device", compiled: bool) -> Iterator["Comparison"]:
    """Compare small models of every architecture and recipe of conf/, and check the device."""
    import torch

    from src.profiling.doctor import compare, compare_long_reduction, compare_optimizers

    tokens = torch.randint(VOCAB_SIZE, (BATCH, SEQ_LEN + 1), generator=torch.Generator().manual_seed(0))
    for architecture in names("architecture"):
        log_progress(f"comparing {architecture} ...")
        for recipe in names("recipe"):
            yield from compare(f"{architecture} {recipe}", small_spec(architecture, recipe), tokens, device)
    yield compare_long_reduction(device)
    yield from check_device(device, compiled)
    if device.kind != "cpu":
        yield from compare_optimizers(small_spec("moe", "modern"), tokens, device)


def check_device(device: "Device", compiled: bool) -> Iterator["Comparison"]:
    """Check what went wrong on other people's devices."""
    from src.profiling import device_checks as checks

    log_progress("checking attention, shapes of batches, vocabularies, memory ...")
    dense, hybrid, moe = (small_spec(architecture, "modern") for architecture in ("dense", "hybrid", "moe"))
    yield from checks.compare_attention(device)
    for name, spec in (("dense", dense), ("hybrid", hybrid)):
        yield from checks.compare_batch_shapes(name, spec, device)
    yield from checks.compare_vocabularies(dense, device)
    yield checks.compare_overfitting(hybrid, device)
    yield checks.compare_memory_growth(moe, device)
    if compiled:
        for name, spec in (("dense", dense), ("hybrid", hybrid), ("moe", moe)):
            log_progress(f"compiling {name} ...")
            yield checks.compare_compiled(name, spec, device)


def names(group: str) -> list[str]:
    """List the choices of a group of conf/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def small_spec(architecture: str, recipe: str) -> ModelSpec:
    """Return a small model with the whole pattern, several windows and several chunks."""
    config = compose_train(architecture, recipe)
    n_layers = max(2, -(-len(config.architecture.pattern) // 2))
    config.size = replace(config.size, d_model=64, head_dim=16, n_layers=n_layers)
    return replace(match_config(config).spec, chunk_size=16, max_seq_len=2 * SEQ_LEN)


def compose_train(architecture: str, recipe: str, *more: str) -> TrainConfig:
    register_schema(TrainConfig, "train")
    sizes = (f"tokenizer.vocab_size={VOCAB_SIZE}", f"training.seq_len={SEQ_LEN}")
    return compose_config(TrainConfig, "train", [f"architecture={architecture}", f"recipe={recipe}", *sizes, *more])


def describe(found: dict[str, Any]) -> str:
    """Format the results as text; the last line is the verdict."""
    versions, speeds = found["versions"], found["matmul_flops_per_second"]
    plain = speeds["fp32"]
    lines = [
        f"Python {versions['python']}, PyTorch {versions['torch']}, {versions['system']}",
        f"Device: {found['device']}, {count_of(found['threads'], 'CPU thread')}; "
        f"runtime.precision=auto means {found['precision']}",
        f"Memory: machine {show_bytes(found['machine_bytes'])}, for tensors {show_bytes(found['device_bytes'])}",
        "",
        "Products, FLOP/s (and against fp32):",
        *(
            f"  {name}  {show_flops(speed)}" + (f"  {speed / plain:.2f}x" if speed and plain else "")
            for name, speed in speeds.items()
        ),
        "",
        "Options, on training steps of a small dense model:",
        *(_option_line(option) for option in found["options"]),
        "",
        "Comparisons, relative differences:",
        *_comparison_lines(found["comparisons"]),
        "",
        verdict(found),
    ]
    return "\n".join(lines)


def _option_line(option: dict[str, Any]) -> str:
    if option["speedup"] is None:
        return f"  {option['name']}: not available here ({option['note']})"
    return f"  {option['name']}: {option['speedup']:.2f}x as fast, {'worth it' if option['pays'] else 'not worth it'}"


def _comparison_lines(comparisons: list[dict[str, Any]]) -> list[str]:
    name, ways = (max((len(one[key]) for one in comparisons), default=0) for key in ("name", "ways"))
    return [
        f"  {'ok    ' if one['ok'] else 'FAILED'} {one['name']:<{name}}  {one['ways']:<{ways}}  {_differences(one)}"
        for one in comparisons
    ]


def _differences(one: dict[str, Any]) -> str:
    values = one["differences"].items()
    shown = ", ".join(f"{name} {NOTHING if value is None else format(value, '.1e')}" for name, value in values)
    return shown or one["error"]


def verdict(found: dict[str, Any]) -> str:
    """Return the result of the comparisons in one line."""
    total = len(found["comparisons"])
    against = (
        f"{found['device']} computes what the CPU computes"
        if found["accelerator"]
        else "the CPU agrees with itself; there is no accelerator to compare with it"
    )
    if found["ok"]:
        return f"All well: {total} comparisons, {against}."
    return f"FAILED: {found['failed']} of {total} comparisons failed; do not trust what is trained here."


def log_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str]) -> int:
    return run_command("doctor", DoctorConfig, doctor, argv)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
