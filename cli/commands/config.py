"""`runfold config`: the settings as they hold."""

import click

from cli.config import NAMES, Setting, Settings, without_password
from cli.options import JsonCommand, output_options, url_option
from cli.output import Cell, Column, Output

FIELDS = ("name", "value", "origin")


@click.group(short_help="Show the settings, and where each comes from.")
def config() -> None:
    """Show the settings, and where each comes from.

    A flag wins over the environment (RUNFOLD_URL, RUNFOLD_ACTOR, RUNFOLD_COLOR, RUNFOLD_TIME, NO_COLOR,
    CLICOLOR_FORCE), that over runfold.toml in this directory or the nearest parent that has one, that over
    $XDG_CONFIG_HOME/runfold/config.toml, that over the default.

    \b
    Example:
      runfold config show
    """


@config.command(cls=JsonCommand, short_help="Show each setting and where it comes from.")
@output_options(lambda: FIELDS)
@url_option
@click.pass_context
def show(context: click.Context, *, url: Setting, output: Output) -> None:
    """Show each setting, its value, and where it comes from. Passwords are not shown.

    Piped, the columns are: name, value, origin.

    \b
    Examples:
      runfold config show
      runfold config show --json
    """
    flags = {name: context.params.get("time_style" if name == "time" else name) for name in ("color", "time")}
    settings = Settings(flags)
    shown = [url, *[settings[name] for name in NAMES if name != "url"]]
    rows = output.rows(
        [
            Column("SETTING", lambda setting: setting.name),
            Column("VALUE", _value, is_cut=True),
            Column("FROM", lambda setting: setting.origin, lambda setting: Cell(setting.origin, "dim")),
        ],
        lambda setting: {"name": setting.name, "value": _value(setting), "origin": setting.origin},
    )
    rows.write(shown)
    rows.close()


def _value(setting: Setting) -> str:
    return without_password(setting.value) if setting.name == "url" else setting.value
