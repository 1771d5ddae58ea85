"""`python -m src.validate`: repeat published results on synthetic tasks, reduced to minutes, and compare."""

import sys
from pathlib import Path

from src.cli.command import run_cli, run_command
from src.cli.validation import check_writable
from src.config.checks import check_settings
from src.config.schema import ValidateConfig


def validate(config: ValidateConfig) -> int:
    """Run the experiments and print the comparison; the status is 1 if a result is not reproduced.

    Raises:
        UserError: a setting is invalid, or one of the sweeps is already running.
    """
    check_settings(config)
    check_writable(config.output_root)
    from src.reporting import load_runs
    from src.sweep.published import Result, describe_plan, describe_results, judge, plan_checks

    sweeps = plan_checks(config)
    if config.dry_run:
        from src.sweep.dry_run import describe_dry_run

        for name, sweep in sweeps.items():
            print(f"{name}: {config.checks[name].source}\n{describe_dry_run([sweep.jobs])}\n")
        return 0
    from src.sweep.launch import run_sweep

    print("\n".join(describe_plan(sweeps)), flush=True)
    results: dict[str, list[Result]] = {}
    for name, sweep in sweeps.items():

        def describe(folder: Path, report: Path, name: str = name) -> str:
            results[name] = judge(config.checks[name], load_runs(folder))
            return f"Report of {name}: {report}"

        if (exit_code := run_sweep([sweep], describe)) >= 128:  # stopped; the same command goes on
            return exit_code
    print("\n".join(describe_results(config.checks, results)))
    return 0 if all(result.is_reproduced for found in results.values() for result in found) else 1


def main(argv: list[str]) -> int:
    return run_command("validate", ValidateConfig, validate, argv)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
