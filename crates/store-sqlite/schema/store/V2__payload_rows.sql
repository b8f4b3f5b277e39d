-- A row of a table without row ids keeps about a quarter of a page in its place and spills the rest into a page of its own:
-- an input of 1 KB cost a whole page. Rows with an id of their own are packed up to a page, in the order of arrival.
CREATE TABLE payload_row (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    part INTEGER NOT NULL,  -- 1 input, 2 result, 3 ending
    bytes BLOB NOT NULL
) STRICT;

INSERT INTO payload_row (key, part, bytes) SELECT key, part, bytes FROM payload ORDER BY key, part;
DROP TABLE payload;
ALTER TABLE payload_row RENAME TO payload;
CREATE UNIQUE INDEX payload_part ON payload (key, part);
