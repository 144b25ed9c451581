"""Consumers in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ledger.clock import monotonic
from ledger.consumers import Batch, ConsumerSettings, Place, first_token

if TYPE_CHECKING:
    from ledger.stores.memory import MemoryStore

Kept = dict[str, tuple[ConsumerSettings, list[Place]]]
"""By name; a place's `left_s` is its deadline here, on the machine's own clock."""


class MemoryConsumers:
    """Consumers that live as long as the store."""

    def __init__(self, store: "MemoryStore", kept: Kept) -> None:
        self._store = store
        self._kept = kept

    def add(self, settings: ConsumerSettings, *, position: int) -> bool:
        with self._store.opened():
            if settings.name in self._kept:
                return False
            places = [
                Place(number, position, first_token(settings), None, None) for number in range(settings.partitions)
            ]
            self._kept[settings.name] = settings, places
            return True

    def find(self, name: str) -> ConsumerSettings | None:
        with self._store.opened():
            found = self._kept.get(name)
        return None if found is None else found[0]

    def list(self) -> Sequence[ConsumerSettings]:
        with self._store.opened():
            return [settings for _, (settings, _) in sorted(self._kept.items())]

    def remove(self, name: str) -> bool:
        with self._store.opened():
            return self._kept.pop(name, None) is not None

    def reset(self, name: str, *, position: int) -> bool:
        with self._store.opened():
            if name not in self._kept:
                return False
            places = self._kept[name][1]
            places[:] = [Place(each.partition, position, each.token + 1, None, None) for each in places]
            return True

    def places(self, name: str) -> Sequence[Place]:
        with self._store.opened():
            _, places = self._kept.get(name, (None, []))
            now = monotonic()
            return [each._replace(left_s=_left_s(each, now)) for each in places]

    def lend(self, name: str, place: Place, *, up_to: int, lease_s: float) -> int | None:
        token = place.token + 1
        lent = Place(place.partition, place.position, token, up_to, monotonic() + lease_s)
        return token if self._replace_as_seen(name, place, lent) else None

    def pass_over(self, name: str, place: Place, *, up_to: int) -> bool:
        return self._replace_as_seen(name, place, Place(place.partition, up_to, place.token + 1, None, None))

    def acknowledge(self, batch: Batch) -> bool:
        return self._replace_lent(batch, Place(batch.partition, batch.up_to, batch.token, None, None))

    def extend(self, batch: Batch, *, lease_s: float) -> bool:
        place = Place(batch.partition, batch.after, batch.token, batch.up_to, monotonic() + lease_s)
        return self._replace_lent(batch, place)

    def hand_back(self, batch: Batch) -> bool:
        return self._replace_lent(batch, Place(batch.partition, batch.after, batch.token + 1, None, None))

    def _replace_as_seen(self, name: str, seen: Place, new: Place) -> bool:
        with self._store.opened():
            _, places = self._kept.get(name, (None, []))
            if seen.partition >= len(places):
                return False
            place = places[seen.partition]
            if (place.token, place.position) != (seen.token, seen.position):
                return False
            if _left_s(place, monotonic()) is not None:
                return False
            places[seen.partition] = new
            return True

    def _replace_lent(self, batch: Batch, new: Place) -> bool:
        with self._store.opened():
            _, places = self._kept.get(batch.consumer, (None, []))
            if batch.partition >= len(places):
                return False
            place = places[batch.partition]
            if (place.token, place.lent_up_to) != (batch.token, batch.up_to):
                return False
            places[batch.partition] = new._replace(position=max(new.position, place.position))
            return True


def _left_s(place: Place, now: float) -> float | None:
    deadline = place.left_s
    return None if deadline is None or deadline <= now else deadline - now
