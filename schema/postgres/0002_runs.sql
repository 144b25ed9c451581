-- The `runs` read model: a fold of the log into rows. Everything in these tables can be thrown away and rebuilt.
--
-- What cannot be seen in the columns:
-- * A rebuild fills the next generation beside the live one, then changes the number in `projections`: readers go from
--   one whole to another whole, never through a half. Rows of other generations are leftovers.
-- * `position` in `projections` is the checkpoint: every event up to there is in the rows. Rows may know later ones.
-- * `run` and `state` are JSON, the same bytes for the same events: what lists show, and what folding on needs. `state`
--   comes last because it can be long, and lists do not read it.
-- * Times are text in the ledger's one format, which sorts as time; `created_at` is empty while it is not known. Text
--   compares by bytes (COLLATE "C"), so that every list has the order it has on SQLite.
-- * Every index of a list ends with `deleted_at`, so that counting and passing over deleted runs needs no row.
-- * Pages are left with room, so that a run that only moves its figures is changed in place (a heap-only update).

CREATE TABLE runfold.projections (
    name       text   COLLATE "C" NOT NULL PRIMARY KEY,
    version    bigint NOT NULL,
    generation bigint NOT NULL CHECK (generation >= 1),
    position   bigint NOT NULL CHECK (position >= 0),
    building   bigint
) WITH (fillfactor = 50);

CREATE TABLE runfold.runs (
    generation        bigint NOT NULL,
    run_id            text   COLLATE "C" NOT NULL,
    kind              text   COLLATE "C" NOT NULL,
    project           text   COLLATE "C",
    status            text   COLLATE "C" NOT NULL,
    verdict           text   COLLATE "C" NOT NULL,
    parent_run_id     text   COLLATE "C",
    created_at        text   COLLATE "C" NOT NULL,
    deleted_at        text   COLLATE "C",
    version           bigint NOT NULL,
    position          bigint NOT NULL,
    first_recorded_at text   COLLATE "C" NOT NULL,
    last_recorded_at  text   COLLATE "C" NOT NULL,
    run               bytea  NOT NULL,
    state             bytea  NOT NULL
) WITH (fillfactor = 80);

CREATE UNIQUE INDEX runs_id ON runfold.runs (generation, run_id);

CREATE INDEX runs_newest ON runfold.runs (generation, created_at, run_id, deleted_at);

CREATE INDEX runs_project ON runfold.runs (generation, project, created_at, run_id, deleted_at);

CREATE INDEX runs_status ON runfold.runs (generation, status, created_at, run_id, deleted_at);

CREATE INDEX runs_project_status ON runfold.runs (generation, project, status, created_at, run_id, deleted_at);

CREATE INDEX runs_kind ON runfold.runs (generation, kind, created_at, run_id, deleted_at);

CREATE INDEX runs_parent ON runfold.runs (generation, parent_run_id, created_at, run_id, deleted_at)
WHERE parent_run_id IS NOT NULL;

CREATE INDEX runs_deleted ON runfold.runs (generation, created_at, run_id) WHERE deleted_at IS NOT NULL;

-- `created_at` again, so that one scan finds the newest runs with a label.
CREATE TABLE runfold.run_labels (
    generation bigint NOT NULL,
    name       text   COLLATE "C" NOT NULL,
    value      text   COLLATE "C" NOT NULL,
    created_at text   COLLATE "C" NOT NULL,
    run_id     text   COLLATE "C" NOT NULL,
    PRIMARY KEY (generation, name, value, created_at, run_id)
);

CREATE INDEX run_labels_run ON runfold.run_labels (generation, run_id);
