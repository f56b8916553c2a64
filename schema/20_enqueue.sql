-- How one job comes in.

CREATE OR REPLACE FUNCTION rowlock.ensure_queue(name text, prefix text DEFAULT '') RETURNS int4
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_problem text := name_problem(ensure_queue.name);
  v_id int4;
BEGIN
  IF v_problem IS NOT NULL THEN PERFORM refuse('RL003', prefix || 'queue: ' || v_problem); END IF;
  SELECT q.id INTO v_id FROM queue q WHERE q.name = ensure_queue.name ORDER BY q.id LIMIT 1;
  IF FOUND THEN RETURN v_id; END IF;
  -- Two transactions that make the same queue make a row each, so that neither waits for the other. The counter
  -- goes round: a number that was rolled back is used again.
  FOR v_try IN 1..262143 LOOP
    v_id := nextval('rowlock.queue_id');
    CONTINUE WHEN EXISTS (SELECT FROM queue q WHERE q.id = v_id);
    INSERT INTO queue (id, name) VALUES (v_id, ensure_queue.name) ON CONFLICT DO NOTHING;
    IF FOUND THEN RETURN v_id; END IF;
  END LOOP;
  PERFORM refuse('RL003', prefix || 'queue: there are 262143 queues already, the most there can be');
END $$;
COMMENT ON FUNCTION rowlock.ensure_queue IS
'The id of a queue, which is made if it is new. Never waits for another transaction. Internal.';

CREATE OR REPLACE FUNCTION rowlock.open_lane(queue int4, rank int2) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, rowlock, pg_temp AS $$
  INSERT INTO lane (queue, rank) SELECT open_lane.queue, open_lane.rank
  WHERE NOT EXISTS (SELECT FROM lane l WHERE l.queue = open_lane.queue AND l.rank = open_lane.rank)
$$;
COMMENT ON FUNCTION rowlock.open_lane IS 'Says that a priority is in use in a queue. Never waits. Internal.';

CREATE OR REPLACE FUNCTION rowlock.may_notify() RETURNS boolean
LANGUAGE sql STABLE AS $$
  SELECT coalesce(current_setting('rowlock.notify', true), 'on') NOT IN ('off', 'false', 'no', '0')
$$;
COMMENT ON FUNCTION rowlock.may_notify IS
'False after SET LOCAL rowlock.notify = off, which a transaction needs that is to be PREPAREd. Internal.';

CREATE OR REPLACE FUNCTION rowlock.wake(queue text, jobs int8) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_most    int8 := LEAST(wake.jobs, 100);
  v_workers uuid[] := '{}';
BEGIN
  IF NOT may_notify() OR NOT EXISTS (SELECT FROM subscription s WHERE s.queue = wake.queue) THEN RETURN; END IF;
  -- Whoever is woken sleeps no more, so the next job wakes another. With a snapshot that stands still, a row that
  -- others have taken since would fail the caller's transaction: then the rows stay.
  IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
    v_workers := ARRAY(SELECT s.worker FROM subscription s WHERE s.queue = wake.queue AND NOT s.lasting
                        ORDER BY s.id DESC LIMIT v_most FOR UPDATE SKIP LOCKED);
    DELETE FROM subscription s WHERE s.id = ANY (ARRAY(
      SELECT o.id FROM subscription o WHERE o.worker = ANY (v_workers) AND NOT o.lasting FOR UPDATE SKIP LOCKED));
  END IF;
  -- Those whose rows open transactions have taken hear nothing until these end, and no job waits for that.
  IF v_workers = '{}' THEN
    v_workers := ARRAY(SELECT s.worker FROM subscription s WHERE s.queue = wake.queue AND NOT s.lasting
                        ORDER BY random() LIMIT v_most);
  END IF;
  PERFORM pg_notify('rowlock', n.worker::text)
     FROM (SELECT u.worker FROM unnest(v_workers) u(worker)
           UNION SELECT s.worker FROM subscription s WHERE s.queue = wake.queue AND s.lasting) n;
END $$;
COMMENT ON FUNCTION rowlock.wake IS
'Wakes a sleeper of a queue for each of so many jobs (100 at most), and whoever subscribed for good. Never waits.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.wake_keeper(due timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, rowlock, pg_temp SET enable_seqscan = off AS $$
  -- The keeper rests for less than a second, and knows of a job that is due sooner: then it looks by itself in time.
  SELECT pg_notify('rowlock_keeper', 'due')
   WHERE wake_keeper.due < clock_timestamp() + interval '2 seconds' AND may_notify()
     AND NOT EXISTS (SELECT FROM scheduled s
                      WHERE s.execute_at >= clock_timestamp() AND s.execute_at < wake_keeper.due)
$$;
COMMENT ON FUNCTION rowlock.wake_keeper IS
'Tells the keeper of a job that is due before its next round. Internal.';

CREATE OR REPLACE FUNCTION rowlock.hold_key(key text, job uuid) RETURNS uuid
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_holder uuid;
BEGIN
  -- The index decides. A loser waits for the winner's commit or rollback, then looks again: the winner's job may
  -- have ended in between.
  LOOP
    INSERT INTO unique_key (key, job) VALUES (hold_key.key, hold_key.job) ON CONFLICT DO NOTHING;
    IF FOUND THEN RETURN hold_key.job; END IF;
    SELECT u.job INTO v_holder FROM unique_key u WHERE u.key = hold_key.key;
    IF FOUND THEN RETURN v_holder; END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.hold_key IS 'Takes a unique key for a job, and answers which job has it. Internal.';

CREATE OR REPLACE FUNCTION rowlock.enqueue(type text, payload jsonb DEFAULT '{}', queue text DEFAULT NULL,
  priority int DEFAULT NULL, max_retries int DEFAULT NULL, execute_at timestamptz DEFAULT NULL,
  unique_key text DEFAULT NULL, opts jsonb DEFAULT '{}', OUT id uuid, OUT inserted boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_now      timestamptz := clock_timestamp();
  v_at       timestamptz := enqueue.execute_at;
  v_payload  jsonb := coalesce(enqueue.payload, '{}');
  v_opts     jsonb;
  v_known    boolean;
  v_queue    int4;
  v_name     text;
  v_priority int4;
  v_retries  int4;
  v_open     boolean;
  v_listen   boolean; v_notify boolean := true;
  v_problem  text;
  v_pos      int8;
  v_holder   uuid;
BEGIN
  -- Everything the catalogue knows, in one look-up. Any row of the queue's name will do.
  SELECT t.name IS NOT NULL, q.id, n.name, coalesce(enqueue.priority, t.priority, q.priority, 5),
         coalesce(enqueue.max_retries, t.max_retries, q.max_retries, 3),
         EXISTS (SELECT FROM lane l
                  WHERE l.queue = q.id AND l.rank = ~coalesce(enqueue.priority, t.priority, q.priority, 5)),
         EXISTS (SELECT FROM subscription s WHERE s.queue = n.name)
    INTO v_known, v_queue, v_name, v_priority, v_retries, v_open, v_listen
    FROM (VALUES (1)) one
    LEFT JOIN job_type t ON t.name = enqueue.type
    CROSS JOIN LATERAL (SELECT coalesce(enqueue.queue, t.queue, 'default') AS name) n
    LEFT JOIN queue q ON q.name = n.name;
  IF NOT v_known THEN
    v_problem := name_problem(enqueue.type);
    IF v_problem IS NOT NULL THEN PERFORM refuse('RL001', 'type: ' || v_problem); END IF;
  END IF;
  v_problem := job_problem(v_payload, v_priority, v_retries, v_at, enqueue.unique_key, v_now);
  IF v_problem IS NOT NULL THEN PERFORM refuse(left(v_problem, 5), substr(v_problem, 6)); END IF;
  IF enqueue.opts <> '{}' THEN
    v_opts := checked_opts(enqueue.opts, v_at IS NOT NULL);
    v_at := coalesce(v_at, v_now + make_interval(secs => (v_opts ->> 'delay_seconds')::float8));
    v_notify := coalesce((v_opts -> 'notify')::boolean, true);
    v_opts := kept_opts(v_opts);
  END IF;
  IF v_queue IS NULL THEN v_queue := ensure_queue(v_name); END IF;

  v_pos := nextval('rowlock.position');
  id := make_id(floor(extract(epoch FROM v_now) * 1000)::int8, v_queue, (~v_priority)::int2, v_pos);
  IF enqueue.unique_key IS NOT NULL THEN
    v_holder := hold_key(enqueue.unique_key, enqueue.id);
    inserted := v_holder = enqueue.id;
    id := v_holder;
    IF NOT inserted THEN RETURN; END IF;
  END IF;
  inserted := true;
  IF v_at > v_now THEN
    INSERT INTO scheduled (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
    VALUES (v_pos, enqueue.id, v_now, v_at, v_queue, ~v_priority, v_retries, enqueue.type, v_payload,
            enqueue.unique_key, v_opts);
    INSERT INTO tally (queue, type, scheduled, enqueued) VALUES (v_queue, enqueue.type, 1, 1);
    IF v_notify AND v_at < v_now + interval '2 seconds' THEN PERFORM wake_keeper(v_at); END IF;
  ELSE
    IF NOT v_open THEN PERFORM open_lane(v_queue, (~v_priority)::int2); END IF;
    INSERT INTO ready (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
    VALUES (v_pos, enqueue.id, v_now, coalesce(v_at, v_now), v_queue, ~v_priority, v_retries, enqueue.type, v_payload,
            enqueue.unique_key, v_opts);
    INSERT INTO tally (queue, type, pending, enqueued) VALUES (v_queue, enqueue.type, 1, 1);
    IF v_listen AND v_notify THEN PERFORM wake(v_name, 1); END IF;
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.enqueue IS
'Adds a job in the caller''s transaction. A null argument means the type''s default, then the queue''s, then the
built-in one (queue default, priority 5, max_retries 3, now).
Arguments: type and queue, 1 to 128 bytes of printable text; payload, a JSON object up to 1 MiB and 100 levels;
priority, -32768 to 32767, higher first; max_retries, 0 to 32767; execute_at, up to 10 years ahead; unique_key, 1 to 512
bytes; opts, {tags, headers, timeout_seconds, delay_seconds, notify}. delay_seconds counts from the database''s time.
A transaction that is to be PREPAREd needs notify false, or SET LOCAL rowlock.notify = off; polling finds the job.
Returns the id, and inserted = false with the other job''s id where a pending or running job holds the unique key.
SQLSTATEs: RL001 to RL008, by field. Locks: a row of unique_key (waits for a transaction that is adding the same key).';
