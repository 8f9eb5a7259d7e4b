CREATE TABLE notes (
  -- In the order they were written in.
  position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  number BIGINT NOT NULL UNIQUE,
  text TEXT NOT NULL
);
