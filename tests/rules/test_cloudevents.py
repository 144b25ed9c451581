"""Events as CloudEvents 1.0."""

import re
from typing import Any

import msgspec
import pytest
from builders import FULL, recorded

from ledger.interop.cloudevents import cloud_event, source_of


@pytest.mark.parametrize("tag", FULL)
def test_cloud_event_when_made(tag: str) -> None:
    """Every event has the attributes that the standard asks for, in the forms that it asks for."""
    (event,) = recorded([FULL[tag]], after=6)

    cloud: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(cloud_event(event, project="web")))

    assert {"specversion", "id", "source", "type", "subject", "time", "data"} <= set(cloud)
    assert all(re.fullmatch("[a-z0-9]{1,20}", name) for name in cloud)
    assert ("1.0", event.event_id, "/ledger/web", event.run_id) == tuple(
        cloud[name] for name in ("specversion", "id", "source", "subject")
    )
    assert f"io.runfold.run.{event.type}.v{event.schema_version}" == cloud["type"]
    assert (f"{event.position:020d}", event.version) == (cloud["sequence"], cloud["runversion"])
    assert "type" not in cloud["data"]


def test_cloud_event_when_erased() -> None:
    """An event whose data was erased has none, and says nothing of its type."""
    event = msgspec.structs.replace(recorded([FULL["completed"]], after=6)[0], data=None)

    cloud = cloud_event(event, project=None)

    assert not {"data", "datacontenttype"} & set(cloud)
    assert "/ledger" == cloud["source"]


def test_source_when_the_project_is_no_path() -> None:
    """A project's name cannot leave its place in the URI."""
    assert "/ledger/a%2Fb%3Fc" == source_of("a/b?c")
