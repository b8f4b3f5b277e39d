-- Log lines of attempts, in order of arrival.

-- An attempt that has lines. Lines name it by a small number.
CREATE TABLE source (
    id INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    task BLOB NOT NULL,
    attempt INTEGER NOT NULL,
    UNIQUE (tenant, task, attempt)
) STRICT;

CREATE TABLE line (
    row INTEGER PRIMARY KEY,
    tenant INTEGER NOT NULL,
    source INTEGER NOT NULL,
    number INTEGER NOT NULL,    -- within the attempt
    at INTEGER NOT NULL,        -- milliseconds since 1970
    kind INTEGER NOT NULL,      -- stream * 16 + level
    text TEXT NOT NULL
) STRICT;

-- A line that is sent again is the same line.
CREATE UNIQUE INDEX line_number ON line (source, number);
-- Each index ends with the row: in these orders lines are shown.
CREATE INDEX line_source ON line (source);
CREATE INDEX line_tenant ON line (tenant);
CREATE INDEX line_severe ON line (tenant) WHERE kind % 16 >= 3;

-- The words of each line, and its tenant as the word `t<number>`, so that a search does not read what others wrote.
CREATE VIRTUAL TABLE line_text USING fts5(text, owner, content='', contentless_delete=1, tokenize='unicode61');
