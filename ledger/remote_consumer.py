"""A consumer behind `runfold serve`: the same calls as `ledger.consumer.Consumer`, over HTTP.

Differs from a consumer on a database: events come as CloudEvents, which have no commitment. A fetch whose answer is
lost is sent again; the batch that was lost with it comes when its loan is over.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from ledger import limits
from ledger.consumer import ConsumerStatus
from ledger.consumers import Batch, ConsumerSettings, Place
from ledger.conversion import converter
from ledger.filters import Filter
from ledger.interop.cloudevents import event_of_cloud
from ledger.run.values import JsonObject

_as_filter = converter(Filter)


class Sends(Protocol):
    """Sends a request, and gives what the server answers as JSON."""

    def __call__(self, method: str, path: str, *, body: JsonObject | None = None) -> Any: ...


class RemoteConsumer:
    """A consumer behind a server; made by `RemoteLedger.consumer`.

    Args:
        send: To the server.
        described: What the server told of it.
    """

    def __init__(self, send: Sends, described: JsonObject) -> None:
        self.settings = _settings(described)
        self._send = send
        self._path = f"/v1/consumers/{self.name}"

    @property
    def name(self) -> str:
        return self.settings.name

    def fetch(
        self, *, limit: int = limits.BATCH_EVENTS, lease_s: float = limits.LEASE_S, wait_s: float = 0.0
    ) -> Batch | None:
        """Take the next batch; see `Consumer.fetch`."""
        answer = self._send("POST", f"{self._path}:fetch", body={"limit": limit, "lease_s": lease_s, "wait_s": wait_s})
        given = answer["batch"]
        if given is None:
            return None
        return Batch(self.name, **given, events=tuple(event_of_cloud(event) for event in answer["events"]))

    def acknowledge(self, batch: Batch) -> bool:
        """Say that a batch is done; see `Consumer.acknowledge`."""
        moved: bool = self._send("POST", f"{self._path}:acknowledge", body=_named(batch))["moved"]
        return moved

    def extend(self, batch: Batch, *, lease_s: float = limits.LEASE_S) -> None:
        """Keep a batch for so long from now; see `Consumer.extend`."""
        self._send("POST", f"{self._path}:extend", body={**_named(batch), "lease_s": lease_s})

    def hand_back(self, batch: Batch) -> None:
        """Give a batch back undone; see `Consumer.hand_back`."""
        self._send("POST", f"{self._path}:hand-back", body=_named(batch))

    def reset(self, *, after: int | None = 0) -> None:
        """Go on after another position; see `Consumer.reset`."""
        self._send("POST", f"{self._path}:reset", body={"after": after or 0, "from_now": after is None})

    def remove(self) -> None:
        """Forget the consumer and its checkpoint; see `Consumer.remove`."""
        self._send("POST", f"{self._path}:remove", body={})

    def places(self) -> Sequence[Place]:
        """Tell where each partition stands."""
        return self.status().places

    def status(self) -> ConsumerStatus:
        """Tell how far it is behind the log."""
        given = self._send("GET", self._path)
        since = given["behind_since"]
        return ConsumerStatus(
            settings=_settings(given),
            position=given["position"],
            head=given["head"],
            events_behind_max=given["events_behind_max"],
            behind_since=None if since is None else datetime.fromisoformat(since),
            places=tuple(Place(**each) for each in given["places"]),
        )


def _named(batch: Batch) -> JsonObject:
    return {"partition": batch.partition, "token": batch.token, "up_to": batch.up_to}


def _settings(given: JsonObject) -> ConsumerSettings:
    return ConsumerSettings(
        name=given["name"],
        wanted=_as_filter({name: given[name] for name in ("types", "kind", "labels", "projects")}),
        partitions=given["partitions"],
        created_at=datetime.fromisoformat(given["created_at"]),
    )
