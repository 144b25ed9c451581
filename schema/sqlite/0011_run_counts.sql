-- How many runs that are not in the bin each project, kind and status has, so that a count costs what there are of
-- those, not what there are of runs. Whoever writes `runs` keeps it in step in the same transaction: SQLite has no
-- triggers for whole statements, and one for each row took 35 of the 51 us of a row that is added.

CREATE TABLE run_counts (
    generation INTEGER NOT NULL,
    project    TEXT,
    kind       TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    count      INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX run_counts_key ON run_counts (generation, coalesce(project, ''), kind, status);

CREATE INDEX run_counts_project ON run_counts (generation, project, status, count);

INSERT INTO run_counts (generation, project, kind, status, count)
SELECT generation, project, kind, status, count(*)
FROM runs
WHERE deleted_at IS NULL
GROUP BY generation, project, kind, status;
