-- Looking at jobs. A job's row, in the columns people see, is made by one function for each place a job can be in. The
-- planner makes them a part of the query that uses them, as long as they have no SET clause, are not SECURITY DEFINER
-- and are no more than STABLE. They read no table: in a view a function acts as the view's reader, who may read none.
-- Whoever adds a column adds it to each, under a new name, and at the end of view jobs.

CREATE OR REPLACE FUNCTION rowlock.ready_job(r rowlock.ready, queue_name text)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT r.id, r.type, queue_name, r.payload, 'pending'::text, (~r.rank)::int2, r.attempts, r.max_retries, r.execute_at,
         r.created_at, r.execute_at, NULL::timestamptz, NULL::timestamptz, r.error, NULL::jsonb, NULL::text,
         r.unique_key, r.opts -> 'tags', r.opts -> 'headers', NULL::jsonb
$$;
COMMENT ON FUNCTION rowlock.ready_job IS 'The row of a job that is due. Internal.';

CREATE OR REPLACE FUNCTION rowlock.scheduled_job(s rowlock.scheduled, queue_name text)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT s.id, s.type, queue_name, s.payload, 'pending'::text, (~s.rank)::int2, s.attempts, s.max_retries, s.execute_at,
         s.created_at, s.created_at, NULL::timestamptz, NULL::timestamptz, s.error, NULL::jsonb, NULL::text,
         s.unique_key, s.opts -> 'tags', s.opts -> 'headers', NULL::jsonb
$$;
COMMENT ON FUNCTION rowlock.scheduled_job IS 'The row of a job for later. Internal.';

CREATE OR REPLACE FUNCTION rowlock.running_job(j rowlock.ready, queue_name text, worker_name text,
  claimed_at timestamptz, all_progress jsonb)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT j.id, j.type, queue_name, j.payload, 'running'::text, (~j.rank)::int2, j.attempts, j.max_retries, j.execute_at,
         j.created_at, claimed_at, claimed_at, NULL::timestamptz, j.error, NULL::jsonb, worker_name,
         j.unique_key, j.opts -> 'tags', j.opts -> 'headers', all_progress -> j.id::text
$$;
COMMENT ON FUNCTION rowlock.running_job IS 'The row of a job in a receipt. Internal.';

CREATE OR REPLACE FUNCTION rowlock.ended_job(h rowlock.history, queue_name text)
RETURNS TABLE (id uuid, type text, queue text, payload jsonb, status text, priority int2, attempts int2,
  max_retries int2, execute_at timestamptz, created_at timestamptz, updated_at timestamptz, started_at timestamptz,
  finished_at timestamptz, error text, result jsonb, worker text, unique_key text, tags jsonb, headers jsonb,
  progress jsonb)
LANGUAGE sql STABLE AS $$
  SELECT h.id, h.type, queue_name, h.payload, h.status, (~h.rank)::int2, h.attempts, h.max_retries, h.execute_at,
         h.created_at, h.finished_at, h.started_at, h.finished_at, h.error, h.result, h.worker,
         h.unique_key, h.opts -> 'tags', h.opts -> 'headers', h.progress
$$;
COMMENT ON FUNCTION rowlock.ended_job IS 'The row of a job that has ended. Internal.';

-- A branch's status is a constant, so a filter on status leaves the other branches unread.
CREATE OR REPLACE VIEW rowlock.jobs AS
  SELECT j.* FROM rowlock.ready r JOIN rowlock.queue q ON q.id = r.queue
    CROSS JOIN LATERAL rowlock.ready_job(r, q.name) j
  UNION ALL
  SELECT j.* FROM rowlock.scheduled s JOIN rowlock.queue q ON q.id = s.queue
    CROSS JOIN LATERAL rowlock.scheduled_job(s, q.name) j
  UNION ALL
  SELECT j.* FROM rowlock.lease l CROSS JOIN LATERAL unnest(l.jobs) t JOIN rowlock.queue q ON q.id = t.queue
    LEFT JOIN rowlock.worker w ON w.id = l.worker
    CROSS JOIN LATERAL rowlock.running_job(t, q.name, w.name, l.claimed_at, l.progress) j
   WHERE t.id <> ALL (l.done)
  UNION ALL
  SELECT j.* FROM rowlock.history h JOIN rowlock.queue q ON q.id = h.queue
    CROSS JOIN LATERAL rowlock.ended_job(h, q.name) j;
COMMENT ON VIEW rowlock.jobs IS
'All jobs. For one job use rowlock.get_job(id), for a page of them rowlock.list_jobs: both stay fast at any depth; this
view reads what it is asked to.';

CREATE OR REPLACE FUNCTION rowlock.hidden_columns() RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  -- A function that runs as its owner asks for its caller: the role that was set, or the one that logged in.
  SELECT ARRAY(SELECT c FROM unnest('{payload, result, headers, progress}'::text[]) c
                WHERE NOT has_column_privilege(r.caller, 'rowlock.jobs', c, 'SELECT'))
    FROM (SELECT CASE current_setting('role') WHEN 'none' THEN session_user
                 ELSE current_setting('role')::name END) r(caller)
$$;
COMMENT ON FUNCTION rowlock.hidden_columns IS
'The columns of view jobs that the caller may not read, of those that carry what a job carries. Internal.';

CREATE OR REPLACE FUNCTION rowlock.hide(job rowlock.jobs, columns text[]) RETURNS rowlock.jobs
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  IF columns = '{}' THEN RETURN job; END IF;
  IF 'payload' = ANY (columns) THEN job.payload := NULL; END IF;
  IF 'result' = ANY (columns) THEN job.result := NULL; END IF;
  IF 'headers' = ANY (columns) THEN job.headers := NULL; END IF;
  IF 'progress' = ANY (columns) THEN job.progress := NULL; END IF;
  RETURN job;
END $$;
COMMENT ON FUNCTION rowlock.hide IS 'A job without these columns. Internal.';

CREATE OR REPLACE FUNCTION rowlock.find_job(id uuid) RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE ROWS 1 SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_place record := id_place(find_job.id);
BEGIN
  -- STABLE: every statement sees the caller's snapshot, in which a job is in exactly one place.
  RETURN QUERY
  SELECT j.* FROM ready a JOIN queue q ON q.id = a.queue CROSS JOIN LATERAL ready_job(a, q.name) j
   WHERE a.queue = v_place.queue AND a.rank = v_place.rank AND a.pos = v_place.pos AND a.id = find_job.id
     AND NOT a.moved
  UNION ALL
  SELECT j.* FROM ready a JOIN queue q ON q.id = a.queue CROSS JOIN LATERAL ready_job(a, q.name) j
   WHERE a.id = find_job.id AND a.moved
  UNION ALL
  SELECT j.* FROM scheduled a JOIN queue q ON q.id = a.queue CROSS JOIN LATERAL scheduled_job(a, q.name) j
   WHERE a.id = find_job.id;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY
  SELECT j.* FROM history h JOIN queue q ON q.id = h.queue CROSS JOIN LATERAL ended_job(h, q.name) j
   WHERE h.id = find_job.id;
  IF FOUND THEN RETURN; END IF;
  RETURN QUERY
  SELECT j.* FROM lease l CROSS JOIN LATERAL unnest(l.jobs) t JOIN queue q ON q.id = t.queue
    LEFT JOIN worker w ON w.id = l.worker
    CROSS JOIN LATERAL running_job(t, q.name, w.name, l.claimed_at, l.progress) j
   WHERE t.id = find_job.id AND t.id <> ALL (l.done);
END $$;
COMMENT ON FUNCTION rowlock.find_job IS
'One job, or no row. Finds a waiting job by the place its id names, an ended one by index; only a running one is
searched for, among what runs. Internal.';

CREATE OR REPLACE FUNCTION rowlock.get_job(id uuid) RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  v_job rowlock.jobs;
BEGIN
  SELECT * INTO v_job FROM find_job(id);
  IF FOUND THEN RETURN NEXT hide(v_job, hidden_columns()); END IF;
END $$;
COMMENT ON FUNCTION rowlock.get_job IS
'One job, or no row. Columns that the caller may not read in view jobs are null. SQLSTATEs: none. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.job_status(id uuid)
RETURNS TABLE (status text, attempts int2, finished_at timestamptz, result jsonb)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY SELECT j.status, j.attempts, j.finished_at, j.result FROM find_job(job_status.id) j;
END $$;
COMMENT ON FUNCTION rowlock.job_status IS
'How a job is, for whoever knows its id: one row, or none for a job that is unknown or forgotten. SQLSTATEs: none.
Locks: none.';
