"""`mihack completion`: the completion script of a shell."""

from __future__ import annotations

import click

# how to make it last, per shell
INSTALL = {
    "bash": "echo 'eval \"$(mihack completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(mihack completion zsh)\"' >> ~/.zshrc",
    "fish": "mihack completion fish > ~/.config/fish/completions/mihack.fish",
    "powershell": "mihack completion powershell >> $PROFILE",
}


@click.command(
    "completion",
    epilog='Example: eval "$(mihack completion bash)"',
    short_help="Print a shell's completion script.",
)
@click.argument("shell", type=click.Choice(list(INSTALL)))
def completion_command(shell: str) -> None:
    """Print the completion script for SHELL. Problem ids, areas, tags and terms are completed.

    The script goes to stdout; how to install it for good goes to stderr.
    """
    from click.shell_completion import get_completion_class

    from mihack.cli import COMPLETE, group
    from mihack.powershell import register

    register()
    kind = get_completion_class(shell)
    assert kind is not None  # click knows the first three, register() adds the last where it is missing
    click.echo(kind(group, {}, "mihack", COMPLETE).source())
    click.echo(f"To keep it: {INSTALL[shell]}", err=True)
