CREATE TABLE account (name text PRIMARY KEY, balance numeric NOT NULL CHECK (balance >= 0));
INSERT INTO account VALUES ('alice', 100), ('bob', 0);
