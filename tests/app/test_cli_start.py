"""`runfold` before a command runs: it starts fast, helps, and knows what it does not know."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from command_line import environment
from command_line import runfold as run

import ledger.errors
from cli.documents import EVENT_FIELDS, LOG_FIELDS, RUN_FIELDS
from cli.main import _COMMANDS, DEFECT, EXIT_CODES, exit_code_of, runfold
from cli.options import STATUSES, VERDICTS
from ledger.errors import LedgerError

HEAVY = ("apsw", "psycopg", "psycopg_pool", "msgspec", "asyncio", "pydantic", "ledger", "projections", "tomllib")


def commands(group: click.Group = runfold, prefix: str = "") -> dict[str, click.Command]:
    """Give every command by its full name."""
    found: dict[str, click.Command] = {}
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[prefix + name] = command
        if isinstance(command, click.Group):
            found.update(commands(command, f"{prefix}{name} "))
    return found


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["list", "--help"], ["projection", "--help"], ["nonsense"]]
)
def test_start_when_no_ledger_is_needed(tmp_path: Path, args: list[str]) -> None:
    """Help and mistakes import no driver, no ledger, and nothing else that takes long."""
    script = (
        "import sys; from cli.main import main; main(sys.argv[1:]); print('\\n'.join(['--modules--', *sys.modules]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    loaded = {name.partition(".")[0] for name in done.stdout.partition("--modules--\n")[2].splitlines()}
    assert "click" in loaded
    assert set() == loaded.intersection(HEAVY)


def test_help_when_commands_are_listed() -> None:
    """What the list says of a command without importing it is what the command says itself."""
    context = click.Context(runfold)

    said = {name: runfold.get_command(context, name).short_help for name in _COMMANDS}  # type: ignore[union-attr]

    assert {name: entry.summary for name, entry in _COMMANDS.items()} == said


@pytest.mark.parametrize("name", list(commands()))
def test_help_when_a_command_is_asked(name: str) -> None:
    """Every command's long help has an example that begins like the command, and fits its own options."""
    command = commands()[name]

    example = re.search(rf"^ +(?:eval \"\$\()?runfold {name}", command.help or "", re.MULTILINE)
    options = {option for param in command.params for option in param.opts}
    written = {
        match[1]
        for line in (command.help or "").splitlines()
        if line.strip().startswith(f"runfold {name} ") and " -- " not in line
        for match in re.finditer(r" (--[a-z-]+)", line.partition("|")[0].partition("&&")[0].partition("||")[0])
    }

    assert example is not None
    assert isinstance(command, click.Group) or set() == written - options


def test_start_when_the_command_is_misspelled(tmp_path: Path) -> None:
    """A command that does not exist is a usage error in one line, with the one that may be meant."""
    done = run("lsit", folder=tmp_path)

    assert (2, "") == (done.code, done.out)
    assert "error: there is no command 'lsit'. Did you mean 'list'? See `runfold --help`.\n" == done.err


@pytest.mark.parametrize("args", [[], ["projection"], ["db"], ["config"]])
def test_start_when_nothing_is_asked(tmp_path: Path, args: list[str]) -> None:
    """A group without a command shows its help."""
    assert run(*args, "--help", folder=tmp_path) == run(*args, folder=tmp_path)


def test_version_when_asked(tmp_path: Path) -> None:
    """The version is that of the installed package."""
    assert re.fullmatch(r"runfold \d+\.\d+\.\d+\n", run("--version", folder=tmp_path).out)


def test_choices_when_compared_with_the_rules() -> None:
    """The words that options offer are those of the rules of a run."""
    assert tuple(ledger.Status) == STATUSES
    assert tuple(ledger.Verdict) == VERDICTS


def test_exit_codes_when_every_error_is_looked_up() -> None:
    """Every error of the ledger has an exit code of its own table, and every name of the table is an error."""
    errors = {
        name: kind
        for name, kind in vars(ledger.errors).items()
        if isinstance(kind, type) and issubclass(kind, LedgerError) and kind is not LedgerError
    }

    without = [name for name, kind in errors.items() if exit_code_of(kind.__new__(kind)) == DEFECT]

    assert [] == without
    assert set() == {code for code in EXIT_CODES.values()} - {1, 2, 3, 4, 5, 6, 7, 8, 124, 126, 127, 130, 141}


def test_exit_codes_when_the_documentation_is_read() -> None:
    """The documentation names every code and every error of the table with the code that it has."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md").read_text()
    documented = {
        name: int(code)
        for code, names in re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", page, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }

    assert EXIT_CODES == documented


def test_reference_when_commands_change() -> None:
    """The reference names every command with each of its options, every field, and no option that is not there."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
    sections = {title: text for title, text in re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", page, re.MULTILINE)}
    shared = sections.pop("What every command takes")

    for name, command in commands().items():
        top = name.partition(" ")[0]
        if top in ("exec", "config"):
            continue  # these have a page of their own
        text = sections[top]
        options = {option for param in command.params for option in param.opts if option.startswith("-")}
        assert [] == [each for each in options if re.search(rf"(?<![\w-]){each}(?![\w-])", text + shared) is None]
        assert f"runfold {name}" in text or isinstance(command, click.Group)
    known = {
        each
        for command in [runfold, *commands().values()]
        for param in command.params
        for each in [*param.opts, *param.secondary_opts]
    }
    assert set() == set(re.findall(r"--[a-z][a-z-]*", page)) - known - {"--help"}
    assert [] == [field for field in (*RUN_FIELDS, *EVENT_FIELDS, *LOG_FIELDS) if field not in page]
