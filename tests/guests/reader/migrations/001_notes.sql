CREATE TABLE notes (
  number BIGINT PRIMARY KEY NOT NULL,
  key TEXT NOT NULL,
  body TEXT NOT NULL,
  event TEXT NOT NULL,
  attempt BIGINT NOT NULL,
  published_at BIGINT NOT NULL,
  seen TEXT NOT NULL
);

CREATE TABLE runs (
  number BIGINT PRIMARY KEY NOT NULL,
  said TEXT NOT NULL
);

-- One row that every further one clashes with.
CREATE TABLE taken (
  id TEXT PRIMARY KEY NOT NULL
);
INSERT INTO taken (id) VALUES ('taken');

CREATE TABLE filling (
  number BIGINT PRIMARY KEY NOT NULL,
  bytes BYTEA NOT NULL
);
