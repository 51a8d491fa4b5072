"""PowerShell completion for a click that has none (it came with click 8.5)."""

from __future__ import annotations

import os

from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

_SOURCE = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($word, $line, $cursor)
    $count = $line.CommandElements.Count
    $env:COMP_WORDS = $line.ToString()
    $env:COMP_CWORD = if ($word) { $count - 1 } else { $count }
    $env:%(complete_var)s = 'powershell_complete'
    try { $answer = @(& %(prog_name)s 2>$null) }
    finally { Remove-Item Env:COMP_WORDS, Env:COMP_CWORD, Env:%(complete_var)s }
    foreach ($row in $answer) {
        $kind, $value, $tip = $row -split "`t", 3
        if ($kind -eq 'plain') {
            [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $tip)
        }
    }
}
"""


class PowerShell(ShellComplete):
    """One row per offer: its kind, value and tooltip, with tabs between.

    For files and folders the script answers nothing, and PowerShell offers its own.
    """

    name = "powershell"
    source_template = _SOURCE

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one under it."""
        words, number = split_arg_string(os.environ["COMP_WORDS"]), int(os.environ["COMP_CWORD"])
        return words[1:number], words[number] if number < len(words) else ""

    def format_completion(self, item: CompletionItem) -> str:
        """A row; a tooltip may not be empty."""
        return "\t".join((item.type, str(item.value), " ".join((item.help or str(item.value)).split())))


def register() -> None:
    """Teach click PowerShell, unless it knows it."""
    if get_completion_class("powershell") is None:
        add_completion_class(PowerShell)
