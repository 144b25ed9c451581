"""A command whose connection is lost during its commit finds out what became of its write."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from command_line import runfold

import ledger


class LossyLine:
    """A line to the server that breaks once: before the first message that holds some bytes is passed on, or after.

    Args:
        url: The server's database.
        breaks_on: The bytes.
        is_passed_on: Whether the server gets that message; its answer is lost either way.
    """

    def __init__(self, url: str, *, breaks_on: bytes, is_passed_on: bool) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._server = (parts.hostname, parts.port)
        self._breaks_on = breaks_on
        self._is_passed_on = is_passed_on
        self.breaks_left = 1
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                threading.Thread(target=self._send, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _send(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while message := client.recv(1 << 20):
                if self.breaks_left and self._breaks_on in message:
                    self.breaks_left -= 1
                    client.shutdown(socket.SHUT_WR)  # no answer goes back any more
                    if self._is_passed_on:
                        server.sendall(message)
                    break
                server.sendall(message)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)  # the server finishes what it has, then ends

    @staticmethod
    def _answer(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while answer := server.recv(1 << 20):
                client.sendall(answer)
        with suppress(OSError):
            client.close()
            server.close()


@pytest.fixture(params=[True, False], ids=["committed", "not committed"])
def is_passed_on(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def lines() -> Iterator[list[LossyLine]]:
    made: list[LossyLine] = []
    yield made
    for line in made:
        line.close()


def test_abort_when_the_connection_is_lost(
    is_passed_on: bool, postgres_url: str, lines: list[LossyLine], tmp_path: Path
) -> None:
    """An abort whose answer was lost is found, one that never arrived is made; either way once, and told as done."""
    with ledger.open(postgres_url) as log:
        run_id = log.enqueue("test").id
        lines.append(LossyLine(postgres_url, breaks_on=b"this very reason", is_passed_on=is_passed_on))

        done = runfold("abort", run_id, "--reason", "this very reason", "--url", lines[0].url, folder=tmp_path)

        assert (0, 0) == (done.code, lines[0].breaks_left), done.err
        assert "the connection was lost during the commit" in done.err
        assert ["enqueued", "aborted"] == [event.type for event in log.read(run_id)]
        [[shown, version, event_id, result]] = done.rows
        last = list(log.read(run_id))[-1]
        assert (run_id, "2", last.event_id, "aborted") == (shown, version, event_id, result)


def test_enqueue_when_the_connection_is_lost(
    is_passed_on: bool, postgres_url: str, lines: list[LossyLine], tmp_path: Path
) -> None:
    """A run whose answer was lost is found, one that never arrived is made; there is one, under its key."""
    lines.append(LossyLine(postgres_url, breaks_on=b"COMMIT", is_passed_on=is_passed_on))
    arguments = ["enqueue", "test", "--idempotency-key", "k", "--project", "web"]

    done = runfold(*arguments, "--url", lines[0].url, folder=tmp_path)
    again = runfold(*arguments, "--url", postgres_url, folder=tmp_path)

    with ledger.open(postgres_url) as log:
        (event,) = log.read_all()
    assert (0, 0) == (done.code, lines[0].breaks_left), done.err
    assert "the connection was lost during the commit" in done.err
    assert [[event.run_id, "1", event.event_id, "enqueued"]] == done.rows
    assert [[event.run_id, "1", event.event_id, "existing"]] == again.rows


def test_enqueue_when_somebody_took_the_key_meanwhile(
    postgres_url: str, lines: list[LossyLine], tmp_path: Path
) -> None:
    """A write that was lost and then overtaken is refused, in the words in which it would have been refused at once."""
    with ledger.open(postgres_url) as log:
        line = LossyLine(postgres_url, breaks_on=b"COMMIT", is_passed_on=False)
        lines.append(line)
        overtaken = threading.Thread(target=_enqueue_once_broken, args=(line, log))
        overtaken.start()
        done = runfold("enqueue", "test", "--exclusive-key", "x", "--url", line.url, folder=tmp_path)
        overtaken.join(30)

        assert 1 == len(list(log.read_all()))
        assert done.code in (0, 5), done.err  # whoever is first has the key; the other one is told
        assert (done.code == 5) is ("exclusive key 'x' is held by the active run" in done.err)


def _enqueue_once_broken(line: LossyLine, log: ledger.Ledger) -> None:
    while line.breaks_left:
        time.sleep(0.002)
    with suppress(ledger.ExclusiveKeyTaken):
        log.enqueue("test", exclusive_key="x")


@pytest.mark.parametrize("command", ["delete", "purge"])
def test_bin_command_when_the_connection_is_lost(
    command: str, is_passed_on: bool, postgres_url: str, lines: list[LossyLine], tmp_path: Path
) -> None:
    """A run whose deletion or purge was lost on the way is deleted or purged in the end, once, and wholly."""
    with ledger.open(postgres_url) as log:
        run_id = log.enqueue("test").id
        log.abort(run_id)
        if command == "purge":
            log.delete(run_id)
        lines.append(LossyLine(postgres_url, breaks_on=b"this very reason", is_passed_on=is_passed_on))

        done = runfold(
            *(command, run_id, "--reason", "this very reason", "--url", lines[0].url),
            *(["--yes"] if command == "purge" else []),
            folder=tmp_path,
        )

        assert (0, 0) == (done.code, lines[0].breaks_left), done.err
        assert "the connection was lost during the commit" in done.err
        *past, last = log.read(run_id)
        assert ({"delete": "deleted", "purge": "purged"}[command], [run_id, str(last.version), last.event_id]) == (
            last.type,
            done.rows[0][:3],
        )
        assert command == "delete" or {None} == {event.data for event in past}
