"""The command line: ``raypipe STAGE [--config FILE] [--root DIR] [--section.option value …]``."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from rich.table import Table
from rich.text import Text

from raypipe.config import Config
from raypipe.config.base import Section
from raypipe.config.load import TOP_LEVEL, load_config, parse_arguments
from raypipe.errors import ConfigError, InputError, RaypipeError, one_line, printable
from raypipe.progress import console, print_line
from raypipe.runtime import original_error
from raypipe.runtime.stderr_log import last_failure_log
from raypipe.stages import COMMON_SECTIONS, STAGES
from raypipe.tables.record import RunRecord

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 failed, 2 wrong option, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        _print_overview()
        return 0
    if words[0] == "--version":
        console().print(f"raypipe {metadata.version('raypipe')}")
        return 0
    stage, *rest = words
    if stage in STAGES and ("--help" in rest or "-h" in rest):
        _print_stage_help(stage)
        return 0
    # A cluster ends a job with SIGTERM. The stage then closes its servers as after Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    config: Config | None = None
    try:
        if stage not in STAGES:
            raise ConfigError(f"unknown command; commands are {', '.join(STAGES)}")
        config = _configuration(stage, rest)
        _run(stage, config)
    except KeyboardInterrupt:
        _print_error(stage, "interrupted; run the same command again to continue")
        return _INTERRUPTED
    except Exception as error:
        if config is not None and config.debug:
            sys.stderr.write(printable(traceback.format_exc()))
        return _report_error(stage, original_error(error))
    return 0


def _interrupt(number: int, frame: Any) -> None:
    """Does what Ctrl-C does. Inside `asyncio.run`, that cancels the task instead of raising an error anywhere in it."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


def _run(stage: str, config: Config) -> None:
    started = datetime.now(UTC)
    record = STAGES[stage].load()(config)
    if isinstance(record, RunRecord) and record.finished_at < started and stage not in ("demo", "run"):
        where = config.open_storage().uri(record.table)
        since = f"{record.finished_at:%Y-%m-%d %H:%M} UTC"
        print_line(f"{where} is complete since {since}; nothing to do (--overwrite makes it again)")


def _configuration(stage: str, words: Sequence[str]) -> Config:
    options = parse_arguments(words, STAGES[stage].short)
    file = options.pop("config", None)
    if file is None and stage == "demo":
        from raypipe.run.demo import config_file

        file = config_file()
    return load_config(file, options)


def _report_error(stage: str, error: BaseException) -> int:
    # Ray's log does not help with a mistake in an option or in the data.
    log = None if isinstance(error, (ConfigError, InputError)) else last_failure_log()
    log_hint = f"; Ray's own log: {log}" if log else ""
    if isinstance(error, RaypipeError):
        _print_error(stage, "\n".join(filter(None, (f"{one_line(error)}{log_hint}", error.extra_lines))))
        return error.exit_code
    _print_error(stage, f"unexpected {type(error).__name__}: {one_line(error)}; --debug shows the traceback{log_hint}")
    return 1


def _print_error(stage: str, message: str) -> None:
    sys.stdout.flush()
    # The message may contain text that others wrote, so its control characters must not reach the terminal.
    sys.stderr.write(f"{printable(f'raypipe {stage}: {message}')}\n")


def _print_overview() -> None:
    out = console()
    out.print(_bold("raypipe"), "STAGE [--config FILE.yaml] [--root DIR-or-URI] [--section.option value …]\n")
    out.print("From social posts to labels and a trained image classifier, on a laptop or a Ray cluster.\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, stage in STAGES.items():
        table.add_row(_bold(name), stage.help)
    out.print(table)
    out.print("\nraypipe STAGE --help shows the options of a stage with defaults and units. Start with: raypipe demo")


def _print_stage_help(name: str) -> None:
    stage, out = STAGES[name], console()
    short = {option: word for word, option in stage.short.items()}
    out.print(_bold(f"raypipe {name}"), f": {stage.help}\n", sep="")
    out.print("  --config FILE.yaml         file with options; options on the command line override it")
    for option in TOP_LEVEL[1:]:
        _print_option(option, Config.model_fields[option])
    for section in (*stage.sections, *COMMON_SECTIONS):
        kind = Config.model_fields[section].annotation
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            continue
        out.print(_bold(f"\n{section}"), f": {(kind.__doc__ or '').strip().splitlines()[0]}", sep="")
        for option, info in kind.model_fields.items():
            _print_option(f"{section}.{option}", info, short.get(f"{section}.{option}"))
    out.print("\nLists are a,b or [a,b]. An option without a value means true. The value none means: not set.")


def _bold(text: str) -> Text:
    return Text(text, style="bold")


def _print_option(name: str, info: Any, short: str | None = None) -> None:
    allowed = allowed_values(info.annotation)
    values = f" ({'|'.join(map(str, allowed))})" if allowed else ""
    also = f"; short form: --{short}" if short else ""
    console().print(f"  --{name:<24} {info.description}{values}{also} [{default_text(info.default)}]")


def default_text(default: Any) -> str:
    """The default of an option as a user types it."""
    text = ",".join(map(str, default)) if isinstance(default, list) else str(default)
    return {"None": "none", "True": "true", "False": "false"}.get(text, text)


def allowed_values(annotation: Any) -> tuple[Any, ...]:
    """The allowed values of an option, or of the items of its list, if they are a Literal. Else empty."""
    from typing import Literal, get_args, get_origin

    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    return get_args(annotation) if get_origin(annotation) is Literal else ()


if __name__ == "__main__":
    sys.exit(main())
