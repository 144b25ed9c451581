"""`runfold completion`: scripts that let a shell complete commands, options, their values, and run ids."""

import click

PROGRAM = "runfold"
VARIABLE = "_RUNFOLD_COMPLETE"


@click.command(short_help="Print a completion script for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a completion script for SHELL.

    \b
    Examples:
      eval "$(runfold completion bash)"                                    # in ~/.bashrc
      eval "$(runfold completion zsh)"                                     # in ~/.zshrc, after compinit
      runfold completion fish > ~/.config/fish/completions/runfold.fish
    """
    from click.shell_completion import get_completion_class

    completes = get_completion_class(shell)
    assert completes is not None, "click completes bash, zsh and fish"
    script = completes(context.find_root().command, {}, PROGRAM, VARIABLE)
    # Not `script.source()`: it first runs the shell to learn its version, which may not be the one that reads this.
    click.echo(script.source_template % script.source_vars())
