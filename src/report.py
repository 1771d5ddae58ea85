"""`python -m src.report dir=DIR`: tables and figures of a sweep, a run or a folder of runs, at any moment."""

import sys
from pathlib import Path

from src.compose import guarded, run_command
from src.config import ReportConfig


def report(config: ReportConfig) -> int:
    """Write the report and print its table."""
    from src.reporting import comparison_text, load_runs, write_report

    folder = Path(config.dir).expanduser()
    print(comparison_text(load_runs(folder)))
    print(f"Report: {write_report(folder)}")
    return 0


def main(argv: list[str]) -> int:
    return run_command("report", ReportConfig, report, argv, ("dir",))


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
