CREATE TABLE users (
  -- The key is what makes a request that is sent again the same user.
  id TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  email TEXT NOT NULL,
  -- Milliseconds since 1970.
  created_at BIGINT NOT NULL
);
