"""The root Typer app, its global options, and the one place where an error becomes an exit code."""

from __future__ import annotations

import errno
import gc
import os
import re
import signal
import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

from pipectl import __version__, completion_scripts, disk
from pipectl.commands import COMMANDS, PANELS, RUN_PROGRAMS, function_name
from pipectl.console import Console, give_up
from pipectl.engines.choice import AUTO, ENGINES
from pipectl.errors import ExitCode, InterruptedCommandError, PipectlError, UsageError
from pipectl.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

INTERRUPT_AGAIN_SECONDS = 2.0
TERMINATION_SECONDS = 12.0
SIGNALLED = 128  # and the signal's number: the exit code of what a signal ends
MARKUP: Literal["markdown"] = "markdown"  # in docstrings that --help shows
EXAMPLES = "Examples:"  # what their last paragraphs begin with
WRITE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}
INTERRUPTED = threading.Event()
# Global options, which work before and after a command's name: True if a value follows.
GLOBAL_OPTIONS = {
    "--project": True,
    "--engine": True,
    "--json": False,
    "--quiet": False,
    "-q": False,
    "--verbose": False,
    "-v": False,
}
# After the name of a command that runs another program they are that program's.
SHORT_OPTIONS = {"-q", "-v"}
# Of such commands.
OWN_OPTIONS = {"--help", "--metadata"}


def hoist(arguments: list[str]) -> list[str]:
    """Move global options to the front, so that `status --json` means `--json status`.

    What follows a bare `--` stays where it is. So does what a command passes on to the program that it runs,
    from the first word on that is not pipectl's: a `--` is put before it.
    """
    first: list[str] = []
    rest: list[str] = []
    left = deque(arguments)
    # How many words of its own a command takes that runs another program; None for any other.
    words: int | None = None
    has_command = False
    while left:
        name = left[0].split("=", 1)[0]
        if left[0] == "--":
            break
        if name in GLOBAL_OPTIONS and not (words is not None and name in SHORT_OPTIONS):
            first.append(left.popleft())
            if GLOBAL_OPTIONS[name] and "=" not in first[-1] and left:
                first.append(left.popleft())
            continue
        if words is not None and name not in OWN_OPTIONS:
            if name.startswith("-") or not words:
                left.appendleft("--")
                break
            words -= 1
        elif not has_command and not name.startswith("-"):
            has_command, words = True, RUN_PROGRAMS.get(name)
        rest.append(left.popleft())
    return [*first, *rest, *left]


def require_values(arguments: list[str]) -> None:
    """Raise UsageError for an empty value, as an unset variable of the shell leaves: none means anything."""
    for before, argument in pairwise(["", *arguments]):
        name, equals, value = argument.partition("=")
        is_joined = name.startswith("--") and equals and not value
        if argument and not is_joined:
            continue
        option = name or (before if before.startswith("-") and before != "--" else "")
        raise UsageError(
            f"{f'The value of {option}' if option else 'An argument'} is empty.",
            hint="Give it a value, or leave it out.",
        )


class Root(TyperGroup):
    """The boundary: PipectlError, Ctrl-C and whatever else goes wrong end here, each with its exit code.

    Commands are imported when they are asked for: a call needs one of them, `--help` all.
    """

    def __init__(self, **attributes: Any) -> None:  # noqa: ANN401  Typer's own
        super().__init__(**attributes)
        unused: dict[str, Any] = dict.fromkeys(COMMANDS)
        self.commands = unused | dict(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401  Typer's own context and command
        """Return a command, imported if it was not used before."""
        if cmd_name in COMMANDS and self.commands[cmd_name] is None:
            self.commands[cmd_name] = import_command(cmd_name)
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  Typer's own context
        """Let global options stand anywhere."""
        if not ctx.resilient_parsing:  # as for a shell that completes
            require_values(args)
        take_plain_values(self.get_params(ctx))
        return super().parse_args(ctx, completion_scripts.name_shell(hoist(args)))

    def make_context(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401  Typer's own
        """Parse the arguments; `--help` and `--version` print here."""
        console = Console(json="--json" in sys.argv[1:])

        def action() -> Any:  # noqa: ANN401  Typer's own
            # --install-completion writes files.
            with disk.explained(lambda: Invocation(console).settings):
                return super(Root, self).make_context(*arguments, **options)

        return run_guarded(action, lambda: console)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  Typer's own context
        """Run the command; turn what it raises into one sentence and a code."""

        def action() -> Any:  # noqa: ANN401  Typer's own
            with disk.explained(lambda: ctx.obj.settings), _remembering(ctx):
                return super(Root, self).invoke(ctx)

        return run_guarded(action, lambda: _console_of(ctx), lambda: _what_goes_on(ctx))


@contextmanager
def _remembering(ctx: Any) -> Iterator[None]:  # noqa: ANN401  Typer's own context
    """Keep the ids in what Airflow answers, for shells that complete a command line."""
    try:
        yield
    finally:
        # Read by whatever asked Airflow.
        if "settings" in vars(ctx.obj or object) and "pipectl.airflow_answers" in sys.modules:
            from pipectl import seen  # noqa: PLC0415  only if there may be any

            seen.keep(ctx.obj.settings.state_dir)


class Command(TyperCommand):
    """A command whose examples stand below its --help, each in a line that nothing breaks."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401  Typer's own context
        """Parse the arguments."""
        take_plain_values(self.get_params(ctx))
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  Typer's own
        """Show the help, then the examples."""
        told, heading, examples = (self.help or "").partition(EXAMPLES)
        self.help = told
        super().format_help(ctx, formatter)
        typer.echo("\n   ".join([f" {heading}", *re.findall("`([^`]+)`", examples)]))


def take_plain_values(parameters: Iterable[Any]) -> None:
    """Take a default, strings for a parameter that is one or several, and a readable path as they are.

    Typer has pydantic convert each value, also those that nobody gave: its import takes as long as all of
    pipectl's own.
    """
    for parameter in parameters:
        is_one = not (parameter.required or parameter.nargs != 1)
        if is_one and "process_value" not in vars(parameter):
            parameter.process_value = partial(_process, parameter, parameter.process_value)


def _process(parameter: Any, process: Callable[..., Any], ctx: Any, value: Any) -> Any:  # noqa: ANN401  Typer's own
    described = getattr(parameter, "type_descriptor", None)
    annotation, info = getattr(described, "annotation", None), getattr(described, "parameter_info", None)
    is_plain = False
    if isinstance(value, str) and getattr(info, "parser", True) is None:
        # Whatever else a path is to be, Typer looks at, as it says what is wrong with one.
        is_checked = any(getattr(info, demand) for demand in ("writable", "resolve_path", "allow_dash"))
        allows_all = getattr(info, "file_okay", False) and getattr(info, "dir_okay", False)
        if annotation is Path and allows_all and not is_checked and os.access(value, os.R_OK):
            is_plain, value = True, Path(value)
        else:
            is_plain = annotation in {str, str | None}
    elif getattr(parameter, "multiple", False) and (value is None or annotation == list[str]):
        # Without any, Typer makes it None or a list afterwards.
        is_plain, value = True, () if value is None else list(value)
    if not (value is None or value is parameter.default or is_plain):
        return process(ctx, value)
    return parameter.callback(ctx, parameter, value) if parameter.callback else value


def import_command(name: str) -> Any:  # noqa: ANN401  Typer's own command
    """Return the command of this name, ready for Typer."""
    module = import_module(f"pipectl.commands.{COMMANDS[name]}")
    single = typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
    panel = next(panel for panel, commands in PANELS.items() if name in commands)
    single.command(name, cls=Command, rich_help_panel=panel)(getattr(module, function_name(name)))
    return typer.main.get_command(single)


def _heeding_interrupts(action: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Run `action`; KeyboardInterrupt also if Python dropped it and `action` ended before it came again."""
    result = action()
    if INTERRUPTED.is_set():
        raise KeyboardInterrupt
    return result


def run_guarded(
    action: Callable[[], Any], console: Callable[[], Console], goes_on: Callable[[], str] = str
) -> Any:  # noqa: ANN401
    """Run `action`; end with typer.Exit and the code of whatever it raises.

    `goes_on` gives what Ctrl-C leaves behind, in a sentence.
    """
    try:
        return _heeding_interrupts(action)
    except PipectlError as error:
        console().error(error)
        raise typer.Exit(error.code) from error
    except KeyboardInterrupt as error:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # What looked afterwards knows better.
        _say_interrupted(console(), " ".join(getattr(error, "__notes__", ())) or goes_on())
        raise typer.Exit(ExitCode.INTERRUPTED) from error
    except (BrokenPipeError, SystemExit) as error:
        # Rich turns a closed pipe into SystemExit.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader (`| head`) has what it wanted.
        give_up(sys.stdout)
        raise typer.Exit(ExitCode.DONE) from error
    except Exception as error:
        if type(error).__module__.startswith(("typer", "click")):
            message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
            # Without any word Typer shows the help.
            if message is None or (type(error).__name__ == "NoArgsIsHelpError" and not console().json):
                raise
            command = context.command_path if context else "pipectl"
            console().error(_usage_error(message(), command))
            raise typer.Exit(ExitCode.USAGE) from error
        if isinstance(error, OSError) and (reason := output_failure(error)):
            console().error(
                UsageError(
                    f"The output cannot be written: {reason}.", hint="Send it to another file or place."
                )
            )
            raise typer.Exit(ExitCode.USAGE) from error
        if console().verbose:
            raise
        bug = PipectlError(
            f"pipectl has a bug: {type(error).__name__}: {error}.",
            hint="Run the command again with --verbose for the traceback, and report it.",
        )
        console().error(bug)
        raise typer.Exit(ExitCode.BUG) from error


def _usage_error(text: str, command: str) -> UsageError:
    """Return what Typer says of a command line in one line, without a parser's own words."""
    text = " ".join(text.split()).replace("Value error, ", "")
    text = re.sub(r"Input should be a valid (\w+)(, unable to parse .*)?$", r"this is no \1.", text)
    hint = f"Look at: {command} --help"
    if choice := re.search(r"'([^']*)' is not one of (.*)", text):
        from pipectl.airflow_health import did_you_mean  # noqa: PLC0415  for an error alone

        choices = re.findall(r"[^', .]+", choice[2])
        hint = f"{did_you_mean(choice[1], choices, likeness=0.5)}{hint}"
    return UsageError(text, hint=hint)


def _say_interrupted(console: Console, goes_on: str) -> None:
    """Say that Ctrl-C has ended the command, which is no failure for people."""
    if console.json:
        console.error(InterruptedCommandError("Interrupted.", hint=goes_on))
    else:
        console.say(f"\nInterrupted. {goes_on}".rstrip())


def output_failure(error: OSError) -> str:
    """Return why stdout cannot be written; empty if it can, or if `error` is none of a device."""
    if error.errno not in WRITE_ERRORS:
        return ""
    try:
        os.write(sys.stdout.fileno(), b"\n")
    except OSError as failure:
        give_up(sys.stdout)
        return failure.strerror or str(failure)
    return ""


def _what_goes_on(ctx: Any) -> str:  # noqa: ANN401  Typer's own context
    return ctx.obj.if_interrupted if isinstance(ctx.obj, Invocation) else ""


def _console_of(ctx: Any) -> Console:  # noqa: ANN401  Typer's own context
    return ctx.obj.console if isinstance(ctx.obj, Invocation) else Console(json=bool(ctx.params.get("json")))


app = typer.Typer(
    name="pipectl",
    cls=Root,
    no_args_is_help=True,
    add_completion=False,  # Typer's own takes no shell by name
    rich_markup_mode=MARKUP,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:  # noqa: FBT001  Typer's callback
    if value:
        typer.echo(f"pipectl {__version__}")
        raise typer.Exit


def _install_completion(shell: str | None) -> None:
    if shell is not None:
        path = completion_scripts.install(shell)
        typer.echo(f"{shell} completion installed in {path}. It works from the next terminal on.")
        raise typer.Exit


def _show_completion(shell: str | None) -> None:
    if shell is not None:
        typer.echo(completion_scripts.script(shell))
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    *,
    project: Annotated[
        Path | None,
        typer.Option(
            envvar="PIPECTL_PROJECT", help="The project's folder; found from here upwards otherwise."
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            envvar="PIPECTL_ENGINE",
            help=f"{AUTO}, {' or '.join(ENGINES)}; {AUTO} takes Docker if it answers.",
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", envvar="PIPECTL_JSON", help="Data as JSON on stdout, errors on stderr.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", envvar="PIPECTL_QUIET", help="No progress, only data and errors.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", envvar="PIPECTL_VERBOSE", help="Say more; tracebacks of bugs.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
    install_completion: Annotated[
        str | None,
        typer.Option(
            "--install-completion",
            metavar="[SHELL]",
            is_eager=True,
            callback=_install_completion,
            help="Let a shell complete commands and values: bash, zsh or fish, by default that of $SHELL.",
        ),
    ] = None,
    show_completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="[SHELL]",
            is_eager=True,
            callback=_show_completion,
            help="Print the script that does so.",
        ),
    ] = None,
) -> None:
    """Run, reset, check and trigger an Airflow pipeline and its databases, with Docker or without.

    The options below work before and after a command's name.
    """
    del version, install_completion, show_completion
    ctx.obj = Invocation(Console(json=json, quiet=quiet, verbose=verbose), project, engine)


def interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt, and once more after 2 s: Python drops one that hits a destructor."""
    INTERRUPTED.set()
    signal.setitimer(signal.ITIMER_REAL, INTERRUPT_AGAIN_SECONDS)
    raise KeyboardInterrupt


def terminate(number: int, _frame: object) -> None:
    """End in good order, so that a load stops its processes; at the latest after some seconds."""
    signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, TERMINATION_SECONDS)
    raise SystemExit(SIGNALLED + number)


def complete() -> None:
    """Answer a shell that completes a command line; usage errors for what no shell asks."""
    instruction, _, shell = os.environ[completion_scripts.VARIABLE].partition("_")
    if instruction == "complete" and shell in completion_scripts.SHELLS:
        from pipectl import completion  # noqa: PLC0415  for shells alone

        with suppress(KeyError, ValueError):
            sys.exit(completion.answer(shell))
    sys.stderr.write(
        f"Error: {completion_scripts.VARIABLE} is for shells, which set COMP_WORDS and COMP_CWORD too.\n"
    )
    sys.exit(ExitCode.USAGE)


def fold_help() -> None:
    """Let names that are longer than their column in --help go on in the next line; Typer cuts them."""
    from typer import rich_utils  # noqa: PLC0415  80 ms, for --help alone

    table: Any = vars(rich_utils)["Table"]

    def add_row(self: Any, *cells: Any, **options: Any) -> None:  # noqa: ANN401  Rich's own
        table.add_row(self, *cells, **options)
        for column in self.columns:
            column.overflow = "fold"

    vars(rich_utils)["Table"] = type("Folding", (table,), {"add_row": add_row})


def main() -> None:
    """Run the CLI."""
    completes = bool(os.environ.get(completion_scripts.VARIABLE))
    if not completes and (len(sys.argv) == 1 or not {"-h", "--help"}.isdisjoint(sys.argv)):
        fold_help()
    # If Ctrl-C is ignored, as in a shell's background job, it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGALRM, interrupt)
    for number in (signal.SIGTERM, signal.SIGHUP):
        # `nohup` has it ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, terminate)
    try:
        if completes:
            complete()
        app(prog_name="pipectl")
    except OSError:
        # Typer's own message about the command line, on a stderr that cannot be written.
        give_up(sys.stderr)
        sys.exit(ExitCode.USAGE)
    finally:
        # Looking for garbage among airflow_client's objects once more takes 0.15 s at the very end.
        gc.freeze()
