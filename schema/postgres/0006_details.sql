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
-- * Text compares by bytes (COLLATE "C"), so that every list has the order it has on SQLite. Pages of headers are left
--   with room, so that a run that only moves on is changed in place (a heap-only update).

CREATE TABLE runfold.result_runs (
    generation bigint NOT NULL,
    run_id     text   COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    kind       text   COLLATE "C" NOT NULL,
    project    text   COLLATE "C",
    created_at text   COLLATE "C" NOT NULL,
    deleted_at text   COLLATE "C",
    row_count  bigint NOT NULL,
    state      bytea NOT NULL
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX result_runs_id ON runfold.result_runs (generation, run_id);

-- The newest runs of a project that have results: what tests are ranked over.
CREATE INDEX result_runs_project ON runfold.result_runs (generation, project, created_at, run_id, deleted_at);

CREATE TABLE runfold.results (
    generation    bigint NOT NULL,
    run_id        text   COLLATE "C" NOT NULL,
    number        bigint NOT NULL,
    part          bigint NOT NULL,
    kind          text   COLLATE "C" NOT NULL,
    project       text   COLLATE "C",
    created_at    text   COLLATE "C" NOT NULL,
    shard_attempt bigint NOT NULL,
    sequence      bigint,
    test          bytea,
    test_id       text   COLLATE "C",
    status        text   COLLATE "C" NOT NULL,
    outcome       text   COLLATE "C" NOT NULL,
    is_retried    bigint NOT NULL,
    duration_us   bigint,
    data          bytea NOT NULL
);

CREATE UNIQUE INDEX results_number ON runfold.results (generation, run_id, number);

-- The newest results of a test, of one project or of all.
CREATE INDEX results_test ON runfold.results (generation, test, created_at, run_id, number, project, kind)
WHERE test IS NOT NULL;

CREATE TABLE runfold.document_runs (
    generation bigint NOT NULL,
    run_id     text   COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    kind       text   COLLATE "C" NOT NULL,
    project    text   COLLATE "C",
    created_at text   COLLATE "C" NOT NULL,
    deleted_at text   COLLATE "C",
    row_count  bigint NOT NULL,
    state      bytea NOT NULL
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX document_runs_id ON runfold.document_runs (generation, run_id);

CREATE TABLE runfold.documents (
    generation bigint NOT NULL,
    run_id     text   COLLATE "C" NOT NULL,
    number     bigint NOT NULL,
    part       bigint NOT NULL,
    kind       text   COLLATE "C" NOT NULL,
    project    text   COLLATE "C",
    created_at text   COLLATE "C" NOT NULL,
    name       text   COLLATE "C" NOT NULL,
    is_empty   bigint NOT NULL,
    data       bytea NOT NULL
);

CREATE UNIQUE INDEX documents_number ON runfold.documents (generation, run_id, number);

-- The newest document of a name, of one project or of all.
CREATE INDEX documents_name ON runfold.documents (generation, name, created_at, run_id, project, kind, is_empty);

CREATE TABLE runfold.timing_runs (
    generation bigint NOT NULL,
    run_id     text   COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    kind       text   COLLATE "C" NOT NULL,
    project    text   COLLATE "C",
    created_at text   COLLATE "C" NOT NULL,
    deleted_at text   COLLATE "C",
    row_count  bigint NOT NULL,
    state      bytea NOT NULL
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX timing_runs_id ON runfold.timing_runs (generation, run_id);

CREATE TABLE runfold.timings (
    generation  bigint NOT NULL,
    run_id      text   COLLATE "C" NOT NULL,
    number      bigint NOT NULL,
    part        bigint NOT NULL,
    attempt     bigint NOT NULL,
    name        text   COLLATE "C",
    worker      text   COLLATE "C",
    queued_at   text   COLLATE "C",
    started_at  text   COLLATE "C",
    finished_at text   COLLATE "C"
);

CREATE UNIQUE INDEX timings_number ON runfold.timings (generation, run_id, number);
