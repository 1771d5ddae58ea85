"""`python -m src.report dir=DIR`: tables and figures of a sweep, a run or a folder of runs, finished or not."""

import shlex
import sys
from pathlib import Path

from src.cli.command import run_cli, run_command
from src.cli.next_command import command_of, print_next, raw_argument
from src.config.checks import check_settings
from src.config.formatting import show_bytes
from src.config.schema import ReportConfig, UserError


def report(config: ReportConfig) -> int:
    """Write the report and print its table."""
    from src.reporting import comparison_text, load_runs, publish_runs, repeated_lines, write_report

    check_settings(config)
    if config.port is not None and not config.serve:
        raise UserError(f"port={config.port}: is for serve=true; leave it out")
    folder = Path(config.dir).expanduser()
    if config.serve:
        return serve(config, folder)
    runs = load_runs(folder)
    repeated = repeated_lines(runs, load_runs(Path(config.compare_with).expanduser())) if config.compare_with else []
    print("\n".join([comparison_text(runs, config.verdict.margin), *repeated]))
    if config.publish_to:
        out = Path(config.publish_to).expanduser()
        n_bytes = publish_runs(folder, runs, out)
        command = f"python -m src.report {shlex.quote(f'dir={out}')}"
        print(f"Published: {out}, {show_bytes(n_bytes)}; {command} makes this report of it")
    print(f"Report: {write_report(folder, repeated=repeated, margin=config.verdict.margin)}")
    is_open = {"running", "pending"} & {*runs["status"]} and (folder / "sweep.json").is_file()
    publish = raw_argument("publish_to", Path("results") / folder.resolve().name)
    if is_open or not config.publish_to:
        print_next([command_of("report", raw_argument("dir", config.dir), "serve=true" if is_open else publish)])
    return 0


def serve(config: ReportConfig, folder: Path) -> int:
    """Serve the page of a running sweep. Raises: UserError for settings that have no effect on it."""
    from src.sweep.live_page import serve_sweep

    for key in ("publish_to", "compare_with"):
        if getattr(config, key):
            raise UserError(f"{key}: has no effect with serve=true; leave one out")
    return serve_sweep(folder, config.port)


def main(argv: list[str]) -> int:
    return run_command("report", ReportConfig, report, argv, ("dir", "publish_to", "compare_with"))


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
