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

    from mihack.cli import group
    from mihack.errors import MihackError

    kind = get_completion_class(shell)
    if kind is None:
        raise MihackError(
            f"The installed click {click.__version__} cannot complete for {shell}.",
            hint="pip install --upgrade 'click>=8.5'",
        )
    click.echo(kind(group, {}, "mihack", "_MIHACK_COMPLETE").source())
    click.echo(f"To keep it: {INSTALL[shell]}", err=True)
