-- The tables. What works on them is in schema/; migrations/README.md says how to change either.
--
-- Where a job lives, in exactly one place at a time:
--
--   scheduled --promote--> ready --claim--> lease (a receipt per batch) --complete, fail--> history
--       ^                    ^                |
--       +----- retry --------+---- release ---+
--
-- Nobody but the owner touches these tables. Callers have functions and views.
--
-- Words of the tables:
--   position  the order in which jobs became due: one counter for all
--   rank      ~priority: ascending, it is the order of claim
--   lane      a queue and a rank; within one, jobs are claimed by position
--   moved     the job is no longer at the position that its id names
--   lease     a worker's right to its jobs until a deadline, and the receipt of one claim
--   receipt   the row of a claim, with the jobs it took
--   tally     lines that transitions append: what changed, folded into the totals each second
--   keeper    the worker that does the periodic work

CREATE SCHEMA rowlock;
REVOKE ALL ON SCHEMA rowlock FROM PUBLIC;
COMMENT ON SCHEMA rowlock IS 'Rowlock, a job queue. Use the functions and views; the tables are private.';

-- What is applied ------------------------------------------------------------------------------

-- The numbered files, in the order in which they were applied.
CREATE TABLE rowlock.migration (
  version    int4 PRIMARY KEY,
  name       text NOT NULL,
  checksum   text NOT NULL,      -- SHA-256 of the file, in hex
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The files of schema/, as they were applied last, and the release of the program that did it: an older one
-- does not put its own text back.
CREATE TABLE rowlock.schema_text (
  file       text PRIMARY KEY,
  checksum   text NOT NULL,
  release    int4[] NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Queues --------------------------------------------------------------------------------------

-- The id is a part of every job id (18 bits), hence the bound. Not an identity: a number that was rolled back is used
-- again. The name is not unique on purpose: two transactions that both make a queue must not wait for each other. Each
-- then has a row, all rows of a name are one queue, and maintain_v1 gives them the settings of the first.
CREATE SEQUENCE rowlock.queue_id AS int4 MAXVALUE 262143 CYCLE;
CREATE TABLE rowlock.queue (
  id          int4 PRIMARY KEY CHECK (id BETWEEN 1 AND 262143),
  name        text NOT NULL,
  paused      boolean NOT NULL DEFAULT false,
  priority    int2,
  max_retries int2,
  created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX queue_name ON rowlock.queue (name, id);

-- The priorities in use per queue, so that a claim probes each lane once instead of searching for them.
-- Not unique on purpose: two transactions that both open a lane must not wait for each other. It is a
-- hint: maintain_v1 adds what is missing and removes what is doubled or long empty.
CREATE TABLE rowlock.lane (
  queue    int4 NOT NULL,
  rank     int2 NOT NULL,
  added_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX lane_queue_rank ON rowlock.lane (queue, rank);

-- Job types -----------------------------------------------------------------------------------

CREATE TABLE rowlock.job_type (
  name                text PRIMARY KEY,
  queue               text,
  launch              text NOT NULL DEFAULT 'process' CHECK (launch IN ('process', 'resident', 'pod')),
  image               text,
  command             text[] NOT NULL DEFAULT '{}',
  args                text[] NOT NULL DEFAULT '{}',
  env                 jsonb NOT NULL DEFAULT '{}',
  resources           jsonb,
  timeout             interval,
  max_retries         int2 CHECK (max_retries >= 0),
  priority            int2,
  backoff             jsonb,      -- {base, max: seconds, factor, jitter: numbers}; absent keys are built in
  expected            interval,
  max_concurrency     int4,
  rate                float8,     -- starts per second, whole cluster
  no_retry_exit_codes int4[] NOT NULL DEFAULT '{}',
  on_lost_lease       text CHECK (on_lost_lease IN ('continue', 'stop')),
  payload_schema      jsonb,
  keep_completed      interval,
  keep_failed         interval,
  service_account     text,
  pod_template        jsonb,
  updated_at          timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Jobs ----------------------------------------------------------------------------------------

-- One counter says in which order jobs became due. Between two numbers there is room for jobs that became due between
-- them and were found late, when nobody looked (see promote); 2^43 jobs have a number of their own.
CREATE SEQUENCE rowlock.position INCREMENT BY 1048576 START WITH 1048576 MINVALUE 0;
CREATE SEQUENCE rowlock.lease_id;

-- Due, unclaimed jobs and nothing else. One index: a claim walks (queue, rank) from where it was.
-- rank = ~priority, so that ascending order is the order of claim for all of int2.
-- moved marks the few whose position is not the one in their id (they were scheduled or retried);
-- the partial index finds those, the id itself finds the rest.
CREATE TABLE rowlock.ready (
  pos         int8 NOT NULL,
  id          uuid NOT NULL,
  created_at  timestamptz NOT NULL,
  execute_at  timestamptz NOT NULL,
  queue       int4 NOT NULL,
  rank        int2 NOT NULL,
  attempts    int2 NOT NULL DEFAULT 0,
  max_retries int2 NOT NULL,
  moved       boolean NOT NULL DEFAULT false,
  type        text NOT NULL,
  payload     jsonb NOT NULL,
  unique_key  text,
  opts        jsonb,             -- tags, headers, timeout_seconds; null when none was given
  error       text,              -- of the attempt before
  lost_by     uuid[],            -- workers that were lost while they ran it; those that live are in survivor
  PRIMARY KEY (queue, rank, pos)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ready_moved ON rowlock.ready (id) WHERE moved;

-- Jobs for later: delayed, or waiting for their next attempt.
CREATE TABLE rowlock.scheduled (
  LIKE rowlock.ready INCLUDING DEFAULTS,
  PRIMARY KEY (execute_at, pos)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);
CREATE UNIQUE INDEX scheduled_id ON rowlock.scheduled (id);
CREATE INDEX scheduled_queue ON rowlock.scheduled (queue, execute_at);

-- Keys held by pending and running jobs. Terminal jobs give theirs up.
CREATE TABLE rowlock.unique_key (
  key text PRIMARY KEY,
  job uuid NOT NULL
);

-- Workers and what they run -------------------------------------------------------------------

-- One heartbeat row per worker, never one per job; fillfactor keeps its updates on the page.
CREATE TABLE rowlock.worker (
  id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  name        text NOT NULL,
  identity    text NOT NULL,     -- Pod UID or host, and start: two lives of one name differ here
  queues      text[] NOT NULL,
  slots       int4 NOT NULL CHECK (slots > 0),
  version     text NOT NULL DEFAULT '',
  draining    boolean NOT NULL DEFAULT false,
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease_until timestamptz NOT NULL,
  lease       interval NOT NULL, -- its length: a deadline further ahead than that is of a clock that went back
  ended       boolean NOT NULL DEFAULT false  -- it said so itself: what it still holds has not killed it
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200);

-- Workers whose lease was over before they could say that they live: they were not killed by what they ran.
CREATE TABLE rowlock.survivor (
  worker uuid PRIMARY KEY,
  at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The start of the server under which the leases run. Unlogged, so that recovery after a crash and a promotion empty
-- it: then, and after a restart, no worker could extend its lease for a while, and none is lost for that (see rescue).
CREATE UNLOGGED TABLE rowlock.server_start (
  at timestamptz PRIMARY KEY
);
INSERT INTO rowlock.server_start VALUES (pg_postmaster_start_time());

-- A receipt: the jobs one claim took, whole, so that a rescue can put them back.
-- done lists those already ended; the last one takes the receipt with it.
CREATE TABLE rowlock.lease (
  worker     uuid NOT NULL,
  id         int8 NOT NULL,
  claim      int8 NOT NULL DEFAULT 0,  -- the number that the worker gave the call, so that a lost answer is noticed
  claimed_at timestamptz NOT NULL,
  remaining  int4 NOT NULL,
  done       uuid[] NOT NULL DEFAULT '{}',
  progress   jsonb,              -- {job id: last progress}
  jobs       rowlock.ready[] NOT NULL,
  PRIMARY KEY (worker, id)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 200);
-- Out of line and uncompressed: an update of done leaves the jobs where they are.
ALTER TABLE rowlock.lease ALTER jobs SET STORAGE EXTERNAL;

-- Running jobs somebody asked to stop; the worker learns of it with its next heartbeat.
CREATE TABLE rowlock.cancel_request (
  job          uuid PRIMARY KEY,
  worker       uuid NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX cancel_request_worker ON rowlock.cancel_request (worker);

-- Workers asleep on a queue. An enqueue sends a NOTIFY only if it finds one here, so that business
-- transactions do not pay for it while workers are busy. A wake takes the worker's rows away, so that the next
-- job wakes another; a lasting row stays, and its owner hears of every job. No two rows are forbidden to be alike:
-- a worker that goes to sleep again must not wait for the open transaction that took its row.
CREATE TABLE rowlock.subscription (
  id      int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  queue   text NOT NULL,       -- by name: the queue need not exist yet
  worker  uuid NOT NULL,       -- or the controller
  lasting boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_threshold = 200);
CREATE INDEX subscription_queue ON rowlock.subscription (queue, id);
CREATE INDEX subscription_worker ON rowlock.subscription (worker);

-- History -------------------------------------------------------------------------------------

-- Terminal jobs, in three rings of eight partitions by the time they expire. A ring's partition is
-- emptied whole when its time has passed, so nothing is created, dropped or deleted row by row, and a
-- completion can never miss its partition. Width of a partition: 6 hours, 3 days, 61 days; a ring
-- serves what is kept up to six widths. See history_slot.
CREATE TABLE rowlock.history (
  slot        int2 NOT NULL,
  id          uuid NOT NULL,
  queue       int4 NOT NULL,
  rank        int2 NOT NULL,
  attempts    int2 NOT NULL,
  max_retries int2 NOT NULL,
  status      text NOT NULL CHECK (status IN ('completed', 'failed', 'cancelled')),
  created_at  timestamptz NOT NULL,
  execute_at  timestamptz NOT NULL,
  started_at  timestamptz,
  finished_at timestamptz NOT NULL,
  type        text NOT NULL,
  payload     jsonb NOT NULL,
  worker      text,
  unique_key  text,
  opts        jsonb,
  error       text,
  reason      text,
  result      jsonb,
  progress    jsonb
) PARTITION BY LIST (slot);

DO $$
BEGIN
  FOR n IN 0..23 LOOP
    EXECUTE format('CREATE TABLE rowlock.history_%s PARTITION OF rowlock.history FOR VALUES IN (%s)', n, n);
  END LOOP;
END $$;
CREATE INDEX history_id ON rowlock.history (id);
CREATE INDEX history_finished ON rowlock.history (status, finished_at);

-- Counts --------------------------------------------------------------------------------------

-- Depth and totals without counting: every transition appends what it changed, maintain_v1 folds.
-- Appending never waits, not even beside a long transaction on the same queue.
CREATE TABLE rowlock.tally (
  queue     int4 NOT NULL,
  type      text NOT NULL,
  pending   int8 NOT NULL DEFAULT 0,   -- in ready
  scheduled int8 NOT NULL DEFAULT 0,
  running   int8 NOT NULL DEFAULT 0,
  enqueued  int8 NOT NULL DEFAULT 0,
  completed int8 NOT NULL DEFAULT 0,
  failed    int8 NOT NULL DEFAULT 0,
  cancelled int8 NOT NULL DEFAULT 0,
  retried   int8 NOT NULL DEFAULT 0,
  failed_kept int8 NOT NULL DEFAULT 0,  -- failed and still in history
  -- What a line is about beyond its type; folded apart, into total_reason and total_time. A line with wait says
  -- that running jobs began after a wait in that bucket, one with run that so many attempts ended after a run in it.
  reason    text,                      -- of failed and retried
  wait      int2,                      -- buckets: see rowlock.bucket
  run       int2,
  seconds   float8                     -- in all
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

-- Depths by type, and counters by label: see label.
CREATE TABLE rowlock.total (
  queue     int4 NOT NULL,
  type      text NOT NULL,
  pending   int8 NOT NULL DEFAULT 0,
  scheduled int8 NOT NULL DEFAULT 0,
  running   int8 NOT NULL DEFAULT 0,
  enqueued  int8 NOT NULL DEFAULT 0,
  completed int8 NOT NULL DEFAULT 0,
  failed    int8 NOT NULL DEFAULT 0,
  cancelled int8 NOT NULL DEFAULT 0,
  retried   int8 NOT NULL DEFAULT 0,
  failed_kept int8 NOT NULL DEFAULT 0,
  PRIMARY KEY (queue, type)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200);

-- What completed in the last minutes and how long it ran, by the second in which it was folded.
CREATE TABLE rowlock.pace (
  at      timestamptz NOT NULL,
  queue   int4 NOT NULL,
  type    text NOT NULL,
  jobs    int8 NOT NULL,
  seconds float8 NOT NULL,
  PRIMARY KEY (at, queue, type)
) WITH (autovacuum_vacuum_threshold = 1000);

-- The keeper: which worker does the periodic work, and when the rarer parts ran last.
CREATE TABLE rowlock.keeper (
  one       boolean PRIMARY KEY DEFAULT true CHECK (one),
  holder    uuid,
  epoch     int8 NOT NULL DEFAULT 0,
  held_until timestamptz NOT NULL DEFAULT '-infinity',
  folded_at timestamptz NOT NULL DEFAULT '-infinity',
  swept_at  timestamptz NOT NULL DEFAULT '-infinity',
  failures  jsonb NOT NULL DEFAULT '{}'  -- by part of a round: {n, at, error} of its failures, the last one's text
) WITH (fillfactor = 20);
INSERT INTO rowlock.keeper DEFAULT VALUES;

-- One row, which never changes: the name of this queue among others, on whatever is made for it outside of the
-- database. A copy of the database has it, too, and so it finds what was made.
CREATE TABLE rowlock.identity (
  one      boolean PRIMARY KEY DEFAULT true CHECK (one),
  database uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO rowlock.identity DEFAULT VALUES;

-- The controller ------------------------------------------------------------------------------

-- One row. Each reign has a number of its own, and every write of a leader names its: one that was frozen
-- and goes on after another took over is refused, whatever it believes.
CREATE TABLE rowlock.leader (
  one        boolean PRIMARY KEY DEFAULT true CHECK (one),
  holder     uuid,
  name       text,
  epoch      int8 NOT NULL DEFAULT 0,
  held_until timestamptz NOT NULL DEFAULT '-infinity',
  lease      interval NOT NULL DEFAULT '0', -- its length, as a worker's
  rival      text,                          -- the last controller of another scope that asked in vain
  rival_at   timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 20);
INSERT INTO rowlock.leader DEFAULT VALUES;

CREATE TABLE rowlock.decision (
  id         int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at         timestamptz NOT NULL,
  deployment text NOT NULL,
  current    int4 NOT NULL,
  wanted     int4 NOT NULL,
  reason     text NOT NULL,
  inputs     jsonb NOT NULL
);
CREATE INDEX decision_deployment ON rowlock.decision (deployment, id);
CREATE INDEX decision_at ON rowlock.decision (at);

CREATE TABLE rowlock.schedule (
  name       text PRIMARY KEY,
  type       text NOT NULL,
  queue      text,
  payload    jsonb NOT NULL DEFAULT '{}',
  cron       text,
  every      interval,
  timezone   text NOT NULL DEFAULT 'UTC',
  catch_up   text NOT NULL DEFAULT 'one' CHECK (catch_up IN ('skip', 'one', 'all')),
  enabled    boolean NOT NULL DEFAULT true,
  next_at    timestamptz,        -- null until the leader has planned it
  last_at    timestamptz,        -- the last instant that is over, run or passed over
  last_job   uuid,
  last_error      text,               -- why the leader cannot plan it
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CHECK ((cron IS NULL) <> (every IS NULL))
) WITH (fillfactor = 50);
CREATE INDEX schedule_next ON rowlock.schedule (next_at) WHERE enabled;

-- The names that get a label of their own in metrics; all others share the label other. Only fold adds to it, see
-- labels_due, and nothing is ever removed. The counters of a type without a label are added up under the type '', and
-- stay there when the type gets a label later: else a counter would go back. A reason without a label never gets one.
CREATE TABLE rowlock.label (
  kind text NOT NULL CHECK (kind IN ('type', 'reason')),
  name text NOT NULL,
  room text NOT NULL,          -- see label_room
  PRIMARY KEY (kind, name)
);

-- Failures and retries by reason.
CREATE TABLE rowlock.total_reason (
  queue   int4 NOT NULL,
  type    text NOT NULL,
  reason  text NOT NULL,
  failed  int8 NOT NULL,
  retried int8 NOT NULL,
  PRIMARY KEY (queue, type, reason)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200);

-- The histograms: how long jobs waited, from their due time to their claim, and how long the attempts that
-- ended had run. A job claimed twice waited twice.
CREATE TABLE rowlock.total_time (
  queue   int4 NOT NULL,
  type    text NOT NULL,
  what    text NOT NULL CHECK (what IN ('wait', 'run')),
  bucket  int2 NOT NULL,     -- see rowlock.bucket
  jobs    int8 NOT NULL,
  seconds float8 NOT NULL,   -- in all
  PRIMARY KEY (queue, type, what, bucket)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 200);

-- What the controller decided and could not do. rowlock.decision forgets after a day; these do not.
CREATE TABLE rowlock.total_scaler (
  deployment text NOT NULL,
  what       text NOT NULL CHECK (what IN ('decision', 'error')),
  reason     text NOT NULL,
  n          int8 NOT NULL,
  PRIMARY KEY (deployment, what, reason)
) WITH (fillfactor = 50);

-- The sources of the catalogue ----------------------------------------------------------------

-- What was loaded from where, so that what a source no longer holds can end. What was applied by hand is in no
-- source, and stays.
CREATE TABLE rowlock.catalog_source (
  source text PRIMARY KEY,
  digest text NOT NULL
);

CREATE TABLE rowlock.catalog_entry (
  kind   text NOT NULL CHECK (kind IN ('type', 'schedule')),
  name   text NOT NULL,
  source text NOT NULL REFERENCES rowlock.catalog_source ON DELETE CASCADE,
  PRIMARY KEY (kind, name)
);
CREATE INDEX catalog_entry_source ON rowlock.catalog_entry (source);

-- For a publication of all tables: a row without a key is named by all of its columns, or no row could be deleted.
ALTER TABLE rowlock.tally REPLICA IDENTITY FULL;
ALTER TABLE rowlock.lane REPLICA IDENTITY FULL;
ALTER TABLE rowlock.history REPLICA IDENTITY FULL;
DO $$
BEGIN
  FOR n IN 0..23 LOOP
    EXECUTE format('ALTER TABLE rowlock.history_%s REPLICA IDENTITY FULL', n);
  END LOOP;
END $$;

-- A table never analysed is taken for 10 pages: the cost of view queues then looks so high that Postgres compiles
-- it, for 60 ms instead of one.
ANALYZE rowlock.queue, rowlock.lane, rowlock.total;
