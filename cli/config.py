"""The settings: which there are, where each may come from, and who wins.

A flag wins over the environment, that over the project's `runfold.toml` (of the working directory or the nearest
parent that has one), that over the user's `$XDG_CONFIG_HOME/runfold/config.toml`, that over the default.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

PROJECT_FILE: Final = "runfold.toml"
PROJECT_FOLDER: Final = ".runfold"
DATABASE: Final = "runs.db"

CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "color": ("auto", "always", "never"),
    "time": ("auto", "iso", "relative"),
}
NAMES: Final = ("url", "actor", *CHOICES)
"""Every setting; each is a key of the files, and `RUNFOLD_<NAME>` in the environment."""

RETENTION: Final = "retention"
"""The files' tables that say which runs are purged: `[[retention]]`."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it holds.

    Attributes:
        name: Which.
        value: Its value; a ledger's relative path is already put in its place.
        origin: Where it comes from, for people: a flag, a variable, a file or `default`.
    """

    name: str
    value: str
    origin: str


class _File(NamedTuple):
    path: Path
    values: Mapping[str, str]
    retention: Sequence[Mapping[str, Any]]


class Settings:
    """The settings of one command.

    Args:
        flags: What was given on the command line; None where nothing was.
        environ: The environment.
        folder: The working directory.

    Raises:
        click.UsageError: when a settings file cannot be read or says something that is no setting.
    """

    def __init__(
        self,
        flags: Mapping[str, str | None] | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        folder: Path | None = None,
    ) -> None:
        self._flags = flags or {}
        self._environ = environ
        self._folder = folder or _working_directory()
        self._project = _read(_upward(self._folder, os.path.exists, PROJECT_FILE))
        self._user = _read(_user_file(environ))

    def __getitem__(self, name: str) -> Setting:
        flag, variable = self._flags.get(name), f"RUNFOLD_{name.upper()}"
        if flag is not None:
            return Setting(name, self._checked(name, flag, f"--{name}"), f"--{name}")
        if self._environ.get(variable):
            return Setting(name, self._checked(name, self._environ[variable], variable), variable)
        if name == "color" and self._environ.get("NO_COLOR"):
            return Setting(name, "never", "NO_COLOR")
        if name == "color" and self._environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
            return Setting(name, "always", "CLICOLOR_FORCE")
        for file in (self._project, self._user):
            if file is not None and name in file.values:
                value = self._checked(name, file.values[name], str(file.path))
                return Setting(name, _beside(file.path, value) if name == "url" else value, str(file.path))
        return Setting(name, self._default(name), "default")

    def retention(self) -> tuple[Path | None, Sequence[Mapping[str, Any]]]:
        """Give the tables that say which runs are purged, of the first file that has any, and which file that is."""
        for file in (self._project, self._user):
            if file is not None and file.retention:
                return file.path, file.retention
        return None, ()

    def _checked(self, name: str, value: str, origin: str) -> str:
        if name in CHOICES and value not in CHOICES[name]:
            raise click.UsageError(f"{origin} sets {name} to {value!r}: {', '.join(CHOICES[name])} is allowed.")
        return value

    def _default(self, name: str) -> str:
        if name == "url":
            return f"sqlite:///{self._default_folder() / DATABASE}"
        return _login(self._environ) if name == "actor" else "auto"

    def _default_folder(self) -> Path:
        """The nearest `.runfold`, as git finds `.git`; else it belongs beside the project's file, else here."""
        known = _upward(self._folder, os.path.isdir, PROJECT_FOLDER)
        if known is not None:
            return known
        return (self._folder if self._project is None else self._project.path.parent) / PROJECT_FOLDER


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as exc:
        raise click.UsageError("the working directory does not exist any more. Go to one that does.") from exc


def _upward(folder: Path, is_there: Callable[[Path], bool], name: str) -> Path | None:
    return next((parent / name for parent in (folder, *folder.parents) if is_there(parent / name)), None)


def _user_file(environ: Mapping[str, str]) -> Path | None:
    base = environ.get("XDG_CONFIG_HOME") or (f"{environ['HOME']}/.config" if environ.get("HOME") else "")
    file = Path(base) / "runfold" / "config.toml"
    return file if base and os.path.exists(file) else None


def _read(path: Path | None) -> _File | None:
    if path is None:
        return None
    import tomllib

    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise click.UsageError(f"{path} cannot be read as TOML: {exc}. Correct it, or take it away.") from exc
    retention = values.pop(RETENTION, [])
    if not isinstance(retention, list) or not all(isinstance(table, dict) for table in retention):
        raise click.UsageError(f"{path} sets {RETENTION} to {retention!r}: tables are needed, [[{RETENTION}]] each.")
    return _File(path, {name: _text(path, name, value) for name, value in values.items()}, retention)


def _text(path: Path, name: str, value: Any) -> str:
    if name not in NAMES:
        raise click.UsageError(f"{path} sets {name!r}, which is no setting: {', '.join((*NAMES, RETENTION))} are.")
    if not isinstance(value, str) or not value:
        raise click.UsageError(f'{path} sets {name} to {value!r}: a text is needed, such as {name} = "…".')
    return value


def _beside(file: Path, url: str) -> str:
    """Let a relative path in a file mean the same from every directory: it is seen from the file."""
    path = url.removeprefix("sqlite:///")
    return url if path == url or not path else f"sqlite:///{file.parent / path}"


def _login(environ: Mapping[str, str]) -> str:
    for variable in ("LOGNAME", "USER"):
        if environ.get(variable):
            return environ[variable]
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"  # a container whose user has no name


def without_password(url: str) -> str:
    """Give a ledger's URL as it may be shown."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "sqlite":
        return url
    from urllib.parse import parse_qsl, urlencode, urlsplit

    parts = urlsplit(url)
    if parts.password is not None:
        credentials, _, host = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{credentials.partition(':')[0]}:***@{host}")
    if "password" in parts.query:
        hidden = [(key, "***" if key == "password" else value) for key, value in parse_qsl(parts.query)]
        parts = parts._replace(query=urlencode(hidden, safe="*"))
    return parts.geturl()
