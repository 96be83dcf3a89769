-- Whether changes in the chunk were logged as the statements that made them, so that a plan need not read it to know. 0 as
-- well where nobody has looked: the chunk was shipped by a coffer without this column, or found in the repository.
ALTER TABLE chunks ADD COLUMN as_statements INTEGER NOT NULL DEFAULT 0;
CREATE INDEX chunks_as_statements ON chunks (timeline, ordinal, end_position) WHERE as_statements = 1;
