"""The built wheel, installed where nothing else is, can do the work."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))


def run(command: Sequence[str | Path], *, folder: Path) -> str:
    """Run a command outside of this checkout, with no setting of it, and give what it printed."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    kept |= {name: value for name, value in os.environ.items() if name.startswith(("UV_", "SSL_", "HTTP", "NO_PROXY"))}
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=240, check=False)
    assert 0 == done.returncode, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run([UV, "build", "--wheel", "--out-dir", folder, ROOT], folder=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("environment")
    run([UV, "venv", "--python", sys.executable, folder / "venv"], folder=folder)
    programs = folder / "venv" / "bin"
    run([UV, "pip", "install", "--python", programs / "python", wheel], folder=folder)
    return programs


def test_wheel_when_used(installed: Path, tmp_path: Path) -> None:
    """Tables are made, a run is asked for, and the list shows it."""
    url = ["--url", f"sqlite:///{tmp_path / 'runs.db'}"]

    migrated = run([installed / "runfold", "db", "migrate", *url], folder=tmp_path)
    run_id = run([installed / "runfold", "enqueue", "test", "--project", "web", *url], folder=tmp_path).split("\t")[0]
    [listed] = run([installed / "runfold", "list", "--jsonl", *url], folder=tmp_path).splitlines()

    names = [path.stem.partition("_")[2] for path in sorted((ROOT / "schema/sqlite").glob("*.sql"))]
    assert names == [line.split("\t")[1] for line in migrated.splitlines()]
    shown = json.loads(listed)
    assert (run_id, "test", "web", "queued", 1) == (
        shown["run_id"],
        shown["kind"],
        shown["project"],
        shown["status"],
        shown["version"],
    )


def test_wheel_when_it_records_a_command(installed: Path, tmp_path: Path) -> None:
    """Everything that a recorded command needs is in the wheel."""
    url = ["--url", f"sqlite:///{tmp_path / 'runs.db'}"]

    run([installed / "runfold", "exec", "script", *url, "--", "echo", "hello"], folder=tmp_path)

    [listed] = run([installed / "runfold", "list", "--jsonl", *url], folder=tmp_path).splitlines()
    assert ("completed", 1) == (json.loads(listed)["status"], json.loads(listed)["log_line_count"])
    assert "hello" in run([installed / "runfold", "logs", "@last", *url], folder=tmp_path)


def test_wheel_when_imported(installed: Path, tmp_path: Path) -> None:
    """The libraries are there with their types, and the folder of the schema is no package."""
    said = run(
        [
            installed / "python",
            "-c",
            "import importlib.util as u, ledger, projections, pathlib\n"
            "print(u.find_spec('schema'), u.find_spec('tests'), u.find_spec('psycopg'))\n"
            "print(*[(pathlib.Path(m.__file__).parent / 'py.typed').exists() for m in (ledger, projections)])\n"
            "with ledger.open('memory:') as log: print(projections.Runs(log).get(log.enqueue('t').id).status)\n",
        ],
        folder=tmp_path,
    )

    assert ["None None None", "True True", "queued"] == said.splitlines()


def test_wheel_when_postgres_is_not_installed(installed: Path, tmp_path: Path) -> None:
    """Without the extra, the error says what to install."""
    done = subprocess.run(
        [installed / "runfold", "list", "--url", "postgresql://localhost/runs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "runfold[postgres]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's project that has packages of the names of ours, and tests that use them."""
    folder = tmp_path / "project"
    for name in ("cli", "ledger", "projections", "schema"):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"THEIRS = {name!r}\n")
    (folder / "cli" / "main.py").write_text("raise RuntimeError('this is not the command line of Runfold')\n")
    (folder / "test_theirs.py").write_text(
        "import cli, ledger, projections, schema, pytest\n"
        "@pytest.mark.parametrize('package', [cli, ledger, projections, schema])\n"
        "def test_theirs(package): assert package.__name__ == package.THEIRS\n"
        "def test_fails(): assert cli.THEIRS == 'nothing'\n"
    )
    return folder


@pytest.fixture(scope="module")
def with_pytest(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment that holds the wheel and pytest."""
    folder = tmp_path_factory.mktemp("with-pytest")
    run([UV, "venv", "--python", sys.executable, folder / "venv"], folder=folder)
    programs = folder / "venv" / "bin"
    run([UV, "pip", "install", "--python", programs / "python", wheel, "pytest"], folder=folder)
    return programs


@pytest.mark.parametrize("python_path", [None, "."])
def test_wheel_when_a_project_has_packages_of_our_names(
    python_path: str | None, with_pytest: Path, project: Path
) -> None:
    """Their tests see their packages, the run is recorded with ours, and without a run the plugin is not in the way."""
    env = {"PATH": f"{with_pytest}:{os.environ['PATH']}", "HOME": str(project)}
    if python_path is not None:
        env["PYTHONPATH"] = python_path
    url = f"sqlite:///{project / 'runs.db'}"

    def call(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=120, check=False)

    plain = call("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    recorded = call(
        "runfold", "exec", "test", "--shards", "2", "--split-pytest", "--url", url,
        "--", "python", "-m", "pytest", "-q", "-p", "no:cacheprovider",
    )  # fmt: skip
    listed = call("python", "-P", "-m", "runfold", "list", "--jsonl", "--url", url)

    assert (1, "1 failed, 4 passed") == (plain.returncode, plain.stdout.strip().splitlines()[-1].partition(" in ")[0])
    assert (1, 0) == (recorded.returncode, listed.returncode), recorded.stderr + listed.stderr
    shown = json.loads(listed.stdout)
    assert ("completed", "failed", 4, 1) == tuple(shown[name] for name in ("status", "verdict", "passed", "failed"))


def test_wheel_when_opened(wheel: Path) -> None:
    """The schema is in the wheel as it is in the repository, and nothing is there that is for developers."""
    with zipfile.ZipFile(wheel) as files:
        names = files.namelist()
        shipped = {
            name.removeprefix("ledger/"): files.read(name) for name in names if name.startswith("ledger/schema/")
        }

    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert {"ledger", "projections", "cli", "runfold"} == tops
    assert {
        str(path.relative_to(ROOT)): path.read_bytes() for path in (ROOT / "schema").rglob("*") if path.is_file()
    } == shipped


def test_wheel_when_asked_what_it_needs(wheel: Path) -> None:
    """A plain installation asks for few packages; PostgreSQL's driver is an extra."""
    with zipfile.ZipFile(wheel) as files:
        [name] = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        needs = Parser().parsestr(files.read(name).decode()).get_all("Requires-Dist") or []

    plain = {need.split(";")[0].rstrip("!<>=.,0123456789 ") for need in needs if "extra ==" not in need}
    extras = {need.partition("[")[0] for need in needs if "extra == 'postgres'" in need}
    assert {"apsw", "click", "inotify-simple", "msgspec"} == plain
    assert {"psycopg"} == extras
