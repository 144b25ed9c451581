-- The read models with many rows a run: `results`, `documents` and `timings`. Like `runs`, all of it can be thrown away and
-- rebuilt from the log.
--
-- What cannot be seen in the columns:
-- * Each has a table of headers, one row a run, with the `state` (JSON) to fold on from, and one of details. An append
--   writes the header and the details that it brings; what is in `results` already is not read for it.
-- * `number` counts a run's rows in the order in which they appeared. `part` is a stretch of the run that is given up
--   together: of `results` the shard, -1 for none, -2 for tests that were left out before dispatch.
-- * What questions filter and sort by (kind, project, when the run was created) stands in the details too, so that one
--   scan of an index answers; whether a run is deleted only in its header, where it changes.
-- * `test` is the beginning of a hash of the test's id: ids may be longer than an index can hold.
-- * `data` comes last, because it can be long: questions that do not ask for it pass over it.

CREATE TABLE result_runs (
    generation INTEGER NOT NULL,
    run_id     TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    project    TEXT,
    created_at TEXT    NOT NULL,
    deleted_at TEXT,
    row_count  INTEGER NOT NULL,
    state      BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX result_runs_id ON result_runs (generation, run_id);

-- The newest runs of a project that have results: what tests are ranked over.
CREATE INDEX result_runs_project ON result_runs (generation, project, created_at, run_id, deleted_at);

CREATE TABLE results (
    generation    INTEGER NOT NULL,
    run_id        TEXT    NOT NULL,
    number        INTEGER NOT NULL,
    part          INTEGER NOT NULL,
    kind          TEXT    NOT NULL,
    project       TEXT,
    created_at    TEXT    NOT NULL,
    shard_attempt INTEGER NOT NULL,
    sequence      INTEGER,
    test          BLOB,
    test_id       TEXT,
    status        TEXT    NOT NULL,
    outcome       TEXT    NOT NULL,
    is_retried    INTEGER NOT NULL,
    duration_us   INTEGER,
    data          BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX results_number ON results (generation, run_id, number);

-- The newest results of a test, of one project or of all.
CREATE INDEX results_test ON results (generation, test, created_at, run_id, number, project, kind)
WHERE test IS NOT NULL;

CREATE TABLE document_runs (
    generation INTEGER NOT NULL,
    run_id     TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    project    TEXT,
    created_at TEXT    NOT NULL,
    deleted_at TEXT,
    row_count  INTEGER NOT NULL,
    state      BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX document_runs_id ON document_runs (generation, run_id);

CREATE TABLE documents (
    generation INTEGER NOT NULL,
    run_id     TEXT    NOT NULL,
    number     INTEGER NOT NULL,
    part       INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    project    TEXT,
    created_at TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    is_empty   INTEGER NOT NULL,
    data       BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX documents_number ON documents (generation, run_id, number);

-- The newest document of a name, of one project or of all.
CREATE INDEX documents_name ON documents (generation, name, created_at, run_id, project, kind, is_empty);

CREATE TABLE timing_runs (
    generation INTEGER NOT NULL,
    run_id     TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    kind       TEXT    NOT NULL,
    project    TEXT,
    created_at TEXT    NOT NULL,
    deleted_at TEXT,
    row_count  INTEGER NOT NULL,
    state      BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX timing_runs_id ON timing_runs (generation, run_id);

CREATE TABLE timings (
    generation  INTEGER NOT NULL,
    run_id      TEXT    NOT NULL,
    number      INTEGER NOT NULL,
    part        INTEGER NOT NULL,
    attempt     INTEGER NOT NULL,
    name        TEXT,
    worker      TEXT,
    queued_at   TEXT,
    started_at  TEXT,
    finished_at TEXT
) STRICT;

CREATE UNIQUE INDEX timings_number ON timings (generation, run_id, number);
