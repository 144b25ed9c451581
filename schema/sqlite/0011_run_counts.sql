-- How many runs that are not in the bin each project, kind and status has, so that a count costs what there are of
-- those, not what there are of runs. Triggers keep it in step with `runs`, whoever writes there.

CREATE TABLE run_counts (
    generation INTEGER NOT NULL,
    project    TEXT,
    kind       TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    count      INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX run_counts_key ON run_counts (generation, coalesce(project, ''), kind, status);

CREATE INDEX run_counts_project ON run_counts (generation, project, status, count);

CREATE TRIGGER runs_count_inserted
AFTER INSERT ON runs
WHEN NEW.deleted_at IS NULL
BEGIN
    INSERT INTO run_counts (generation, project, kind, status, count)
    VALUES (NEW.generation, NEW.project, NEW.kind, NEW.status, 1)
    ON CONFLICT (generation, coalesce(project, ''), kind, status) DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER runs_count_updated
AFTER UPDATE OF generation, project, kind, status, deleted_at ON runs
WHEN (OLD.generation, OLD.project, OLD.kind, OLD.status, OLD.deleted_at IS NULL)
    IS NOT (NEW.generation, NEW.project, NEW.kind, NEW.status, NEW.deleted_at IS NULL)
BEGIN
    UPDATE run_counts
    SET count = count - 1
    WHERE generation = OLD.generation
        AND coalesce(project, '') = coalesce(OLD.project, '')
        AND kind = OLD.kind
        AND status = OLD.status
        AND OLD.deleted_at IS NULL;
    INSERT INTO run_counts (generation, project, kind, status, count)
    SELECT NEW.generation, NEW.project, NEW.kind, NEW.status, 1
    WHERE NEW.deleted_at IS NULL
    ON CONFLICT (generation, coalesce(project, ''), kind, status) DO UPDATE SET count = count + 1;
END;

CREATE TRIGGER runs_count_deleted
AFTER DELETE ON runs
WHEN OLD.deleted_at IS NULL
BEGIN
    UPDATE run_counts
    SET count = count - 1
    WHERE generation = OLD.generation
        AND coalesce(project, '') = coalesce(OLD.project, '')
        AND kind = OLD.kind
        AND status = OLD.status;
    DELETE FROM run_counts
    WHERE generation = OLD.generation
        AND coalesce(project, '') = coalesce(OLD.project, '')
        AND kind = OLD.kind
        AND status = OLD.status
        AND count = 0;
END;

INSERT INTO run_counts (generation, project, kind, status, count)
SELECT generation, project, kind, status, count(*)
FROM runs
WHERE deleted_at IS NULL
GROUP BY generation, project, kind, status;
