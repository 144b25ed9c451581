-- Who may use the HTTP API. A token's secret is not here: only its hash, which finds it and cannot be turned back.

CREATE TABLE access_tokens (
    token_id    TEXT NOT NULL PRIMARY KEY,
    name        TEXT NOT NULL,
    secret_hash TEXT NOT NULL UNIQUE,
    scopes      TEXT NOT NULL, -- separated by spaces
    projects    TEXT, -- a JSON list; NULL is every project
    created_at  TEXT NOT NULL,
    expires_at  TEXT,
    revoked_at  TEXT
) STRICT, WITHOUT ROWID;
