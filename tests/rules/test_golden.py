"""Stored bytes stay what they are, and stay readable."""

import sys
from pathlib import Path

import msgspec
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from builders import BARE, FULL, NOON, RUN
from golden_files import FOLDER, SALT, golden_bytes

from ledger.envelope import commitment, decode_envelope
from ledger.errors import InvariantBroken
from ledger.events import RecordedEvent, join_page
from ledger.run import codec
from ledger.run.codec import RecordedRunEvent, decode, decode_page, encode
from ledger.run.events import EVENT_TYPES, RunEvent, ShardResultAppended, Started, schema_version_of, type_of
from ledger.run.state import fold, initial
from projections.decoding import event_reader, read_events
from projections.runs import RUNS

TAGS = [str(event.__struct_config__.tag) for event in EVENT_TYPES]


def golden_events(tag: str) -> list[RecordedRunEvent]:
    full_envelope, full_payload, bare_envelope, bare_payload = (FOLDER / f"{tag}.jsonl").read_bytes().splitlines()
    return decode_page(join_page([(10, 1, full_envelope, full_payload), (11, 2, bare_envelope, bare_payload)]))


@pytest.mark.parametrize("tag", TAGS)
def test_golden_bytes_when_written_today(tag: str) -> None:
    """Today's code writes an event as it was written first."""
    assert (FOLDER / f"{tag}.jsonl").read_bytes() == golden_bytes(tag)


@pytest.mark.parametrize("tag", TAGS)
def test_golden_bytes_when_read_today(tag: str) -> None:
    """Today's code reads first-written bytes as the event they were made from."""
    full, bare = golden_events(tag)

    assert (FULL[tag], BARE[tag]) == (full.data, bare.data)
    assert (tag.partition(".")[0], NOON, "ci@web") == (full.type, full.recorded_at, full.actor)
    assert ("request-7", None) == (full.correlation_id, bare.correlation_id)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_golden_file_when_its_type_was_replaced(path: Path) -> None:
    """Every golden file is read as an event of the present, those of replaced schema versions too."""
    for event in golden_events(path.stem):
        assert isinstance(event.data, EVENT_TYPES)
        assert event.type == type_of(event.data)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_golden_file_when_a_projection_reads_it(path: Path) -> None:
    """The folds of projections, which read less of an event, come to the same run from every golden file."""
    full_envelope, full_payload, bare_envelope, bare_payload = path.read_bytes().splitlines()
    page = join_page([(10, 1, full_envelope, full_payload), (11, 2, bare_envelope, bare_payload)])

    row = RUNS.fold(None, read_events(page))

    assert fold(initial(RUN), golden_events(path.stem)) == row.state


@pytest.mark.parametrize("tag", TAGS)
def test_golden_commitment_when_checked(tag: str) -> None:
    """The envelope commits to the payload that stands beside it."""
    envelope, payload, *_ = (FOLDER / f"{tag}.jsonl").read_bytes().splitlines()

    assert commitment(SALT, payload) == decode_envelope(envelope).commitment


def test_golden_files_when_an_event_is_added() -> None:
    """Every event type has golden bytes with each of its fields set."""
    assert set(TAGS) == set(FULL) == set(BARE)
    assert set(TAGS) <= {path.stem for path in FOLDER.glob("*.jsonl")}
    for tag, event in FULL.items():
        unset = [field.name for field in msgspec.structs.fields(event) if getattr(event, field.name) == field.default]
        assert (tag, []) == (tag, unset)


def test_payload_when_it_holds_an_unknown_field() -> None:
    """A field that a newer release added does not stop an older reader."""
    payload = b'{"attempt":1,"colour":"red","started_at":"2026-03-01T12:00:00Z","type":"started","worker":"w1"}'

    assert Started(attempt=1, started_at=NOON, worker="w1") == decode(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type":"teleported"}',
        b'{"type":"started","attempt":"one","started_at":"2026-03-01T12:00:00Z","worker":"w1"}',
        b'{"type":"started"}',
        b'{"type":"started",',
        b"\xff",
    ],
)
def test_payload_when_it_cannot_be_read(payload: bytes) -> None:
    """A payload that this release cannot read is named as that, with what to do."""
    with pytest.raises(InvariantBroken, match="upgrade this one"):
        decode(payload)


def test_page_when_a_payload_was_erased() -> None:
    """An event whose payload was erased keeps its envelope."""
    envelope = (FOLDER / "annotated.jsonl").read_bytes().splitlines()[0]

    [event] = decode_page(join_page([(10, 1, envelope, None)]))

    assert ("annotated", None, 10, 1) == (event.type, event.data, event.position, event.version)


# --- upcasting --------------------------------------------------------------------------------------------------


class StartedOne(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="began"):
    host: str


class StartedTwo(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="began.2"):
    host: str
    process: int


class Began(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="began.3"):
    worker: str


def upcast_one(old: StartedOne) -> StartedTwo:
    return StartedTwo(host=old.host, process=0)


def upcast_two(old: StartedTwo) -> Began:
    return Began(worker=f"{old.host}/{old.process}")


@pytest.mark.parametrize(
    ("payload", "worker"),
    [
        (b'{"host":"h","type":"began"}', "h/0"),
        (b'{"host":"h","process":7,"type":"began.2"}', "h/7"),
        (b'{"type":"began.3","worker":"w1"}', "w1"),
    ],
)
def test_page_when_a_payload_has_an_old_schema_version(payload: bytes, worker: str) -> None:
    """A page gives events of the present only, whatever schema version its payloads were written in."""
    read_page = codec.page_reader((Began,), {StartedOne: upcast_one, StartedTwo: upcast_two})
    envelope = (FOLDER / "started.jsonl").read_bytes().splitlines()[0]

    [joined] = join_page([(10, 1, envelope, payload)])
    [event] = read_page(joined)

    assert (Began(worker=worker), 10, 1, "started") == (event.data, event.position, event.version, event.type)


class StartedBefore(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="started.0"):
    host: str


class ResultsBefore(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="shard_result_appended.0"):
    outcomes: list[str]


BEFORE: codec.Upcasters = {
    StartedBefore: lambda old: Started(attempt=1, started_at=NOON, worker=old.host),
    ResultsBefore: lambda old: ShardResultAppended(results=[{"status": status} for status in old.outcomes]),
}


def test_fold_when_payloads_have_an_old_schema_version() -> None:
    """The ledger and the projections fold old payloads alike, and both as if they were of the present."""
    envelope = (FOLDER / "started.jsonl").read_bytes().splitlines()[0]
    payloads = [
        encode(FULL["enqueued"]),
        b'{"host":"w1","type":"started.0"}',
        b'{"outcomes":["passed","failed"],"type":"shard_result_appended.0"}',
        encode(ShardResultAppended(results=[{"status": "passed"}])),
    ]
    page = join_page([(number, number, envelope, payload) for number, payload in enumerate(payloads, 1)])

    by_ledger = fold(initial(RUN), codec.page_reader(EVENT_TYPES, BEFORE)(page[0]))
    by_projections = RUNS.fold(None, event_reader(BEFORE)(page)).state

    assert by_ledger == by_projections
    assert ("w1", 2, 1) == (by_ledger.worker, by_ledger.passed, by_ledger.failed)


def test_schema_versions_when_tagged() -> None:
    """A tag is the type, and from the second schema version on its number."""
    assert [("began", 1), ("began", 2), ("began", 3)] == [
        (type_of(event), schema_version_of(event))  # type: ignore[arg-type, type-var]
        for event in (StartedOne, StartedTwo, Began)
    ]


def test_upcasters_when_registered() -> None:
    """Every replaced struct has golden bytes and leads to an event of the present."""
    for old in codec.UPCASTERS:
        tag = str(old.__struct_config__.tag)  # type: ignore[attr-defined]
        assert (FOLDER / f"{tag}.jsonl").exists()
        assert type_of(old) in {type_of(event) for event in EVENT_TYPES}  # type: ignore[arg-type]


def test_recorded_event_when_typed() -> None:
    """The struct that pages decode to is the public one."""
    events: list[RecordedEvent[RunEvent]] = golden_events("started")

    assert {RecordedEvent} == {type(event) for event in events}
