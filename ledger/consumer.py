"""`Consumer`: a named reader of the log whose checkpoint the ledger keeps, and which many processes may share.

Each batch is given to one reader for a while. Acknowledged, it is never given again; otherwise it is, to whoever asks
next when the loan is over: **at least once**, in the order of the log for each run. A reader that comes back after its
loan cannot move the checkpoint any more.

Looking for a batch writes nothing: the place that was looked behind is then lent only if it is still as it was seen, so
readers that compete for it cost each other a read, never a wait.
"""

import random
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Final

import msgspec

from ledger import limits
from ledger.clock import monotonic
from ledger.consumers import Batch, ConsumerSettings, Place, partition_of
from ledger.errors import BatchLost, ConsumerNotFound, InvalidInput
from ledger.facts import RunsFacts
from ledger.filters import Filter
from ledger.run.codec import RecordedRunEvent, decode_page
from ledger.run.events import EVENT_TYPES, type_of
from ledger.run.values import check_integer, check_labels, check_lease_s, check_names, check_optional_text, check_text
from ledger.store import Store


class ConsumerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consumer has come.

    Attributes:
        position: The least checkpoint of its partitions.
        head: Position up to which the log is settled.
        events_behind_max: At most so many events are after the checkpoint, wanted or not; positions may have holes.
        behind_since: When the first event after it was recorded; None when there is none.
        places: Where each partition stands.
    """

    settings: ConsumerSettings
    position: int
    head: int
    events_behind_max: int
    behind_since: datetime | None
    places: tuple[Place, ...]

    @property
    def lent(self) -> int:
        """How many partitions' batches are with a reader now."""
        return sum(place.left_s is not None for place in self.places)


_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)


def new_settings(
    name: str,
    *,
    types: Sequence[str],
    kind: str | None,
    projects: Sequence[str] | None,
    labels: Mapping[str, str] | None,
    partitions: int,
    now: datetime,
) -> ConsumerSettings:
    """Decide what a new consumer is; see `Ledger.consumer`.

    Raises:
        InvalidInput: when its name or something else is none.
    """
    wanted = Filter(
        types=frozenset(check_types(types)),
        kind=check_optional_text(kind, field="kind", chars_max=limits.NAME_CHARS_MAX),
        labels=check_labels(labels or {}, field="labels"),
        projects=None if projects is None else frozenset(check_names(projects, field="projects")),
    )
    check_integer(partitions, field="partitions", at_least=1, at_most=limits.PARTITIONS_MAX)
    return ConsumerSettings(name=check_name(name), wanted=wanted, partitions=partitions, created_at=now)


def check_types(types: Sequence[str]) -> list[str]:
    """Check types of events: a consumer of one that is never written would wait for ever.

    Raises:
        InvalidInput: when one of them is none.
    """
    known = sorted(map(type_of, EVENT_TYPES))
    for name in (checked := check_names(types, field="types")):
        if name not in known:
            raise InvalidInput("types", f"has {name!r}, which is no type of event: {', '.join(known)} are.")
    return checked


def check_name(name: str) -> str:
    """Check a consumer's name, which stands in paths of URLs.

    Raises:
        InvalidInput: when it is none.
    """
    check_text(name, field="consumer", chars_max=limits.CONSUMER_NAME_CHARS_MAX)
    if not _NAME.fullmatch(name):
        raise InvalidInput("consumer", f"is {name!r}; letters, digits, `.`, `_` and `-`, not first, make a name.")
    return name


class Consumer:
    """A consumer on a database; made by `Ledger.consumer`. Safe to use from any thread.

    Args:
        store: The log.
        settings: As they are kept.
        facts: What events are filtered by.
    """

    def __init__(self, store: Store, settings: ConsumerSettings, *, facts: RunsFacts) -> None:
        self.settings = settings
        self._store = store
        self._facts = facts

    @property
    def name(self) -> str:
        return self.settings.name

    def fetch(
        self, *, limit: int = limits.BATCH_EVENTS, lease_s: float = limits.LEASE_S, wait_s: float = 0.0
    ) -> Batch | None:
        """Take the next batch.

        Args:
            limit: The most events; a batch may have fewer although more follow.
            lease_s: How long nobody else gets it.
            wait_s: How long to wait for one, up to 30 seconds.

        Returns:
            At least one event; None when nothing is wanted up to the log's end, or others have it all. To get there may
            take a while where much is not wanted: that is passed over on the way, and not looked at again.

        Raises:
            ConsumerNotFound: when it was removed.
        """
        search = self.search(limit=limit, lease_s=lease_s)
        give_up_at = monotonic() + check_wait(wait_s)
        batch = search.take()
        if batch is None and wait_s:
            with closing(self._store.listen()) as listener:
                while (batch := search.take()) is None and (left_s := give_up_at - monotonic()) > 0:
                    listener.wait(min(limits.POLL_INTERVAL_S, left_s))
        if batch is None:
            search.pass_over()
        return batch

    def search(self, *, limit: int = limits.BATCH_EVENTS, lease_s: float = limits.LEASE_S) -> "Search":
        """Begin to look for a batch, for callers that wait in their own way."""
        check_integer(limit, field="limit", at_least=1, at_most=limits.BATCH_EVENTS_MAX)
        return Search(self._store, self.settings, self._facts, limit=limit, lease_s=check_lease_s(lease_s))

    def acknowledge(self, batch: Batch) -> bool:
        """Say that a batch is done: the checkpoint moves behind it.

        Returns:
            False when it had been acknowledged before, by whomever; that is no mistake.

        Raises:
            BatchLost: when the loan was over and the batch is, or was, with another reader; or after a reset.
        """
        if self._store.consumers.acknowledge(batch):
            return True
        place = next((each for each in self.places() if each.partition == batch.partition), None)
        if place is None or place.position < batch.up_to:
            raise _lost(batch)
        return False

    def extend(self, batch: Batch, *, lease_s: float = limits.LEASE_S) -> None:
        """Keep a batch for so long from now.

        Raises:
            BatchLost: when it is not this reader's any more.
        """
        if not self._store.consumers.extend(batch, lease_s=check_lease_s(lease_s)):
            raise _lost(batch)

    def hand_back(self, batch: Batch) -> None:
        """Give a batch back undone: the next reader gets it at once.

        Raises:
            BatchLost: when it is not this reader's any more.
        """
        if not self._store.consumers.hand_back(batch):
            raise _lost(batch)

    def reset(self, *, after: int | None = 0) -> None:
        """Go on after another position. Batches that are out are lost to their readers.

        Args:
            after: 0 is the whole log again; None is only what comes from now on.

        Raises:
            ConsumerNotFound: when it was removed.
        """
        if not self._store.consumers.reset(self.name, position=start_after(self._store, after)):
            raise ConsumerNotFound(self.name)

    def remove(self) -> None:
        """Forget the consumer and its checkpoint.

        Raises:
            ConsumerNotFound: when it was removed before.
        """
        if not self._store.consumers.remove(self.name):
            raise ConsumerNotFound(self.name)

    def places(self) -> Sequence[Place]:
        """Tell where each partition stands.

        Raises:
            ConsumerNotFound: when it was removed.
        """
        return _places(self._store, self.name)

    def position(self) -> int:
        """Give the least checkpoint of its partitions; 0 when it was removed meanwhile."""
        return min((place.position for place in self._store.consumers.places(self.name)), default=0)

    def status(self) -> ConsumerStatus:
        """Tell how far it is behind the log.

        Raises:
            ConsumerNotFound: when it was removed.
        """
        places = self.places()
        position = min(place.position for place in places)
        page = self._store.read_log(after_position=position, limit=1)
        first = decode_page(page.events)
        return ConsumerStatus(
            settings=self.settings,
            position=position,
            head=page.settled_position,
            events_behind_max=max(0, page.settled_position - position) if first else 0,
            behind_since=first[0].recorded_at if first else None,
            places=tuple(places),
        )


class Search:
    """One look for a batch, which may go on for a while. It remembers what it has looked through.

    Made by `Consumer.search`; to be used from one thread at a time.

    Attributes:
        has_more: Whether more of the log follows what the last look went through.
    """

    def __init__(
        self, store: Store, settings: ConsumerSettings, facts: RunsFacts, *, limit: int, lease_s: float
    ) -> None:
        self._store = store
        self._settings = settings
        self._facts = facts
        self._limit = limit
        self._lease_s = lease_s
        self._looked: dict[Place, int] = {}
        self.has_more = False
        self._wants_all = settings.wanted == Filter() and settings.partitions == 1

    def take(self) -> Batch | None:
        """Take a batch if there is one now, however much has to be looked through for it.

        Raises:
            ConsumerNotFound: when the consumer was removed.
        """
        while (batch := self.look()) is None and self.has_more:
            self.pass_over()  # whoever is cut off from here on costs nobody the same look again
        return batch

    def look(self) -> Batch | None:
        """Take a batch if there is one in the next pages; without one, `has_more` tells whether to look on.

        Raises:
            ConsumerNotFound: when the consumer was removed.
        """
        self.has_more = False
        places = _places(self._store, self._settings.name)
        free = [place for place in places if place.left_s is None]
        random.shuffle(free)  # so that readers who come at once do not all try the same one
        self._looked = {place: self._looked.get(place, place.position) for place in free}
        for _ in range(limits.BATCH_PAGES_MAX if free else 0):
            batch, self.has_more = self._look_on()
            if batch is not None or not self.has_more:
                return batch
        return None

    def pass_over(self) -> None:
        """Keep how far was looked for nothing, so that nobody looks there again."""
        for place, position in self._looked.items():
            if position > place.position:
                self._store.consumers.pass_over(self._settings.name, place, up_to=position)

    def _look_on(self) -> tuple[Batch | None, bool]:
        """Look through one page behind all places at once, from the one that is the furthest behind."""
        size = self._limit if self._wants_all else limits.PAGE_EVENTS
        page = self._store.read_log(after_position=min(self._looked.values()), limit=size)
        parts = self._parts(decode_page(page.events)) if page.count else {}
        for place, looked in list(self._looked.items()):
            found = [event for event in parts.get(place.partition, ()) if event.position > looked]
            if found:
                cut = found[: self._limit]
                up_to = page.last_position if len(cut) == len(found) else cut[-1].position
                batch = self._lend(place, cut, up_to=up_to)
                if batch is not None:
                    return batch, False
                del self._looked[place]  # somebody was quicker
            else:
                self._looked[place] = max(looked, page.last_position)
        return None, page.more and bool(self._looked)

    def _parts(self, events: Sequence[RecordedRunEvent]) -> Mapping[int, Sequence[RecordedRunEvent]]:
        """Give those that are wanted, by partition."""
        if self._wants_all:
            return {0: events}
        parts: dict[int, list[RecordedRunEvent]] = {}
        for event in events:
            if self._wants(event):
                parts.setdefault(partition_of(event.run_id, self._settings.partitions), []).append(event)
        return parts

    def _wants(self, event: RecordedRunEvent) -> bool:
        wanted = self._settings.wanted
        if wanted.types and event.type not in wanted.types:
            return False  # before its facts, which may have to be read
        return wanted.wants(event.type, self._facts.of_event(event))

    def _lend(self, place: Place, events: Sequence[RecordedRunEvent], *, up_to: int) -> Batch | None:
        name = self._settings.name
        token = self._store.consumers.lend(name, place, up_to=up_to, lease_s=self._lease_s)
        if token is None:
            return None
        return Batch(name, place.partition, token, place.position, up_to, tuple(events))


def _places(store: Store, name: str) -> Sequence[Place]:
    places = store.consumers.places(name)
    if not places:
        raise ConsumerNotFound(name)
    return places


def _lost(batch: Batch) -> BatchLost:
    return BatchLost(consumer=batch.consumer, partition=batch.partition, token=batch.token)


def start_after(store: Store, after: int | None) -> int:
    """Give the position that a consumer begins after; None is where the log is settled now."""
    if after is None:
        return store.read_log(after_position=limits.INTEGER_MAX, limit=1).settled_position
    return check_integer(after, field="after", at_least=0)


def check_wait(wait_s: float) -> float:
    """Check how long somebody wants to wait for a batch.

    Raises:
        InvalidInput: when it is no such time.
    """
    if isinstance(wait_s, bool) or not isinstance(wait_s, int | float):
        raise InvalidInput("wait_s", f"is {type(wait_s).__name__}; a number of seconds is needed.")
    if not 0 <= wait_s <= limits.BATCH_WAIT_S_MAX:
        raise InvalidInput("wait_s", f"is {wait_s}; 0 to {limits.BATCH_WAIT_S_MAX:g} seconds are allowed.")
    return wait_s
