-- How one job comes in.

CREATE OR REPLACE FUNCTION rowlock.ensure_queue(name text, prefix text DEFAULT '') RETURNS int4
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  problem text := name_problem(ensure_queue.name);
  found_id int4;
BEGIN
  IF problem IS NOT NULL THEN PERFORM refuse('RL003', prefix || 'queue: ' || problem); END IF;
  LOOP
    SELECT q.id INTO found_id FROM queue q WHERE q.name = ensure_queue.name;
    IF FOUND THEN RETURN found_id; END IF;
    BEGIN
      INSERT INTO queue (name) VALUES (ensure_queue.name) ON CONFLICT DO NOTHING RETURNING id INTO found_id;
    EXCEPTION WHEN sequence_generator_limit_exceeded THEN
      PERFORM refuse('RL003', prefix || 'queue: there are 262143 queues already, the most there can be');
    END;
    IF found_id IS NOT NULL THEN RETURN found_id; END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.ensure_queue IS
'The id of a queue, which is made if it is new. Waits for a transaction that is making the same queue. Internal.';

CREATE OR REPLACE FUNCTION rowlock.open_lane(queue int4, rank int2) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, rowlock, pg_temp AS $$
  INSERT INTO lane (queue, rank) SELECT open_lane.queue, open_lane.rank
  WHERE NOT EXISTS (SELECT FROM lane l WHERE l.queue = open_lane.queue AND l.rank = open_lane.rank)
$$;
COMMENT ON FUNCTION rowlock.open_lane IS 'Says that a priority is in use in a queue. Never waits. Internal.';

CREATE OR REPLACE FUNCTION rowlock.enqueue(type text, payload jsonb DEFAULT '{}', queue text DEFAULT NULL,
  priority int DEFAULT NULL, max_retries int DEFAULT NULL, execute_at timestamptz DEFAULT NULL,
  unique_key text DEFAULT NULL, opts jsonb DEFAULT '{}', OUT id uuid, OUT inserted boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_now      timestamptz := clock_timestamp();
  v_ms       int8 := floor(extract(epoch FROM v_now) * 1000);
  v_payload  jsonb := coalesce(enqueue.payload, '{}');
  v_opts     jsonb;
  v_known    boolean;
  v_queue    int4;
  v_name     text;
  v_priority int4;
  v_retries  int4;
  v_open     boolean;
  v_listen   boolean;
  v_problem  text;
  v_pos      int8;
  v_later    boolean;
BEGIN
  -- Everything the catalogue knows, in one look-up.
  SELECT t.name IS NOT NULL, q.id, coalesce(enqueue.queue, t.queue, 'default'),
         coalesce(enqueue.priority, t.priority, q.priority, 5),
         coalesce(enqueue.max_retries, t.max_retries, q.max_retries, 3),
         EXISTS (SELECT FROM lane l WHERE l.queue = q.id AND l.rank = ~coalesce(enqueue.priority, t.priority, q.priority, 5)),
         EXISTS (SELECT FROM subscription s WHERE s.queue = q.id)
    INTO v_known, v_queue, v_name, v_priority, v_retries, v_open, v_listen
    FROM (VALUES (1)) one
    LEFT JOIN job_type t ON t.name = enqueue.type
    LEFT JOIN queue q ON q.name = coalesce(enqueue.queue, t.queue, 'default');
  IF NOT v_known THEN
    v_problem := name_problem(enqueue.type);
    IF v_problem IS NOT NULL THEN PERFORM refuse('RL001', 'type: ' || v_problem); END IF;
  END IF;
  v_problem := job_problem(v_payload, v_priority, v_retries, enqueue.execute_at, enqueue.unique_key, v_now);
  IF v_problem IS NOT NULL THEN PERFORM refuse(left(v_problem, 5), substr(v_problem, 6)); END IF;
  v_opts := CASE WHEN enqueue.opts = '{}' THEN NULL ELSE checked_opts(enqueue.opts) END;
  IF v_queue IS NULL THEN v_queue := ensure_queue(v_name); END IF;

  v_pos := nextval('rowlock.position');
  id := make_id(v_ms, v_queue, (~v_priority)::int2, v_pos);
  IF enqueue.unique_key IS NOT NULL THEN
    -- The index decides. A loser waits for the winner's commit or rollback, then looks again: the
    -- winner's job may have ended in between.
    LOOP
      INSERT INTO unique_key (key, job) VALUES (enqueue.unique_key, enqueue.id) ON CONFLICT DO NOTHING;
      EXIT WHEN FOUND;
      DECLARE v_holder uuid;
      BEGIN
        SELECT u.job INTO v_holder FROM unique_key u WHERE u.key = enqueue.unique_key;
        IF FOUND THEN id := v_holder; inserted := false; RETURN; END IF;
      END;
    END LOOP;
  END IF;

  v_later := enqueue.execute_at > v_now;
  IF v_later THEN
    INSERT INTO scheduled (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
    VALUES (v_pos, enqueue.id, v_now, enqueue.execute_at, v_queue, ~v_priority, v_retries, enqueue.type, v_payload, enqueue.unique_key, v_opts);
    INSERT INTO tally (queue, type, scheduled, enqueued) VALUES (v_queue, enqueue.type, 1, 1);
  ELSE
    IF NOT v_open THEN PERFORM open_lane(v_queue, (~v_priority)::int2); END IF;
    INSERT INTO ready (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
    VALUES (v_pos, enqueue.id, v_now, coalesce(enqueue.execute_at, v_now), v_queue, ~v_priority, v_retries, enqueue.type, v_payload, enqueue.unique_key, v_opts);
    INSERT INTO tally (queue, type, pending, enqueued) VALUES (v_queue, enqueue.type, 1, 1);
    IF v_listen THEN PERFORM pg_notify('rowlock', v_queue::text); END IF;
  END IF;
  inserted := true;
END $$;
COMMENT ON FUNCTION rowlock.enqueue IS
'Adds a job in the caller''s transaction. A null argument means the type''s default, then the queue''s, then the built-in one (queue default, priority 5, max_retries 3, now).
Arguments: type and queue, 1 to 128 bytes of printable text; payload, a JSON object up to 1 MiB and 100 levels; priority, -32768 to 32767, higher first; max_retries, 0 to 32767; execute_at, up to 10 years ahead; unique_key, 1 to 512 bytes; opts, {tags, headers, timeout_seconds}.
Returns the id, and inserted = false with the other job''s id where a pending or running job holds the unique key.
SQLSTATEs: RL001 to RL008, by field. Locks: a row of unique_key (waits for a transaction that is adding the same key) and, for a queue''s first job, of queue.';
