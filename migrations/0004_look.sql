-- Rowlock 4: looking at jobs and steering them.

-- Every place a job can be, in the columns people see. A branch's status is a constant, so a filter on
-- status leaves the other branches unread.
CREATE VIEW rowlock.jobs AS
  SELECT r.id, r.type, q.name AS queue, r.payload, 'pending'::text AS status, (~r.rank)::int2 AS priority, r.attempts, r.max_retries,
         r.execute_at, r.created_at, r.execute_at AS updated_at, NULL::timestamptz AS started_at, NULL::timestamptz AS finished_at,
         r.error, NULL::jsonb AS result, NULL::text AS worker, r.unique_key, r.opts -> 'tags' AS tags, r.opts -> 'headers' AS headers, NULL::jsonb AS progress
    FROM rowlock.ready r JOIN rowlock.queue q ON q.id = r.queue
  UNION ALL
  SELECT s.id, s.type, q.name, s.payload, 'pending', (~s.rank)::int2, s.attempts, s.max_retries,
         s.execute_at, s.created_at, s.created_at, NULL, NULL,
         s.error, NULL, NULL, s.unique_key, s.opts -> 'tags', s.opts -> 'headers', NULL
    FROM rowlock.scheduled s JOIN rowlock.queue q ON q.id = s.queue
  UNION ALL
  SELECT j.id, j.type, q.name, j.payload, 'running', (~j.rank)::int2, j.attempts, j.max_retries,
         j.execute_at, j.created_at, l.claimed_at, l.claimed_at, NULL,
         j.error, NULL, w.name, j.unique_key, j.opts -> 'tags', j.opts -> 'headers', l.progress -> j.id::text
    FROM rowlock.lease l CROSS JOIN LATERAL unnest(l.jobs) j JOIN rowlock.queue q ON q.id = j.queue
    LEFT JOIN rowlock.worker w ON w.id = l.worker
   WHERE j.id <> ALL (l.done)
  UNION ALL
  SELECT h.id, h.type, q.name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries,
         h.execute_at, h.created_at, h.finished_at, h.started_at, h.finished_at,
         h.error, h.result, h.worker, h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
    FROM rowlock.history h JOIN rowlock.queue q ON q.id = h.queue;
COMMENT ON VIEW rowlock.jobs IS
'All jobs. For one job use rowlock.get_job(id), for a page of them rowlock.list_jobs: both stay fast at any depth; this view reads what it is asked to.';

CREATE VIEW rowlock.queues AS
  SELECT q.name AS queue, q.paused, coalesce(t.pending, 0) AS pending, coalesce(t.scheduled, 0) AS scheduled,
         coalesce(t.running, 0) AS running, coalesce(t.failed, 0) AS failed,
         coalesce(extract(epoch FROM clock_timestamp() - o.oldest)::float8, 0) AS oldest_age_seconds
    FROM rowlock.queue q
    LEFT JOIN (SELECT c.queue, sum(c.pending)::int8 AS pending, sum(c.scheduled)::int8 AS scheduled, sum(c.running)::int8 AS running,
                      sum(c.failed_kept)::int8 AS failed
                 FROM (SELECT queue, pending, scheduled, running, failed_kept FROM rowlock.total
                       UNION ALL SELECT queue, pending, scheduled, running, failed_kept FROM rowlock.tally) c
                GROUP BY c.queue) t ON t.queue = q.id
    LEFT JOIN LATERAL (
      SELECT min(f.execute_at) AS oldest FROM rowlock.lane l
        CROSS JOIN LATERAL (SELECT r.execute_at FROM rowlock.ready r WHERE r.queue = l.queue AND r.rank = l.rank ORDER BY r.pos LIMIT 1) f
       WHERE l.queue = q.id) o ON true;
COMMENT ON VIEW rowlock.queues IS
'Queues and their depth, from running totals and one probe per priority in use: it counts nothing. pending are due jobs, scheduled those for later, failed those still in history; oldest_age_seconds is how long the first due job has waited.';

-- A table never analysed is taken for 10 pages: the view's cost then looks so high that Postgres compiles it,
-- for 60 ms instead of one.
ANALYZE rowlock.queue, rowlock.lane, rowlock.total;

CREATE VIEW rowlock.job_types AS
  SELECT name, queue, launch, image, command, args, env, resources, timeout, max_retries, priority, backoff, expected,
         max_concurrency, rate, no_retry_exit_codes, payload_schema,
         jsonb_strip_nulls(jsonb_build_object('completed', keep_completed::text, 'failed', keep_failed::text)) AS keep,
         service_account, pod_template, updated_at
    FROM rowlock.job_type;
COMMENT ON VIEW rowlock.job_types IS 'The job-type catalogue.';

CREATE VIEW rowlock.workers AS
  SELECT w.id, w.name, w.identity, w.queues, w.slots,
         (SELECT coalesce(sum(l.remaining), 0) FROM rowlock.lease l WHERE l.worker = w.id)::int8 AS running,
         w.draining, w.started_at, w.heartbeat_at AS last_heartbeat, w.lease_until, w.version
    FROM rowlock.worker w WHERE w.lease_until > '-infinity';
COMMENT ON VIEW rowlock.workers IS 'Workers: name for people, id and identity for the lease.';

CREATE FUNCTION rowlock.get_job(id uuid) RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_place record := id_place(get_job.id);
BEGIN
  -- STABLE: every statement sees the caller's snapshot, in which a job is in exactly one place.
  RETURN QUERY SELECT r.id, r.type, q.name, r.payload, 'pending'::text, (~r.rank)::int2, r.attempts, r.max_retries,
      r.execute_at, r.created_at, r.execute_at, NULL::timestamptz, NULL::timestamptz, r.error, NULL::jsonb, NULL::text,
      r.unique_key, r.opts -> 'tags', r.opts -> 'headers', NULL::jsonb
    FROM (SELECT a.* FROM ready a WHERE a.queue = v_place.queue AND a.rank = v_place.rank AND a.pos = v_place.pos AND a.id = get_job.id AND NOT a.moved
          UNION ALL SELECT a.* FROM ready a WHERE a.id = get_job.id AND a.moved
          UNION ALL SELECT a.* FROM scheduled a WHERE a.id = get_job.id) r
    JOIN queue q ON q.id = r.queue;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT h.id, h.type, q.name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries,
      h.execute_at, h.created_at, h.finished_at, h.started_at, h.finished_at, h.error, h.result, h.worker,
      h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
    FROM history h JOIN queue q ON q.id = h.queue WHERE h.id = get_job.id;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY SELECT j.id, j.type, q.name, j.payload, 'running'::text, (~j.rank)::int2, j.attempts, j.max_retries,
      j.execute_at, j.created_at, l.claimed_at, l.claimed_at, NULL::timestamptz, j.error, NULL::jsonb, w.name,
      j.unique_key, j.opts -> 'tags', j.opts -> 'headers', l.progress -> j.id::text
    FROM lease l CROSS JOIN LATERAL unnest(l.jobs) j JOIN queue q ON q.id = j.queue LEFT JOIN worker w ON w.id = l.worker
   WHERE j.id = get_job.id AND j.id <> ALL (l.done);
END $$;
COMMENT ON FUNCTION rowlock.get_job IS
'One job, or no row. Finds a waiting job by the place its id names, an ended one by index; only a running one is searched for, among what runs. SQLSTATEs: none. Locks: none.';

CREATE FUNCTION rowlock.list_jobs(status text DEFAULT NULL, queue text DEFAULT NULL, type text DEFAULT NULL, max int DEFAULT 50)
RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_left int := coalesce(list_jobs.max, 50);
  v_n int;
BEGIN
  IF list_jobs.status IS NOT NULL AND list_jobs.status NOT IN ('pending', 'running', 'completed', 'failed', 'cancelled') THEN
    PERFORM refuse('RL012', format('status: expected pending, running, completed, failed or cancelled, got %s', left(list_jobs.status, 64)));
  END IF;
  IF v_left < 0 OR v_left > 10000 THEN PERFORM refuse('RL021', format('max: expected 0 to 10000, got %s', v_left)); END IF;
  IF list_jobs.status IS NULL OR list_jobs.status = 'running' THEN
    RETURN QUERY SELECT j.* FROM jobs j WHERE j.status = 'running'
       AND (list_jobs.queue IS NULL OR j.queue = list_jobs.queue) AND (list_jobs.type IS NULL OR j.type = list_jobs.type)
     ORDER BY j.started_at, j.id LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
  END IF;
  IF list_jobs.status IS NULL OR list_jobs.status = 'pending' THEN
    -- Lane by lane, each no further than the page.
    RETURN QUERY SELECT r.id, r.type, q.name, r.payload, 'pending'::text, (~r.rank)::int2, r.attempts, r.max_retries,
        r.execute_at, r.created_at, r.execute_at, NULL::timestamptz, NULL::timestamptz, r.error, NULL::jsonb, NULL::text,
        r.unique_key, r.opts -> 'tags', r.opts -> 'headers', NULL::jsonb
      FROM (SELECT DISTINCT l.queue, l.rank FROM lane l) a
      JOIN queue q ON q.id = a.queue
      CROSS JOIN LATERAL (SELECT n.* FROM ready n WHERE n.queue = a.queue AND n.rank = a.rank AND (list_jobs.type IS NULL OR n.type = list_jobs.type)
                           ORDER BY n.pos LIMIT v_left) r
     WHERE list_jobs.queue IS NULL OR q.name = list_jobs.queue
     ORDER BY a.rank, r.pos LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
    RETURN QUERY SELECT s.id, s.type, q.name, s.payload, 'pending'::text, (~s.rank)::int2, s.attempts, s.max_retries,
        s.execute_at, s.created_at, s.created_at, NULL::timestamptz, NULL::timestamptz, s.error, NULL::jsonb, NULL::text,
        s.unique_key, s.opts -> 'tags', s.opts -> 'headers', NULL::jsonb
      FROM scheduled s JOIN queue q ON q.id = s.queue
     WHERE (list_jobs.queue IS NULL OR q.name = list_jobs.queue) AND (list_jobs.type IS NULL OR s.type = list_jobs.type)
     ORDER BY s.execute_at, s.pos LIMIT v_left;
    GET DIAGNOSTICS v_n = ROW_COUNT; v_left := v_left - v_n;
  END IF;
  IF list_jobs.status IS NULL OR list_jobs.status IN ('completed', 'failed', 'cancelled') THEN
    RETURN QUERY SELECT h.id, h.type, q.name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries,
        h.execute_at, h.created_at, h.finished_at, h.started_at, h.finished_at, h.error, h.result, h.worker,
        h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
      FROM (VALUES ('completed'), ('failed'), ('cancelled')) s(status)
      CROSS JOIN LATERAL (SELECT n.* FROM history n WHERE n.status = s.status AND (list_jobs.type IS NULL OR n.type = list_jobs.type)
                             AND (list_jobs.queue IS NULL OR n.queue = (SELECT q.id FROM queue q WHERE q.name = list_jobs.queue))
                           ORDER BY n.finished_at DESC LIMIT v_left) h
      JOIN queue q ON q.id = h.queue
     WHERE list_jobs.status IS NULL OR s.status = list_jobs.status
     ORDER BY h.finished_at DESC, h.id LIMIT v_left;
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.list_jobs IS
'A page of jobs: running by start, pending in claim order (then those for later, by time), finished newest first. Reads about a page per priority in use. SQLSTATEs: RL012, RL021. Locks: none.';

CREATE FUNCTION rowlock.take_pending(id uuid) RETURNS rowlock.ready
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_place record := id_place(take_pending.id);
  v_job   rowlock.ready;
BEGIN
  DELETE FROM ready r WHERE r.queue = v_place.queue AND r.rank = v_place.rank AND r.pos = v_place.pos AND r.id = take_pending.id AND NOT r.moved
  RETURNING r.* INTO v_job;
  IF NOT FOUND THEN
    DELETE FROM ready r WHERE r.id = take_pending.id AND r.moved RETURNING r.* INTO v_job;
  END IF;
  IF FOUND THEN
    INSERT INTO tally (queue, type, pending) VALUES (v_job.queue, v_job.type, -1);
    RETURN v_job;
  END IF;
  DELETE FROM scheduled s WHERE s.id = take_pending.id RETURNING s.* INTO v_job;
  IF FOUND THEN
    INSERT INTO tally (queue, type, scheduled) VALUES (v_job.queue, v_job.type, -1);
    RETURN v_job;
  END IF;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION rowlock.take_pending IS 'Takes a pending job out of where it waits, or null. Waits for a claim of the same job. Internal.';

CREATE FUNCTION rowlock.cancel(id uuid) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_job    rowlock.ready;
  v_worker uuid;
  v_status text;
BEGIN
  IF cancel.id IS NULL THEN PERFORM refuse('RL011', 'id: expected a job''s id, got null'); END IF;
  -- Each look has a snapshot of its own: a job that moves from place to place meanwhile can be missed
  -- by one round, not by many.
  FOR round IN 1..5 LOOP
    v_job := take_pending(cancel.id);
    IF v_job.id IS NOT NULL THEN
      PERFORM end_job(v_job, 'cancelled', NULL, NULL, v_job.error, 'cancelled');
      RETURN 'cancelled';
    END IF;
    SELECT l.worker INTO v_worker FROM lease l
     WHERE cancel.id <> ALL (l.done) AND EXISTS (SELECT FROM unnest(l.jobs) j WHERE j.id = cancel.id) FOR UPDATE;
    IF FOUND THEN
      INSERT INTO cancel_request (job, worker) VALUES (cancel.id, v_worker)
        ON CONFLICT (job) DO UPDATE SET worker = excluded.worker;
      RETURN 'running';
    END IF;
    SELECT h.status INTO v_status FROM history h WHERE h.id = cancel.id;
    IF FOUND THEN RETURN v_status; END IF;
  END LOOP;
  RETURN refuse('RL011', format('id: no job %s', cancel.id));
END $$;
COMMENT ON FUNCTION rowlock.cancel IS
'Cancels a job and answers its status now: cancelled; running, when its worker has been asked to stop it (it is cancelled as soon as the worker gives it up, and completed if it was quicker); or the one it had already ended in.
SQLSTATEs: RL011 no such job. Locks: the job''s row; waits for a claim of it.';

CREATE FUNCTION rowlock.retry(id uuid, delay_seconds float8 DEFAULT 0) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_job rowlock.ready;
  v_old record;
BEGIN
  IF retry.id IS NULL THEN PERFORM refuse('RL011', 'id: expected a job''s id, got null'); END IF;
  IF delay_seconds IS NULL OR NOT delay_seconds BETWEEN 0 AND 315360000 THEN
    PERFORM refuse('RL010', format('delay_seconds: expected a finite number from 0 to 315360000 (10 years), got %s', coalesce(delay_seconds::text, 'null')));
  END IF;
  v_job := take_pending(retry.id);
  IF v_job.id IS NULL THEN
    DELETE FROM history h WHERE h.id = retry.id AND h.status IN ('failed', 'cancelled') RETURNING h.* INTO v_old;
    IF NOT FOUND THEN
      SELECT j.status INTO v_old FROM get_job(retry.id) j;
      IF NOT FOUND THEN PERFORM refuse('RL011', format('id: no job %s', retry.id)); END IF;
      PERFORM refuse('RL012', format('id: job %s is %s; only a pending, failed or cancelled job can be retried', retry.id, v_old.status),
        CASE v_old.status WHEN 'completed' THEN 'Enqueue a new job instead.' ELSE 'Cancel it first, or wait for its end.' END);
    END IF;
    IF v_old.unique_key IS NOT NULL THEN
      INSERT INTO unique_key (key, job) VALUES (v_old.unique_key, retry.id) ON CONFLICT DO NOTHING;
      IF NOT FOUND THEN
        PERFORM refuse('RL012', format('id: another job now holds the unique key of job %s', retry.id), 'Wait for that job''s end.');
      END IF;
    END IF;
    v_job.id := v_old.id; v_job.created_at := v_old.created_at; v_job.execute_at := v_old.execute_at;
    v_job.queue := v_old.queue; v_job.rank := v_old.rank; v_job.attempts := v_old.attempts; v_job.max_retries := v_old.max_retries;
    v_job.type := v_old.type; v_job.payload := v_old.payload; v_job.unique_key := v_old.unique_key;
    v_job.opts := v_old.opts; v_job.error := v_old.error; v_job.crashes := 0; v_job.moved := true;
    v_job.pos := nextval('rowlock.position');
    INSERT INTO tally (queue, type, retried, failed_kept, reason) VALUES (v_job.queue, v_job.type, 1, -(v_old.status = 'failed')::int, 'requested');
  END IF;
  PERFORM put_back(v_job, make_interval(secs => delay_seconds));
  RETURN 'pending';
END $$;
COMMENT ON FUNCTION rowlock.retry IS
'Makes a failed or cancelled job pending again, now or after a delay; a pending one moves to that time. attempts stay, so one that had used up its retries gets one more run. Answers pending.
SQLSTATEs: RL010 delay_seconds, RL011 no such job, RL012 its status does not allow it or its unique key is taken. Locks: the job''s row, its key.';

CREATE FUNCTION rowlock.pause_queue(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
DECLARE
  v_id int4 := ensure_queue(pause_queue.queue);
BEGIN
  UPDATE queue q SET paused = true WHERE q.id = v_id;
END $$;
COMMENT ON FUNCTION rowlock.pause_queue IS
'No job of the queue is claimed until resume_queue; running ones go on, new ones may come. Makes the queue if it is new. SQLSTATEs: RL003. Locks: the queue''s row.';

CREATE FUNCTION rowlock.resume_queue(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
DECLARE
  v_id int4 := ensure_queue(resume_queue.queue);
BEGIN
  UPDATE queue q SET paused = false WHERE q.id = v_id;
  PERFORM pg_notify('rowlock', v_id::text) WHERE EXISTS (SELECT FROM sleeper s WHERE s.queue = v_id);
END $$;
COMMENT ON FUNCTION rowlock.resume_queue IS 'Ends pause_queue. SQLSTATEs: RL003. Locks: the queue''s row.';

CREATE FUNCTION rowlock.configure_queue(queue text, priority int DEFAULT NULL, max_retries int DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_fault text := job_fault('{}', configure_queue.priority, configure_queue.max_retries, NULL, NULL, now());
  v_id int4;
BEGIN
  IF v_fault IS NOT NULL THEN PERFORM refuse(left(v_fault, 5), substr(v_fault, 6)); END IF;
  v_id := ensure_queue(configure_queue.queue);
  UPDATE queue q SET priority = configure_queue.priority, max_retries = configure_queue.max_retries
   WHERE q.id = v_id;
END $$;
COMMENT ON FUNCTION rowlock.configure_queue IS
'Sets a queue''s defaults, null for none. SQLSTATEs: RL003, RL004, RL005. Locks: the queue''s row.';

CREATE FUNCTION rowlock.put_job_type(type jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_fault text := name_fault(type ->> 'name');
  v rowlock.job_type;
BEGIN
  IF v_fault IS NOT NULL THEN PERFORM refuse('RL001', 'name: ' || v_fault); END IF;
  IF type ->> 'queue' IS NOT NULL THEN PERFORM ensure_queue(type ->> 'queue'); END IF;
  v_fault := job_fault('{}', (type ->> 'priority')::int4, (type ->> 'max_retries')::int4, NULL, NULL, now());
  IF v_fault IS NOT NULL THEN PERFORM refuse(left(v_fault, 5), substr(v_fault, 6)); END IF;
  v := jsonb_populate_record(NULL::rowlock.job_type,
    '{"launch": "process", "command": [], "args": [], "env": {}, "no_retry_exit_codes": []}' || jsonb_strip_nulls(type)
    || jsonb_build_object('updated_at', clock_timestamp()));
  IF v.keep_completed > interval '366 days' OR v.keep_failed > interval '366 days' THEN
    PERFORM refuse('RL021', 'keep: expected at most 366 days');
  END IF;
  DELETE FROM job_type t WHERE t.name = v.name;
  INSERT INTO job_type SELECT v.*;
END $$;
COMMENT ON FUNCTION rowlock.put_job_type IS
'Adds or replaces a job type; the keys are the columns of the table job_type. rowlock types apply checks a file and calls this.
SQLSTATEs: RL001, RL003 to RL005, RL021, and Postgres''s own for a value of the wrong kind. Locks: the type''s row.';

CREATE FUNCTION rowlock.demand() RETURNS TABLE (queue text, type text, pending int8, scheduled int8, running int8,
  enqueued int8, completed int8, failed int8, cancelled int8, retried int8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT q.name, c.type, sum(c.pending)::int8, sum(c.scheduled)::int8, sum(c.running)::int8, sum(c.enqueued)::int8,
         sum(c.completed)::int8, sum(c.failed)::int8, sum(c.cancelled)::int8, sum(c.retried)::int8
    FROM (SELECT queue, type, pending, scheduled, running, enqueued, completed, failed, cancelled, retried FROM total
          UNION ALL SELECT queue, type, pending, scheduled, running, enqueued, completed, failed, cancelled, retried FROM tally) c
    JOIN queue q ON q.id = c.queue
   GROUP BY q.name, c.type
$$;
COMMENT ON FUNCTION rowlock.demand IS
'Depth and totals by queue and type, from running totals: it counts nothing. SQLSTATEs: none. Locks: none.';
