"""The scripts by which shells complete pipectl's command lines: Typer's, mended, where shells look."""

from __future__ import annotations

import os
from pathlib import Path

from pipectl.errors import UsageError

SHELLS = ("bash", "zsh", "fish")
# By which a shell's script asks for candidates.
VARIABLE = "_PIPECTL_COMPLETE"
PROGRAM = "pipectl"
OPTIONS = ("--install-completion", "--show-completion")


def name_shell(arguments: list[str]) -> list[str]:
    """Return a command line in which the user's own shell stands after an option that names none."""
    named: list[str] = []
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        named.append(argument)
        if argument in OPTIONS and following.startswith("-"):
            named[-1] += f"={Path(os.environ.get('SHELL', '')).name}"
    return named


def install(shell: str) -> Path:
    """Switch completion on in the user's files, and return the script's. UsageError for another shell."""
    from typer import _completion_shared  # noqa: PLC0415  for these options alone

    _mend(shell)
    return _completion_shared.install(shell=shell, prog_name=PROGRAM, complete_var=VARIABLE)[1]


def script(shell: str) -> str:
    """Return the script. UsageError for another shell."""
    from typer import _completion_shared  # noqa: PLC0415  as above

    _mend(shell)
    return _completion_shared.get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell)


def _mend(shell: str) -> None:
    """Let shells ask the pipectl that is typed, which need not be on PATH, and zsh at the first Tab.

    Shells hand the word over as it is typed, with ~ and backslashes. zsh runs Typer's file at the first Tab,
    which only says who completes.
    """
    if shell not in SHELLS:
        raise UsageError(
            f"There is no completion for the shell {shell!r}." if shell else "$SHELL names no shell.",
            hint=f"Name {', '.join(SHELLS[:-1])} or {SHELLS[-1]}, as in: pipectl {OPTIONS[0]} {SHELLS[0]}",
        )
    from typer import _completion_shared  # noqa: PLC0415  as above

    scripts: dict[str, str] = vars(_completion_shared)["_completion_scripts"]
    typed = "local typed=${1//\\\\/}\n    typed=${typed/#\\~\\//$HOME/}\n    COMPREPLY="
    scripts["bash"] = scripts["bash"].replace("COMPREPLY=", typed)
    scripts["bash"] = scripts["bash"].replace("=complete_bash $1", '=complete_bash "$typed"')
    asking, typed = "=complete_zsh %(prog_name)s", '"${${(Q)words[1]}/#\\~\\//$HOME/}"'
    scripts["zsh"] = scripts["zsh"].replace(asking, f"=complete_zsh {typed} 2>/dev/null")
    scripts["zsh"] += "[[ $zsh_eval_context[-1] != loadautofunc ]] || %(complete_func)s\n"
    cursor = "(commandline -cp) "
    scripts["fish"] = scripts["fish"].replace(f"{cursor}%(prog_name)s", f"{cursor}(commandline -opc)[1]")
