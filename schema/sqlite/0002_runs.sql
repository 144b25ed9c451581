-- The `runs` read model: a fold of the log into rows. Everything in these tables can be thrown away and rebuilt.
--
-- What cannot be seen in the columns:
-- * A rebuild fills the next generation beside the live one, then changes the number in `projections`: readers go from
--   one whole to another whole, never through a half. Rows of other generations are leftovers.
-- * `position` in `projections` is the checkpoint: every event up to there is in the rows. Rows may know later ones.
-- * `run` and `state` are JSON, the same bytes for the same events: what lists show, and what folding on needs. `state`
--   comes last because it can be long, and lists do not read it.
-- * Times are text in the ledger's one format, which sorts as time; `created_at` is empty while it is not known.
-- * Every index of a list ends with `deleted_at`, so that counting and passing over deleted runs needs no row.

CREATE TABLE projections (
    name       TEXT    NOT NULL PRIMARY KEY,
    version    INTEGER NOT NULL,
    generation INTEGER NOT NULL CHECK (generation >= 1),
    position   INTEGER NOT NULL CHECK (position >= 0),
    building   INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE runs (
    generation        INTEGER NOT NULL,
    run_id            TEXT    NOT NULL,
    kind              TEXT    NOT NULL,
    project           TEXT,
    status            TEXT    NOT NULL,
    verdict           TEXT    NOT NULL,
    parent_run_id     TEXT,
    created_at        TEXT    NOT NULL,
    deleted_at        TEXT,
    version           INTEGER NOT NULL,
    position          INTEGER NOT NULL,
    first_recorded_at TEXT    NOT NULL,
    last_recorded_at  TEXT    NOT NULL,
    run               BLOB    NOT NULL,
    state             BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX runs_id ON runs (generation, run_id);

CREATE INDEX runs_newest ON runs (generation, created_at, run_id, deleted_at);

CREATE INDEX runs_project ON runs (generation, project, created_at, run_id, deleted_at);

CREATE INDEX runs_status ON runs (generation, status, created_at, run_id, deleted_at);

CREATE INDEX runs_project_status ON runs (generation, project, status, created_at, run_id, deleted_at);

CREATE INDEX runs_kind ON runs (generation, kind, created_at, run_id, deleted_at);

CREATE INDEX runs_parent ON runs (generation, parent_run_id, created_at, run_id, deleted_at)
WHERE parent_run_id IS NOT NULL;

CREATE INDEX runs_deleted ON runs (generation, created_at, run_id) WHERE deleted_at IS NOT NULL;

-- `created_at` again, so that one scan finds the newest runs with a label.
CREATE TABLE run_labels (
    generation INTEGER NOT NULL,
    name       TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    created_at TEXT    NOT NULL,
    run_id     TEXT    NOT NULL,
    PRIMARY KEY (generation, name, value, created_at, run_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX run_labels_run ON run_labels (generation, run_id);
