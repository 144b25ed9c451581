-- How many runs that are not in the bin each project, kind and status has, so that a count costs what there are of
-- those, not what there are of runs. Triggers keep it in step with `runs`, whoever writes there; whole statements at a
-- time, and writers of `runs` come one after the other.

CREATE TABLE runfold.run_counts (
    generation bigint NOT NULL,
    project    text   COLLATE "C",
    kind       text   COLLATE "C" NOT NULL,
    status     text   COLLATE "C" NOT NULL,
    count      bigint NOT NULL
) WITH (fillfactor = 50);

CREATE UNIQUE INDEX run_counts_key ON runfold.run_counts (generation, coalesce(project, ''), kind, status);

CREATE INDEX run_counts_project ON runfold.run_counts (generation, project, status);

CREATE FUNCTION runfold.count_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runfold.run_counts AS c (generation, project, kind, status, count)
    SELECT n.generation, n.project, n.kind, n.status, count(*)
    FROM added n
    WHERE n.deleted_at IS NULL
    GROUP BY n.generation, n.project, n.kind, n.status
    ORDER BY n.generation, n.project, n.kind, n.status
    ON CONFLICT (generation, coalesce(project, ''), kind, status) DO UPDATE SET count = c.count + excluded.count;
    RETURN NULL;
END
$$;

CREATE FUNCTION runfold.count_updated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runfold.run_counts AS c (generation, project, kind, status, count)
    SELECT m.generation, m.project, m.kind, m.status, sum(m.moved)
    FROM (
        SELECT generation, project, kind, status, 1 AS moved FROM added WHERE deleted_at IS NULL
        UNION ALL
        SELECT generation, project, kind, status, -1 FROM removed WHERE deleted_at IS NULL
    ) m
    GROUP BY m.generation, m.project, m.kind, m.status
    HAVING sum(m.moved) <> 0
    ORDER BY m.generation, m.project, m.kind, m.status
    ON CONFLICT (generation, coalesce(project, ''), kind, status) DO UPDATE SET count = c.count + excluded.count;
    RETURN NULL;
END
$$;

CREATE FUNCTION runfold.count_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE runfold.run_counts c
    SET count = c.count - o.gone
    FROM (
        SELECT generation, project, kind, status, count(*) AS gone
        FROM removed
        WHERE deleted_at IS NULL
        GROUP BY generation, project, kind, status
    ) o
    WHERE c.generation = o.generation
        AND coalesce(c.project, '') = coalesce(o.project, '')
        AND c.kind = o.kind
        AND c.status = o.status;
    DELETE FROM runfold.run_counts c WHERE c.count = 0 AND c.generation IN (SELECT r.generation FROM removed r);
    RETURN NULL;
END
$$;

CREATE FUNCTION runfold.count_truncated() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM runfold.run_counts;
    RETURN NULL;
END
$$;

CREATE TRIGGER runs_count_inserted AFTER INSERT ON runfold.runs
REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION runfold.count_inserted();

CREATE TRIGGER runs_count_updated AFTER UPDATE ON runfold.runs
REFERENCING NEW TABLE AS added OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION runfold.count_updated();

CREATE TRIGGER runs_count_deleted AFTER DELETE ON runfold.runs
REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION runfold.count_deleted();

CREATE TRIGGER runs_count_truncated AFTER TRUNCATE ON runfold.runs
FOR EACH STATEMENT EXECUTE FUNCTION runfold.count_truncated();

INSERT INTO runfold.run_counts (generation, project, kind, status, count)
SELECT generation, project, kind, status, count(*)
FROM runfold.runs
WHERE deleted_at IS NULL
GROUP BY generation, project, kind, status;
