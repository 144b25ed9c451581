"""Callbacks: one for each run that ends, signed, tried again, and kept apart from where they must not go."""

import ipaddress
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from webhook_receiver import Receiver, receiving

import ledger
from cli.outbox.deliveries import OutboxTable, new_callback, open_outbox_table
from cli.outbox.outbox import Delivering, Outbox, retry_delay_s
from cli.outbox.signing import is_authentic, new_secret, signed_headers
from ledger.clock import utc_now
from ledger.errors import InvalidInput, SecretInInput

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
HOW = Delivering(timeout_s=1.0, attempts_max=4, retry_delay_s=0.02, retry_delay_max_s=0.05, allowed=LOOPBACK)


@pytest.fixture
def log(shared_url: str) -> Iterator[ledger.Ledger]:
    with ledger.open(shared_url, migrate=True) as opened:
        yield opened


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture
def table(log: ledger.Ledger) -> OutboxTable:
    return open_outbox_table(log.store)


def work_until(outbox: Outbox, done: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Step until something holds."""
    give_up_at = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < give_up_at, "it did not come to that"
        time.sleep(min(0.02, outbox.step()))


def settled(table: OutboxTable, count: int = 1) -> Callable[[], bool]:
    return lambda: len(table.list(state=None, limit=100)) >= count and "pending" not in table.count()


def a_finished_run(log: ledger.Ledger, how: str = "completed", **facts: object) -> str:
    run = log.enqueue("test", worker="w1", **facts).id  # type: ignore[arg-type]
    log.append_results(run, [{"testId": "TC-1", "status": "passed"}, {"testId": "TC-2", "status": "failed"}])
    {
        "completed": lambda: log.complete(run),
        "failed": lambda: log.fail(run, error="boom", category="crash"),
        "aborted": lambda: log.abort(run, reason="enough"),
    }[how]()
    return run


@pytest.mark.parametrize("how", ["completed", "failed", "aborted"])
def test_callback_when_a_run_ends(log: ledger.Ledger, receiver: Receiver, table: OutboxTable, how: str) -> None:
    """Every terminal status calls back once, signed, with what the run came to."""
    run = a_finished_run(log, how, callback_url=receiver.url, project="web")
    outbox = Outbox(log, HOW)

    work_until(outbox, settled(table))
    outbox.step()
    outbox.close()

    [call] = receiver.calls
    told = Webhook(table.run_secret()).verify(call.body, call.headers)
    assert (run, how, 1, 1, "web") == (
        told["data"]["runId"],
        told["data"]["status"],
        told["data"]["passed"],
        told["data"]["failed"],
        told["data"]["project"],
    )
    assert told["id"] == call.webhook_id
    assert f"io.runfold.run.{how}.v1" == told["type"]
    assert {"delivered": 1} == table.count()


def test_callback_when_it_is_registered(log: ledger.Ledger, receiver: Receiver, table: OutboxTable) -> None:
    """A registered callback hears of the runs it asked for that end after it was made, and of no others."""
    a_finished_run(log, project="web")
    table.add_callback(new_callback(receiver.url, project="web", kind="test", now=utc_now()))
    table.add_callback(new_callback(receiver.url, project="web", kind="deploy", now=utc_now()))
    a_finished_run(log, project="api")
    wanted = a_finished_run(log, project="web")
    outbox = Outbox(log, HOW)

    work_until(outbox, settled(table))
    outbox.close()

    [call] = receiver.calls
    secret = table.callbacks()[0].secret
    assert wanted == Webhook(secret).verify(call.body, call.headers)["data"]["runId"]
    with pytest.raises(WebhookVerificationError):
        Webhook(table.callbacks()[1].secret).verify(call.body, call.headers)


WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
HELD_UP = """
CREATE FUNCTION held_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7);
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER held_up AFTER INSERT ON runfold.events
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (new.type = 'completed') EXECUTE FUNCTION held_up();
SELECT pg_advisory_lock(7);
"""


def test_callback_when_it_is_registered_between_commits(postgres_url: str, receiver: Receiver) -> None:
    """A run that ends after a callback was made is called back for, though its position is below that of an event which
    was there already."""
    with ledger.open(postgres_url) as log, ledger.open(postgres_url) as other:
        run = log.enqueue("test", worker="w1").id
        with psycopg.connect(postgres_url, autocommit=True) as blocker:
            blocker.execute(HELD_UP)
            ending = threading.Thread(target=log.complete, args=(run,))
            ending.start()
            wait_until(lambda: blocker.execute(WAITING).fetchone() == (1,))
            newer = other.enqueue("test").id
            table = open_outbox_table(other.store)
            table.add_callback(new_callback(receiver.url, project=None, kind=None, now=utc_now()))
            assert "running" == other.state(run).status
        ending.join()
        assert [*other.read(run)][-1].position < next(other.read(newer)).position
        outbox = Outbox(other, HOW)

        work_until(outbox, settled(table))
        outbox.close()

    assert [run] == [json.loads(call.body)["data"]["runId"] for call in receiver.calls]


def wait_until(holds: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    give_up_at = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come to that"
        time.sleep(0.01)


def test_callback_when_the_receiver_fails_at_first(log: ledger.Ledger, receiver: Receiver, table: OutboxTable) -> None:
    """A call that fails is made again with the same id, until it succeeds, and then no more."""
    receiver.answers = [500, -1, 302]
    receiver.location = receiver.url + "/elsewhere"
    a_finished_run(log, callback_url=receiver.url)
    outbox = Outbox(log, HOW)

    work_until(outbox, settled(table))
    outbox.close()

    assert 4 == len(receiver.calls)
    assert 1 == len({call.webhook_id for call in receiver.calls})
    [delivery] = table.list(state="delivered", limit=10)
    assert 4 == delivery.attempts


def test_callback_when_the_receiver_always_fails(log: ledger.Ledger, receiver: Receiver, table: OutboxTable) -> None:
    """After its last attempt a call has failed, and is made again when somebody asks for that."""
    receiver.answers = [503] * 4
    a_finished_run(log, callback_url=receiver.url)
    outbox = Outbox(log, HOW)
    work_until(outbox, settled(table))

    [failed] = table.list(state="failed", limit=10)
    assert 4 == failed.attempts == len(receiver.calls)
    assert failed.last_error is not None
    assert "503" in failed.last_error
    assert 0 == table.retry(event_id="0192f3a0-0000-7000-9000-000000000001", limit=10)
    assert 1 == table.retry(event_id=failed.event_id, limit=10)
    work_until(outbox, settled(table))
    outbox.close()

    assert {"delivered": 1} == table.count()


def test_callback_when_the_receiver_is_gone_for_good(
    log: ledger.Ledger, receiver: Receiver, table: OutboxTable
) -> None:
    """A receiver that says it is gone is not asked again."""
    receiver.answers = [410]
    a_finished_run(log, callback_url=receiver.url)
    outbox = Outbox(log, HOW)

    work_until(outbox, settled(table))
    outbox.close()

    assert ({"failed": 1}, 1) == (table.count(), len(receiver.calls))


def test_callback_when_the_receiver_hangs(log: ledger.Ledger, receiver: Receiver, table: OutboxTable) -> None:
    """A call that takes too long is cut off, and others do not wait for it."""
    with receiving() as slow:
        slow.delay_s = 30.0
        a_finished_run(log, callback_url=slow.url)
        a_finished_run(log, callback_url=receiver.url)
        outbox = Outbox(log, Delivering(timeout_s=0.5, attempts_max=1, allowed=LOOPBACK))
        began_at = time.monotonic()

        work_until(outbox, settled(table, 2))
        outbox.close()

        assert {"failed": 1, "delivered": 1} == table.count()
        assert time.monotonic() - began_at < 15


def test_callback_when_two_outboxes_work(log: ledger.Ledger, receiver: Receiver, table: OutboxTable) -> None:
    """Two at once make each call once."""
    runs = {a_finished_run(log, callback_url=receiver.url) for _ in range(30)}
    one, other = Outbox(log, HOW), Outbox(log, HOW)

    work_until(one, lambda: other.step() >= 0 and settled(table, 30)())
    one.close()
    other.close()

    assert sorted(runs) == sorted(json.loads(call.body)["data"]["runId"] for call in receiver.calls)


def test_callback_when_its_destination_is_not_public(
    log: ledger.Ledger, receiver: Receiver, table: OutboxTable
) -> None:
    """Without leave, nothing goes to the loopback; the failure says what to do."""
    a_finished_run(log, callback_url=receiver.url)
    outbox = Outbox(log, Delivering(retry_delay_s=0.01))

    work_until(outbox, settled(table))
    outbox.close()

    [failed] = table.list(state="failed", limit=10)
    assert ([], 1) == (receiver.calls, failed.attempts)
    assert "--allow-network" in (failed.last_error or "")


def test_callback_when_the_run_is_purged(log: ledger.Ledger, receiver: Receiver, table: OutboxTable) -> None:
    """What waits for a purged run is forgotten with its URL."""
    run = a_finished_run(log, callback_url=receiver.url)
    outbox = Outbox(log, HOW)
    outbox.plan()
    log.delete(run)
    log.purge(run)

    outbox.plan()
    outbox.close()

    assert {} == table.count()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://ci.example/",
        "https://",
        "https://ada:secret@ci.example/",
        "https://ci.example/a b",
        "https://ci.example:0/",
        "https://ci.example:99999/",
        "https://ci.exämple/",
        "/hook",
        "https://ci.example/" + "a" * 2_048,
    ],
)
def test_callback_url_when_it_is_none(log: ledger.Ledger, url: str) -> None:
    """What is no URL of a callback is refused before anything is written."""
    with pytest.raises(InvalidInput):
        log.enqueue("test", callback_url=url)

    assert 0 == log.store.read_log(after_position=0, limit=1).count


def test_callback_url_when_it_holds_a_secret(log: ledger.Ledger) -> None:
    """A credential in a URL is not written to the log."""
    with pytest.raises(SecretInInput):
        log.enqueue("test", callback_url="https://ci.example/?t=ghp_" + "a1B2" * 9)


def test_signature_when_anything_differs() -> None:
    """Our own check agrees with the standard's, and refuses another id, time, body or secret."""
    secret, at = new_secret(), int(time.time())
    headers = signed_headers(secret, message_id="e1", at=at, body=b"{}")

    Webhook(secret).verify(b"{}", headers)
    assert is_authentic(secret, headers=headers, body=b"{}", now=at)
    assert not is_authentic(secret, headers=headers, body=b"{ }", now=at)
    assert not is_authentic(secret, headers={**headers, "webhook-id": "e2"}, body=b"{}", now=at)
    assert not is_authentic(secret, headers=headers, body=b"{}", now=at + 301)
    assert not is_authentic(new_secret(), headers=headers, body=b"{}", now=at)
    assert is_authentic(
        secret,
        headers=Webhook(secret)
        and {
            "webhook-id": "e3",
            "webhook-timestamp": str(at),
            "webhook-signature": Webhook(secret).sign("e3", datetime.fromtimestamp(at, UTC), "{}"),
        },
        body=b"{}",
        now=at,
    )


def test_retry_delay_when_attempts_go_on() -> None:
    """Pauses triple up to their limit, and chance takes up to half."""
    how = Delivering(retry_delay_s=5, retry_delay_max_s=100)

    assert [5, 15, 45, 100] == [retry_delay_s(how, attempt, fraction=0) for attempt in (1, 2, 3, 4)]
    assert 2.5 == retry_delay_s(how, 1, fraction=1)
    assert timedelta(hours=6).total_seconds() == retry_delay_s(Delivering(), 100, fraction=0)
