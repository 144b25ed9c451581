"""`NatsRelay`: carries the log into a JetStream stream, each event once and in order, whatever dies when.

It reads as a named consumer with one partition, so one relay at a time has a batch, and the checkpoint moves only after
the stream has acknowledged all of it. What may have come through although nobody knows is settled by the stream itself:

- Each message carries its position. A relay that connects, or that others relayed before, reads the stream's last
  message of its prefix and passes over what is there already, however long ago that was.
- Each message names the one before it (`Nats-Expected-Last-Msg-Id`), so that when one is refused or lost, none that was
  sent after it is taken: order survives although a batch is sent without waiting. Where the chain breaks (somebody else
  publishes into the stream, or another relay was quicker), the stream is looked at again and one message goes alone.
- `Nats-Msg-Id` is the event's id, so within the stream's duplicate window the server drops repetitions by itself.

A connection that is lost is never mended underneath: what was in flight on it would be overtaken by what follows.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError

from cli.relay.messages import MESSAGE_ID, POSITION, Message, message_of
from ledger import limits
from ledger.consumer import Consumer
from ledger.consumers import Batch
from ledger.errors import BatchLost, LedgerError
from ledger.facts import RunsFacts
from ledger.run.codec import RecordedRunEvent

EXPECTED_LAST: Final = "Nats-Expected-Last-Msg-Id"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
CHAIN_BROKEN: Final = 10_070
"""JetStream's code for a last message id other than the expected one."""
ACK_TIMEOUT_S: Final = 5.0
WAIT_S: Final = 1.0
"""How long one fetch waits; a stop is noticed as quickly."""
RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 15.0

logger = logging.getLogger("runfold.relay")


class StreamMissing(LedgerError):
    """The stream is not there, or does not take the subjects."""


class _Unreachable(Exception):
    """No server could be connected to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaying:
    """Where to, and how.

    Attributes:
        url: Of the NATS server, or of several, separated by commas.
        prefix: Of every subject; the ledger's alone within the stream.
        credentials: A NATS credentials file; None is what the URL says.
        creates_stream: Whether to make the stream when it is missing.
    """

    url: str
    stream: str
    prefix: str
    credentials: str | None = None
    creates_stream: bool = False
    batch_events: int = limits.BATCH_EVENTS
    lease_s: float = limits.LEASE_S


class NatsRelay:
    """Relays until it is stopped; belongs to one event loop.

    Args:
        consumer: What is relayed; with one partition.
        facts: Projects of runs, for the subjects.
        how: Where to.
    """

    def __init__(self, consumer: Consumer, *, facts: RunsFacts, how: Relaying) -> None:
        self._consumer = consumer
        self._facts = facts
        self._how = how
        self._stopping = asyncio.Event()
        self._relayed_up_to = -1
        self._last_position = 0
        self._last_id: str | None = None
        self._is_away = False

    def stop(self) -> None:
        """Make `run` return once the batch under way is done. To be called in the loop."""
        self._stopping.set()

    async def run(self) -> None:
        """Relay; connections that fail are made anew, with growing pauses.

        Raises:
            StreamMissing: at the first connection, when the stream is not as it must be.
        """
        pause_s, was_connected = RETRY_S, False
        while not self._stopping.is_set():
            try:
                async with self._connected() as (client, stream):
                    await self._require_stream(stream)
                    was_connected, pause_s = True, RETRY_S
                    await self._relay(client, stream)
            except StreamMissing as error:
                if not was_connected:
                    raise
                logger.warning("%s", error)
            except _Unreachable as error:
                self._tell_away(error)
            except (nats.errors.Error, LedgerError, OSError, TimeoutError) as error:
                logger.warning("the relay goes on in %.1f s after: %s", pause_s, error or type(error).__name__)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(RETRY_MAX_S, pause_s * 2)

    # --- the connection -----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Client, JetStreamContext]]:
        client = await self._connect()
        self._relayed_up_to = -1  # what this process knew may be old by now
        try:
            yield client, client.jetstream(timeout=ACK_TIMEOUT_S)
        finally:
            with suppress(nats.errors.Error, OSError):
                await client.close()

    async def _connect(self) -> Client:
        """Connect, each server tried twice: pausing, and saying so once, is done here and not in the client.

        Raises:
            _Unreachable: when none of them is reachable, with what the last one met.
        """
        troubles: list[Exception] = []

        async def note(error: Exception) -> None:
            if is_connected:
                logger.warning("the connection to NATS: %s", error or type(error).__name__)
            else:
                troubles[:] = [error]

        is_connected = False
        try:
            client = await nats.connect(
                self._how.url.split(","),
                name="runfold relay",
                allow_reconnect=False,
                connect_timeout=5,
                max_reconnect_attempts=1,
                reconnect_time_wait=RETRY_S,
                user_credentials=self._how.credentials,
                error_cb=note,
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            told = troubles[0] if troubles else error
            raise _Unreachable(str(told) or type(told).__name__) from error
        is_connected = True
        if self._is_away:
            self._is_away = False
            logger.warning("NATS is reachable again; the relay goes on")
        return client

    def _tell_away(self, error: Exception) -> None:
        """Say once that there is no broker, however often it is looked for."""
        told = logger.debug if self._is_away else logger.warning
        self._is_away = True
        servers = ", ".join(url.rpartition("@")[2] for url in self._how.url.split(","))
        told("NATS is not reachable at %s (%s): check the URL; the relay goes on trying", servers, error)

    async def _require_stream(self, stream: JetStreamContext) -> None:
        wanted = f"{self._how.prefix}.*.*"
        try:
            info = await stream.stream_info(self._how.stream)
        except NotFoundError:
            if not self._how.creates_stream:
                raise StreamMissing(
                    f"there is no stream {self._how.stream!r} on this server. Make one that takes {wanted!r}, or give"
                    " --create-stream."
                ) from None
            info = await stream.add_stream(name=self._how.stream, subjects=[f"{self._how.prefix}.>"])
        subjects = info.config.subjects or []
        if not any(covers(subject, wanted) for subject in subjects):
            raise StreamMissing(
                f"stream {self._how.stream!r} takes {', '.join(subjects) or 'nothing'}, and not {wanted!r}: its events"
                " would be lost. Add that to its subjects, or give another --subject-prefix."
            )

    # --- relaying -----------------------------------------------------------------------------------------------

    async def _relay(self, client: Client, stream: JetStreamContext) -> None:
        how = self._how
        while not self._stopping.is_set():
            batch = await asyncio.to_thread(
                self._consumer.fetch, limit=how.batch_events, lease_s=how.lease_s, wait_s=WAIT_S
            )
            if client.is_closed:
                raise nats.errors.ConnectionClosedError
            if batch is None:
                continue
            try:
                await self._publish(client, stream, batch)
                await asyncio.to_thread(self._consumer.acknowledge, batch)
            except BatchLost as error:
                logger.warning("%s", error)
            else:
                self._relayed_up_to = batch.up_to

    async def _publish(self, client: Client, stream: JetStreamContext, batch: Batch) -> None:
        """Publish what the stream does not have of a batch; returns when it has all of it."""
        if batch.after != self._relayed_up_to:
            await self._look(stream)
        messages = await asyncio.to_thread(self._messages, batch.events, client.max_payload)
        while left := [message for message in messages if message.position > self._last_position]:
            if not await self._publish_chained(stream, left):
                await self._look(stream)
                left = [message for message in left if message.position > self._last_position]
                await self._publish_alone(stream, left[:1])

    def _messages(self, events: Sequence[RecordedRunEvent], bytes_max: int) -> list[Message]:
        facts = self._facts.of_all(events)
        return [
            message_of(event, project=known.project, prefix=self._how.prefix, bytes_max=bytes_max)
            for event, known in zip(events, facts, strict=True)
        ]

    async def _look(self, stream: JetStreamContext) -> None:
        """Read what the stream has last of this ledger."""
        try:
            last = await stream.get_last_msg(self._how.stream, f"{self._how.prefix}.>")
        except NotFoundError:
            self._last_position, self._last_id = 0, None
            return
        headers = last.headers or {}
        self._last_position, self._last_id = int(headers.get(POSITION, 0)), headers.get(MESSAGE_ID)

    async def _publish_chained(self, stream: JetStreamContext, messages: Sequence[Message]) -> bool:
        """Publish without waiting for each, and then wait for all; False when the chain broke."""
        waiting: list[asyncio.Future[Any]] = []
        before = self._last_id
        for message in messages:
            expected = {} if before is None else {EXPECTED_LAST: before}
            headers = {**message.headers, **expected, EXPECTED_STREAM: self._how.stream}
            waiting.append(await stream.publish_async(message.subject, message.body, headers=headers))
            before = message.headers[MESSAGE_ID]
        async with asyncio.timeout(ACK_TIMEOUT_S):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
        for message, answer in zip(messages, answers, strict=True):
            if isinstance(answer, APIError) and answer.err_code == CHAIN_BROKEN:
                return False
            if isinstance(answer, BaseException):
                raise answer
            self._last_position, self._last_id = message.position, message.headers[MESSAGE_ID]
        return True

    async def _publish_alone(self, stream: JetStreamContext, messages: Sequence[Message]) -> None:
        """Publish the first of what is left behind whatever the stream has last."""
        for message in messages:
            await stream.publish(message.subject, message.body, stream=self._how.stream, headers=dict(message.headers))
            self._last_position, self._last_id = message.position, message.headers[MESSAGE_ID]


def covers(pattern: str, wanted: str) -> bool:
    """Tell whether a stream's subject takes everything that another pattern, without `>`, takes."""
    have, need = pattern.split("."), wanted.split(".")
    for index, token in enumerate(have):
        if token == ">":
            return index < len(need)
        if index >= len(need) or token not in ("*", need[index]):
            return False
    return len(have) == len(need)
