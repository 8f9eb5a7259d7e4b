CREATE TABLE amounts (
  id TEXT PRIMARY KEY NOT NULL,
  cents BIGINT NOT NULL
);

CREATE TABLE latest (
  name TEXT PRIMARY KEY NOT NULL,
  number BIGINT NOT NULL
);
INSERT INTO latest (name, number) VALUES ('announced', 0);
