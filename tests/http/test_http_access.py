"""Who may do what: every operation against every identity, generated from the OpenAPI document."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from command_line import runfold
from http_server import Answer, Server, new_token, serving

from cli.http.limits import IDENTITY_FRESH_S
from cli.http.openapi import openapi
from cli.http.routes import OPERATIONS
from cli.http.tokens import Scope, is_wellformed

DOCUMENT = openapi(OPERATIONS)
MISSING_RUN = "01a1fd75-100e-7000-98e1-7a01c6c8d887"


class Described(NamedTuple):
    """One operation as the document says it."""

    name: str
    method: str
    path: str
    scope: str | None
    needs_every_project: bool
    body: dict[str, Any] | None
    takes_project: bool
    takes_projects: bool
    required: dict[str, Any]
    is_stream: bool

    @property
    def is_of_one(self) -> bool:
        """Whether it is about one run or one consumer, which may not be there."""
        return "{" in self.path


def described() -> Iterator[Described]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            names = [parameter["name"] for parameter in operation["parameters"]]
            content = operation.get("requestBody", {}).get("content", {})
            body = example(content["application/json"]["schema"]) if content else None
            yield Described(
                operation["operationId"],
                method.upper(),
                path,
                operation.get("x-scope"),
                operation.get("x-every-project", False),
                body,
                "project" in names or "project" in resolved(content.get("application/json", {}).get("schema", {})),
                "projects" in resolved(content.get("application/json", {}).get("schema", {})),
                {
                    parameter["name"]: example(parameter["schema"])
                    for parameter in operation["parameters"]
                    if parameter["in"] == "query" and parameter["required"]
                },
                "text/event-stream" in operation["responses"].get("200", {}).get("content", {}),
            )


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = schema.get("properties", {})
    return properties


def example(schema: dict[str, Any]) -> Any:
    """Make the least that a schema takes."""
    if "$ref" in schema:
        return example(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: example(schema["properties"][name]) for name in schema.get("required", ())}
    return {"array": [], "string": "x", "integer": 1, "number": 1.0, None: {}}[schema.get("type")]


OPERATIONS_DESCRIBED = list(described())
PROTECTED = [each for each in OPERATIONS_DESCRIBED if each.scope is not None]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("access")
    url = f"sqlite:///{folder / 'runs.db'}"
    if request.param == "postgres":
        database = request.getfixturevalue("postgres_server")
        url = database.create_database(template=request.getfixturevalue("postgres_template"))
    with serving(url, folder, "--auth", "--rate", "0") as running:
        yield running
    if request.param == "postgres":
        database.drop_database(url)


@pytest.fixture(scope="module")
def tokens(server: Server) -> dict[str, str]:
    """One token a kind of identity; each scope has one of every project, of `web`, and of another project."""
    folder, url = server.log.parent, server.ledger_url
    made = {"expired": new_token(url, folder, "--scope", "admin", "--expires", "1ms")}
    made["revoked"] = new_token(url, folder, "--scope", "admin", name="gone")
    listed = runfold("token", "list", "--url", url, folder=folder).rows
    gone = next(row[0] for row in listed if row[1] == "gone")
    assert 0 == runfold("token", "revoke", gone, "--url", url, folder=folder).code
    others: dict[str, list[str]] = {"web": ["--project", "web"], "api": ["--project", "api"], "every": []}
    for scope in Scope:
        for project, options in others.items():
            made[f"{scope} {project}"] = new_token(url, folder, "--scope", scope, *options)
        wrong = [option for other in Scope if other not in (scope, Scope.ADMIN) for option in ("--scope", other)]
        made[f"not {scope}"] = new_token(url, folder, *wrong)
    return made


def asked(server: Server, operation: Described, run_id: str, authorization: str) -> Answer:
    """Ask an operation as the document describes it, about project `web`."""
    path = operation.path.replace("{run_id}", run_id).replace("{shard}", "0").replace("{consumer}", f"c-{run_id}")
    body = operation.body
    if operation.takes_projects:
        body = {**(body or {}), "projects": ["web"]}
    if operation.takes_project and operation.method == "POST":
        body = {**(body or {}), "project": "web"}
    query = {**operation.required, **({"project": "web"} if operation.takes_project else {})}
    query.update({name: run_id or MISSING_RUN for name in ("newer", "prefix") if name in query})
    if operation.method == "GET" and query:
        path += "?" + urlencode(query)
    if operation.is_stream:
        stream = server.stream(path, Authorization=authorization)
        answer = Answer(stream.status, dict(stream.response.getheaders()), b"")
        if stream.status != 200:
            answer = answer._replace(content=stream.response.read(), headers={"content-type": "problem+json"})
        stream.close()
        return answer
    return server.ask(operation.method, path, body, Authorization=authorization)


def a_subject(server: Server, operation: Described) -> str:
    """Make what an operation is about: a run of project `web`, and a consumer of it that is named after the run."""
    run_id = server.enqueue(project="web")
    if "{consumer}" in operation.path:
        made = server.post("/v1/consumers", {"name": f"c-{run_id}", "projects": ["web"]})
        assert 200 == made.status, made
    return run_id


def test_find_when_the_run_is_of_another_project(server: Server, tokens: dict[str, str]) -> None:
    """A search by how an id begins finds the runs of the token's own project only."""
    mine, theirs = server.enqueue(project="web"), server.enqueue(project="api")

    found = [
        server.get(f"/v1/runs:find?prefix={run}", Authorization=f"Bearer {tokens['runs:read web']}").json["run_ids"]
        for run in (mine, theirs)
    ]

    assert [[mine], []] == found


STRANGERS = {
    "none": ("", "token-missing"),
    "garbage": ("Bearer garbage", "token-refused"),
    "another scheme": ("Basic dXNlcjpwYXNz", "token-refused"),
    "made up": ("Bearer {made_up}", "token-refused"),
    "expired": ("Bearer {expired}", "token-refused"),
    "revoked": ("Bearer {revoked}", "token-refused"),
}


def made_up(token: str) -> str:
    """Make a token that nobody made, whose checksum is right."""
    from cli.http.tokens import _checksum

    body = token[3:-6][::-1]
    return f"rf_{body}{_checksum(body)}"


@pytest.mark.parametrize("identity", STRANGERS)
@pytest.mark.parametrize("operation", PROTECTED, ids=lambda each: each.name)
def test_operation_when_nobody_known_asks(
    server: Server, tokens: dict[str, str], operation: Described, identity: str
) -> None:
    """Whoever has no token that works gets the same 401 everywhere, run or no run."""
    header, code = STRANGERS[identity]
    run_id = a_subject(server, operation) if operation.is_of_one else ""
    authorization = header.format(
        made_up=made_up(tokens["revoked"]), expired=tokens["expired"], revoked=tokens["revoked"]
    )

    answer = asked(server, operation, run_id, authorization)
    missing = asked(server, operation, MISSING_RUN, authorization)

    assert (401, code) == (answer.status, answer.json["code"])
    assert without_ids(answer) == without_ids(missing)


@pytest.mark.parametrize("operation", PROTECTED, ids=lambda each: each.name)
def test_operation_when_the_scope_is_wrong(server: Server, tokens: dict[str, str], operation: Described) -> None:
    """A token with every scope but the one that is needed is refused, and told which one it lacks."""
    run_id = a_subject(server, operation)

    answer = asked(server, operation, run_id, f"Bearer {tokens[f'not {operation.scope}']}")

    assert (403, "scope-missing", operation.scope) == (answer.status, answer.json["code"], answer.json["scope"])


@pytest.mark.parametrize("operation", PROTECTED, ids=lambda each: each.name)
def test_operation_when_the_project_is_wrong(server: Server, tokens: dict[str, str], operation: Described) -> None:
    """A run of another project is not there; what names another project, or needs them all, is refused."""
    run_id = a_subject(server, operation)
    authorization = f"Bearer {tokens[f'{operation.scope} api']}"

    answer = asked(server, operation, run_id, authorization)

    if operation.is_of_one:
        missing = asked(server, operation, MISSING_RUN, authorization)
        code = "consumer-not-found" if "{consumer}" in operation.path else "run-not-found"
        assert (404, code) == (answer.status, answer.json["code"])
        assert without_ids(answer) == without_ids(missing)
    else:
        assert (403, "project-refused") == (answer.status, answer.json["code"])


@pytest.mark.parametrize("operation", PROTECTED, ids=lambda each: each.name)
def test_operation_when_the_token_is_right(server: Server, tokens: dict[str, str], operation: Described) -> None:
    """The scope that the document names, bound to the run's project, is enough; nothing more is needed."""
    run_id = a_subject(server, operation)
    bound = "every" if operation.needs_every_project else "web"

    answer = asked(server, operation, run_id, f"Bearer {tokens[f'{operation.scope} {bound}']}")

    assert answer.status in (200, 201, 204, 409, 422), answer
    if operation.method == "GET":
        assert 200 == answer.status


def test_compare_when_one_run_is_foreign(server: Server, tokens: dict[str, str]) -> None:
    """A run of another project is not there to be compared with, either."""
    mine, foreign = server.enqueue(project="web"), server.enqueue(project="api")
    authorization = f"Bearer {tokens['runs:read web']}"

    own = server.get(f"/v1/runs/{mine}:compare?newer={mine}", Authorization=authorization)
    answers = [
        server.get(f"/v1/runs/{mine}:compare?newer={newer}", Authorization=authorization)
        for newer in (foreign, MISSING_RUN)
    ]

    assert 200 == own.status
    assert [(404, "run-not-found")] * 2 == [(answer.status, answer.json["code"]) for answer in answers]
    assert without_ids(answers[0]) == without_ids(answers[1])


@pytest.mark.parametrize("verb", ["succeed", "give-up", "hand-back"])
def test_lease_when_it_is_of_a_foreign_run(server: Server, tokens: dict[str, str], verb: str) -> None:
    """A lease is no secret, so it opens nothing: a token of one project settles no run of another through its own."""
    mine, foreign = server.enqueue(project="web"), server.enqueue(project="api", kind=f"foreign {verb}")
    (given,) = server.post("/v1/runs:claim", {"worker": "w1", "kinds": [f"foreign {verb}"]}).json["leases"]
    before = server.get(f"/v1/runs/{foreign}/events").json["events"]

    answer = server.post(
        f"/v1/runs/{mine}:{verb}",
        {"succeed": {}, "give-up": {"error": "x"}, "hand-back": {"reason": "x"}}[verb],
        Authorization=f"Bearer {tokens['runs:write web']}",
        Runfold_Lease=given["lease"],
    )

    assert (422, "invalid-input") == (answer.status, answer.json["code"])
    assert "of another run" in answer.json["detail"]
    assert before == server.get(f"/v1/runs/{foreign}/events").json["events"]


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS_DESCRIBED if each.scope is None], ids=lambda e: e.name
)
def test_operation_when_open(server: Server, operation: Described) -> None:
    """Health and the description are for everybody."""
    assert 200 == server.ask(operation.method, operation.path, Authorization="").status


def test_open_operations_when_one_is_added() -> None:
    """Nothing is open by accident."""
    assert {"healthz", "readyz", "openapi"} == {each.name for each in OPERATIONS_DESCRIBED if each.scope is None}


def without_ids(answer: Answer) -> str:
    """Give an answer without what names the run and the request."""
    text = re.sub(r'"request_id":"[^"]*"', "", answer.content.decode())
    return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "RUN", text)


# --- tokens -----------------------------------------------------------------------------------------------------


def test_token_when_rotated(server: Server) -> None:
    """The new token allows the same; the old one works until the overlap is over."""
    folder, url = server.log.parent, server.ledger_url
    old = new_token(url, folder, "--scope", "runs:read", "--project", "web", name="rotated")
    token_id = next(row[0] for row in runfold("token", "list", "--url", url, folder=folder).rows if row[1] == "rotated")

    kept = runfold("token", "rotate", token_id, "--overlap", "1h", "--url", url, folder=folder).rows[0][0]
    both = [server.get("/v1/runs", Authorization=f"Bearer {token}").status for token in (old, kept)]
    newest = runfold("token", "rotate", token_id, "--overlap", "0", "--url", url, folder=folder).rows[0][0]
    time.sleep(IDENTITY_FRESH_S)
    after = [server.get("/v1/runs", Authorization=f"Bearer {token}").status for token in (old, kept, newest)]

    assert [200, 200] == both
    assert [401, 200, 200] == after
    assert is_wellformed(newest)
    assert newest not in runfold("token", "list", "--json", "--url", url, folder=folder).out


def test_token_when_its_checksum_is_no_ascii(server: Server) -> None:
    """Whatever a stranger sends as a token is refused, not failed on."""
    kept = new_token(server.ledger_url, server.log.parent, "--scope", "runs:read")

    answer = server.get("/v1/runs", Authorization=f"Bearer {kept[:-6]}éééééé")

    assert 401 == answer.status
    assert "Traceback" not in server.log.read_text()


def test_token_when_it_writes(server: Server) -> None:
    """What is written carries the token's name, and nothing carries the token."""
    folder, url = server.log.parent, server.ledger_url
    token = new_token(url, folder, "--scope", "runs:write", "--scope", "runs:read", name="ci-bot")
    bearer = f"Bearer {token}"

    run_id = server.post("/v1/runs", {"kind": "test"}, Authorization=bearer).json["run_id"]
    server.post(f"/v1/runs/{run_id}/notes", {"note": "hi"}, Authorization=bearer, Runfold_Actor="ada")
    history = server.get(f"/v1/runs/{run_id}/events", Authorization=bearer).json["events"]

    assert ["ci-bot", "ada via ci-bot"] == [event["actor"] for event in history]
    assert token not in server.log.read_text()


# --- starting ---------------------------------------------------------------------------------------------------


def test_serve_when_others_could_reach_it(sqlite_url: str, tmp_path: Path) -> None:
    """A server that others can reach does not start without tokens, whatever it is told."""
    everywhere = runfold("serve", "--host", "0.0.0.0", "--port", "0", "--url", sqlite_url, folder=tmp_path)
    without = runfold("serve", "--host", "0.0.0.0", "--no-auth", "--port", "0", "--url", sqlite_url, folder=tmp_path)

    assert [2, 2] == [everywhere.code, without.code]
    assert "runfold token create" in everywhere.err
    assert "could do everything" in without.err


def test_serve_when_postgres_has_no_token(postgres_url: str, tmp_path: Path) -> None:
    """A shared database needs tokens on loopback too."""
    done = runfold("serve", "--port", "0", "--url", postgres_url, folder=tmp_path)

    assert 2 == done.code
    assert "none yet" in done.err


def test_serve_when_a_newcomer_tries_it(sqlite_url: str, tmp_path: Path) -> None:
    """On loopback with a SQLite ledger no token is needed, the server says so, and web pages are kept out."""
    with serving(sqlite_url, tmp_path) as server:
        assert server.process.stdout is not None
        assert "No token is asked for" in server.process.stdout.readline()
        assert 201 == server.post("/v1/runs", {"kind": "test"}).status
        assert 200 == server.get("/v1/runs", Origin="http://localhost:3000").status
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            refused = server.get("/v1/runs", **headers)
            assert (403, "origin-refused") == (refused.status, refused.json["code"])
