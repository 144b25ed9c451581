"""The contract holds for whoever has a duty and no more: here, PostgreSQL is used by users without other rights.

Everything is done by a member of the writer's role; what purges (marked `erases`), by a member of the eraser's as well;
what is marked `owns`, by the tables' owner, as in all other tests.
"""

import pytest
from postgres_server import Logins


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest, owner_url: str, logins: Logins) -> str:
    if request.node.get_closest_marker("owns"):
        return owner_url
    erases = request.node.get_closest_marker("erases") is not None
    return logins.url(owner_url, *(("writer", "eraser") if erases else ("writer",)))
