"""The server keeps what its OpenAPI document says, whatever is sent: no 5xx, no answer that is not described."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from http_server import Server, serving
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cli.http.openapi import openapi
from cli.http.routes import OPERATIONS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 300 if os.environ.get("RUNFOLD_CAMPAIGN") else 8
SCHEMA = schemathesis.openapi.from_dict(openapi(OPERATIONS))
MODES = [
    (operation.name, mode)
    for operation in OPERATIONS
    for mode in schemathesis.GenerationMode
    # of what takes nothing, nothing can be wrong
    if not operation.is_stream and (operation.scope is not None or mode is schemathesis.GenerationMode.POSITIVE)
]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("schema")
    url = f"sqlite:///{folder / 'runs.db'}"
    if request.param == "postgres":
        database = request.getfixturevalue("postgres_server")
        url = database.create_database(template=request.getfixturevalue("postgres_template"))
    with serving(url, folder, "--auth", "--rate", "0") as running:
        yield running
    if request.param == "postgres":
        database.drop_database(url)


@pytest.mark.parametrize(("name", "mode"), MODES, ids=[f"{name}-{mode.value}" for name, mode in MODES])
def test_operation_when_anything_is_sent(server: Server, name: str, mode: schemathesis.GenerationMode) -> None:
    """What fits the document, and what does not, gets an answer that the document describes."""
    operation = SCHEMA.find_operation_by_id(name)
    runs = [server.enqueue(project="web"), server.enqueue(shard_count=2)]
    server.post(f"/v1/runs/{runs[1]}:start", {"worker": "w1"})
    server.post("/v1/consumers", {"name": "c1", "partitions": 2})

    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        database=None,
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), run_id=st.sampled_from([None, *runs]))
    def send(case: Any, run_id: str | None) -> None:
        if run_id is not None and "run_id" in case.path_parameters:
            case.path_parameters["run_id"] = run_id
        if run_id is not None and "consumer" in case.path_parameters:
            case.path_parameters["consumer"] = "c1"
        if name == "fetch_consumer" and isinstance(case.body, dict):
            case.body.pop("wait_s", None)  # what is allowed there takes its time; what is not has tests of its own
        case.call_and_validate(
            base_url=server.url, headers={"Authorization": f"Bearer {server.token}"}, checks=CHECKS, timeout=20
        )

    send()

    assert Path(server.log).read_text().count("Traceback") == 0, server.log.read_text()
