-- Log lines of attempts, in order of arrival.
CREATE TABLE line (
    row INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    task BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL,    -- within the attempt
    at INTEGER NOT NULL,        -- milliseconds since 1970
    stream INTEGER NOT NULL,
    level INTEGER NOT NULL,
    text TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX line_of_attempt ON line (tenant, task, attempt, number);

CREATE VIRTUAL TABLE line_text USING fts5(text, content='', contentless_delete=1, tokenize='unicode61');
