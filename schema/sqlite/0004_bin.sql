-- The recycle bin without what is purged: of a purged run `deleted_at` is empty, so that it is in no list but its own,
-- and purged runs, which only grow in number, cost the bin nothing.

DROP INDEX runs_deleted;

CREATE INDEX runs_bin ON runs (generation, created_at, run_id) WHERE deleted_at > '';

CREATE INDEX runs_purged ON runs (generation, created_at, run_id) WHERE deleted_at = '';
