"""`python -m src.validate`: repeat published results on synthetic tasks, reduced to minutes, and compare."""

import sys
from pathlib import Path

from src.cli.command import run_cli, run_command
from src.cli.command_line import format_argument
from src.cli.compose import expand_sweep, register_schema
from src.cli.validation import check_writable
from src.config.checks import check_settings
from src.config.schema import TrainConfig, ValidateConfig


def validate(config: ValidateConfig) -> int:
    """Run the experiments and print the comparison; the status is 1 if a result is not reproduced.

    Raises:
        UserError: a setting is invalid, or one of the sweeps is already running.
    """
    check_settings(config)
    check_writable(config.output_root)
    from src.reporting import load_runs
    from src.sweep.published import CHECKS, Check, Result, describe_results, judge

    register_schema(TrainConfig, "train")
    root = format_argument("output_root", config.output_root)
    sweeps = {check: expand_sweep("train", TrainConfig, [f"+experiment={check.experiment}", root]) for check in CHECKS}
    if config.dry_run:
        from src.sweep.dry_run import describe_dry_run

        for check, sweep in sweeps.items():
            print(f"{check.source}\n{describe_dry_run([sweep.jobs])}\n")
        return 0
    from src.sweep.launch import run_sweep

    results: dict[Check, list[Result]] = {}
    for check, sweep in sweeps.items():

        def describe(folder: Path, report: Path, check: Check = check) -> str:
            results[check] = judge(check, load_runs(folder))
            return f"Report of {check.experiment}: {report}"

        if (exit_code := run_sweep([sweep], describe)) >= 128:  # stopped; the same command goes on
            return exit_code
    print("\n".join(describe_results(results)))
    return 0 if all(result.is_reproduced for found in results.values() for result in found) else 1


def main(argv: list[str]) -> int:
    return run_command("validate", ValidateConfig, validate, argv)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
