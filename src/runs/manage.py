"""What `python -m src.runs` does: one of listing, showing, comparing and removing runs."""

from collections.abc import Callable
from pathlib import Path

from src.cli.next_command import command_of, print_next, raw_argument
from src.config.checks import check_settings
from src.config.schema import RunsConfig, UserError
from src.runtime.log import replace_control_chars

ACTIONS = ("show", "diff", "best", "remove", "prune")
READ_BY = {"filter": ("", "best", "prune"), "sort": ("",), "force": ("remove",), "confirm": ("remove", "prune")}
"""The actions that read a setting; the empty one is the list."""


def manage_runs(config: RunsConfig, log: Callable[[str], object] = print) -> int:
    """List, show, compare or remove runs, and return the exit status.

    Raises: UserError for invalid settings, before anything is removed.
    """
    check_settings(config)
    action = _choose_action(config)

    def log_line(line: str) -> None:  # names of folders may hold control characters
        log(replace_control_chars(line.replace("\n", "\\n")))

    root = Path(config.output_root).expanduser()
    if action in ("remove", "prune"):
        from src.runs.removal import prune_runs, remove_runs

        if action == "remove":
            remove_runs(config.remove, root, is_forced=config.force, is_confirmed=config.confirm, log=log_line)
        else:
            prune_runs(root, config.filter, is_confirmed=config.confirm, log=log_line)
        return 0
    lines, next_metric = _describe(action, config, root)
    for line in lines:
        log_line(line)
    if next_metric:
        place = (
            [] if config.output_root == RunsConfig.output_root else [raw_argument("output_root", config.output_root)]
        )
        print_next([command_of("runs", *place, f"best={next_metric}")])
    return 0


def _describe(action: str, config: RunsConfig, root: Path) -> tuple[list[str], str | None]:
    """Return what the action shows, and for a list a metric that its runs have."""
    from src.runs.listing import best_lines, list_lines
    from src.runs.run_details import diff_lines, show_lines

    if config.show is not None:
        return show_lines(config.show, root), None
    if config.best is not None:
        return best_lines(root, config.best, config.filter), None
    if action == "diff":
        return diff_lines(config.diff, root), None
    return list_lines(root, config.filter, config.sort)


def _choose_action(config: RunsConfig) -> str:
    """Return the action, empty for the list. Raises: UserError for several, or a setting that it does not read."""
    given = [name for name in ACTIONS if getattr(config, name) not in (None, [], False)]
    if len(given) > 1:
        raise UserError(f"{given[1]}: contradicts {given[0]}; give one of {', '.join(ACTIONS)}")
    action = given[0] if given else ""
    for name, actions in READ_BY.items():
        if getattr(config, name) not in (None, [], False) and action not in actions:
            what = f"with {action}" if action else "on the list of runs"
            others = " or ".join(other for other in actions if other) or "the list"
            raise UserError(f"{name}: has no effect {what}; it is for {others}")
    return action
