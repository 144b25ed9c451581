-- Nothing to do here: a file has no roles. PostgreSQL notes which ones write, read and erase.
SELECT 1;
