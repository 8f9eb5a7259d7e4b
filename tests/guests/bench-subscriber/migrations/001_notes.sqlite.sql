CREATE TABLE notes (
  -- In the order they were written in.
  position INTEGER PRIMARY KEY,
  number BIGINT NOT NULL UNIQUE,
  text TEXT NOT NULL
);
