-- Who may use the HTTP API. A token's secret is not here: only its hash, which finds it and cannot be turned back.

CREATE TABLE runfold.access_tokens (
    token_id    text COLLATE "C" NOT NULL PRIMARY KEY,
    name        text COLLATE "C" NOT NULL,
    secret_hash text COLLATE "C" NOT NULL UNIQUE,
    scopes      text COLLATE "C" NOT NULL, -- separated by spaces
    projects    text COLLATE "C", -- a JSON list; NULL is every project
    created_at  text COLLATE "C" NOT NULL,
    expires_at  text COLLATE "C",
    revoked_at  text COLLATE "C"
);
