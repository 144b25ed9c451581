"""What the code says itself is written down as it is: schemas, events, limits and states."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from builders import BARE, FULL

from ledger import limits
from ledger.run.codec import encode
from ledger.run.values import TERMINAL, Status

ROOT = Path(__file__).parents[2]


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/reference/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()
GENERATED: dict[str, str] = GENERATOR.generated()
S, Q, R, X = Status.SCHEDULED, Status.QUEUED, Status.RUNNING, Status.INTERRUPTED
C, F, A = Status.COMPLETED, Status.FAILED, Status.ABORTED


def schema(tag: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / f"schema/events/{tag}.schema.json").read_text())
    return content


@pytest.mark.parametrize("name", GENERATED)
def test_generated_file_when_the_code_says_otherwise(name: str) -> None:
    """Each generated file is what the code says today; `make docs` writes it."""
    assert GENERATED[name] == (ROOT / name).read_text(encoding="utf-8")


def test_schemas_when_an_event_goes() -> None:
    """Every schema file belongs to an event that can be read."""
    assert {name for name in GENERATED if name.startswith("schema/events/")} == {
        str(path.relative_to(ROOT)) for path in (ROOT / "schema/events").iterdir()
    }


@pytest.mark.parametrize("tag", FULL)
def test_schema_when_compared_with_stored_bytes(tag: str) -> None:
    """A schema knows every field that is stored, and asks for those that always are."""
    full, bare = json.loads(encode(FULL[tag])), json.loads(encode(BARE[tag]))

    assert set(full) == set(schema(tag)["properties"])
    assert set(bare) == set(schema(tag)["required"])
    assert {"enum": [full["type"]]} == schema(tag)["properties"]["type"]


JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def fits(value: object, shape: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Tell whether a value has a schema's type: the part of JSON Schema that these schemas use."""
    if not {"$ref", "anyOf", "enum", "type"} & set(shape):
        return True  # any JSON
    if "$ref" in shape:
        return fits(value, definitions[shape["$ref"].removeprefix("#/$defs/")], definitions)
    if "anyOf" in shape:
        return any(fits(value, part, definitions) for part in shape["anyOf"])
    if "enum" in shape:
        return value in shape["enum"]
    if not isinstance(value, JSON_TYPES[shape["type"]]):
        return False
    if isinstance(value, list):
        return all(fits(item, shape["items"], definitions) for item in value)
    inner = shape.get("additionalProperties")
    return inner is None or all(fits(item, inner, definitions) for item in value.values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("tag", FULL)
def test_schema_when_stored_bytes_are_checked_by_it(tag: str) -> None:
    """What is stored has the types that the schema says."""
    properties, definitions = schema(tag)["properties"], schema(tag).get("$defs", {})

    for payload in (json.loads(encode(FULL[tag])), json.loads(encode(BARE[tag]))):
        assert [] == [name for name, value in payload.items() if not fits(value, properties[name], definitions)]


@pytest.mark.parametrize(
    ("field", "value"), [("attempt", "1"), ("attempt", None), ("worker", 7), ("type", "ended"), ("started_at", 0)]
)
def test_schema_when_a_value_has_another_type(field: str, value: object) -> None:
    """A schema is no welcome to everything."""
    assert not fits(value, schema("started")["properties"][field], {})


def test_events_page_when_an_event_is_added() -> None:
    """Every event has a section with each of its fields."""
    sections = dict(part.partition("`\n")[::2] for part in GENERATED["docs/reference/events.md"].split("\n## `")[1:])

    assert set(FULL) == set(sections)
    for tag in FULL:
        fields = [name for name in schema(tag)["properties"] if name != "type"]
        assert fields == [line.split("`")[1] for line in sections[tag].splitlines() if line.startswith("| `")]


def test_limits_page_when_a_limit_is_added() -> None:
    """Every limit is on the page, in words."""
    names = [name for name in vars(limits) if name.isupper()]
    rows = [line for line in GENERATED["docs/reference/limits.md"].splitlines() if line.startswith("| `")]

    assert names == [row.split("`")[1] for row in rows]
    assert [] == [row for row in rows if row.endswith("|  |")]


MOVES = {
    (S, Q),
    (S, R),
    (Q, R),
    (R, S),
    (R, Q),
    (R, X),
    (R, C),
    (X, R),
    (X, S),
    (X, Q),
    *[(status, end) for status in (S, Q, R, X) for end in (F, A)],
}
"""From which status to which a run may go, as the run model says."""


def test_states_when_explored() -> None:
    """Trying every command in every status finds the moves of the run model and no other."""
    explored = GENERATOR.explore()

    assert MOVES == {(move.before, move.after) for move in explored.moves}
    assert [S, Q] == explored.starts


def test_states_when_a_run_is_finished() -> None:
    """No command leads out of a terminal status, and nothing but the bin is open to a run in one."""
    explored = GENERATOR.explore()

    open_commands = {
        command
        for (command, status), answers in explored.answers.items()
        if status in TERMINAL and answers != {"RunClosed"}
    }
    assert {"delete", "restore", "purge"} == open_commands


def test_states_when_a_command_is_added() -> None:
    """Every decision was tried in every status, and each changed a run, or a part of it, somewhere."""
    explored = GENERATOR.explore()

    commands = set(GENERATOR.decisions())
    assert {(command, status) for command in commands for status in Status} == set(explored.answers)
    assert commands == {
        command for (command, _), answers in explored.answers.items() if any(it.startswith("`") for it in answers)
    }


def test_states_notes_when_a_move_goes() -> None:
    """Every note on the diagram belongs to a move that was found."""
    found = {(move.before, move.command, move.after) for move in GENERATOR.explore().moves}

    assert set() == set(GENERATOR.MOVES_NOTES) - found
