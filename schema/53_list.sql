-- Pages of jobs. A page goes on after a job: that job's place in the order is looked up, so that each page costs about
-- a page, however deep it lies.

CREATE OR REPLACE FUNCTION rowlock.list_place(after uuid, status text, OUT section int, OUT rank int2, OUT pos int8,
  OUT at timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_place record := id_place(list_place.after);
BEGIN
  SELECT 2, a.rank, a.pos INTO section, rank, pos FROM (
    SELECT r.rank, r.pos FROM ready r WHERE r.queue = v_place.queue AND r.rank = v_place.rank AND r.pos = v_place.pos
       AND r.id = list_place.after AND NOT r.moved
    UNION ALL SELECT r.rank, r.pos FROM ready r WHERE r.id = list_place.after AND r.moved) a;
  IF section IS NULL THEN
    SELECT 3, s.pos, s.execute_at INTO section, pos, at FROM scheduled s WHERE s.id = list_place.after;
  END IF;
  IF section IS NULL THEN
    SELECT 4, h.finished_at INTO section, at FROM history h WHERE h.id = list_place.after;
  END IF;
  IF section IS NULL THEN
    SELECT 1, l.claimed_at INTO section, at FROM lease l CROSS JOIN LATERAL unnest(l.jobs) j
     WHERE j.id = list_place.after AND j.id <> ALL (l.done);
  END IF;
  IF section IS NULL THEN
    PERFORM refuse('RL011', format('after: there is no job %s', list_place.after));
  ELSIF section <> ALL (CASE list_place.status WHEN 'running' THEN '{1}' WHEN 'pending' THEN '{2,3}'
                          ELSE '{1,2,3,4}' END::int[]) THEN
    PERFORM refuse('RL012', format('after: job %s is not %s any more', list_place.after, list_place.status),
      'List again from the start, or read all pages in one transaction of isolation level REPEATABLE READ.');
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.list_place IS
'Where a page that follows a job begins. section is 1 for running, 2 for due, 3 for later, 4 for ended jobs. Internal.';

CREATE OR REPLACE FUNCTION rowlock.list_running(queue_ids int4[], type text, max int, at timestamptz, after uuid)
RETURNS SETOF rowlock.jobs
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT j.* FROM lease l CROSS JOIN LATERAL unnest(l.jobs) t JOIN queue q ON q.id = t.queue
    LEFT JOIN worker w ON w.id = l.worker
    CROSS JOIN LATERAL running_job(t, q.name, w.name, l.claimed_at, l.progress) j
   WHERE t.id <> ALL (l.done) AND (queue_ids = '{}' OR t.queue = ANY (queue_ids))
     AND (list_running.type IS NULL OR t.type = list_running.type)
     AND (at IS NULL OR (l.claimed_at, t.id) > (at, after))
   ORDER BY l.claimed_at, t.id LIMIT max
$$;
COMMENT ON FUNCTION rowlock.list_running IS 'Running jobs by start. Internal.';

CREATE OR REPLACE FUNCTION rowlock.list_ready(queue_ids int4[], type text, max int, after_rank int2, after_pos int8)
RETURNS SETOF rowlock.jobs
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  -- Lane by lane, each no further than the page.
  SELECT j.* FROM (
      SELECT DISTINCT l.queue, l.rank FROM lane l
       WHERE (queue_ids = '{}' OR l.queue = ANY (queue_ids)) AND l.rank >= coalesce(after_rank, -32768)) a
    JOIN queue q ON q.id = a.queue
    CROSS JOIN LATERAL (
      SELECT n AS job, n.pos FROM ready n
       WHERE n.queue = a.queue AND n.rank = a.rank AND n.pos > CASE WHEN a.rank = after_rank THEN after_pos ELSE -1 END
         AND (list_ready.type IS NULL OR n.type = list_ready.type)
       ORDER BY n.pos LIMIT max) r
    CROSS JOIN LATERAL ready_job(r.job, q.name) j
   ORDER BY a.rank, r.pos LIMIT max
$$;
COMMENT ON FUNCTION rowlock.list_ready IS 'Due jobs in the order of claim. Internal.';

CREATE OR REPLACE FUNCTION rowlock.list_scheduled(queue_ids int4[], type text, max int, at timestamptz, after_pos int8)
RETURNS SETOF rowlock.jobs
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT j.* FROM scheduled s JOIN queue q ON q.id = s.queue CROSS JOIN LATERAL scheduled_job(s, q.name) j
   WHERE (queue_ids = '{}' OR s.queue = ANY (queue_ids))
     AND (list_scheduled.type IS NULL OR s.type = list_scheduled.type)
     AND (s.execute_at, s.pos) > (coalesce(at, '-infinity'), coalesce(after_pos, -1))
   ORDER BY s.execute_at, s.pos LIMIT max
$$;
COMMENT ON FUNCTION rowlock.list_scheduled IS 'Jobs for later by their time. Internal.';

CREATE OR REPLACE FUNCTION rowlock.list_ended(status text, queue_ids int4[], type text, max int, at timestamptz,
  after uuid)
RETURNS SETOF rowlock.jobs
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT j.* FROM unnest('{completed, failed, cancelled}'::text[]) s(status)
    CROSS JOIN LATERAL (
      SELECT n AS job, n.queue FROM history n
       WHERE n.status = s.status AND (list_ended.type IS NULL OR n.type = list_ended.type)
         AND (queue_ids = '{}' OR n.queue = ANY (queue_ids))
         AND n.finished_at <= coalesce(at, 'infinity') AND (at IS NULL OR n.finished_at < at OR n.id > after)
       ORDER BY n.finished_at DESC, n.id LIMIT max) h
    JOIN queue q ON q.id = h.queue
    CROSS JOIN LATERAL ended_job(h.job, q.name) j
   WHERE list_ended.status IS NULL OR s.status = list_ended.status
   ORDER BY j.finished_at DESC, j.id LIMIT max
$$;
COMMENT ON FUNCTION rowlock.list_ended IS 'Ended jobs, newest first. Internal.';

CREATE OR REPLACE FUNCTION rowlock.list_jobs(status text DEFAULT NULL, queue text DEFAULT NULL,
  type text DEFAULT NULL, max int DEFAULT 50, after uuid DEFAULT NULL)
RETURNS SETOF rowlock.jobs
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_variable
DECLARE
  v_left    int := coalesce(max, 50);
  v_queues  int4[] := ARRAY(SELECT q.id FROM queue q WHERE q.name = queue);
  v_first   int;  -- where the page begins: the section, and the place in it
  v_rank    int2;
  v_pos     int8;
  v_at      timestamptz;
  v_section int;
  v_job     rowlock.jobs;
  v_hidden  text[] := hidden_columns();
BEGIN
  IF status NOT IN ('pending', 'running', 'completed', 'failed', 'cancelled') THEN
    PERFORM refuse('RL012', format('status: expected pending, running, completed, failed or cancelled, got %s',
      left(status, 64)));
  END IF;
  IF v_left < 0 OR v_left > 10000 THEN
    PERFORM refuse('RL021', format('max: expected 0 to 10000, got %s', v_left));
  END IF;
  IF queue IS NOT NULL AND v_queues = '{}' THEN RETURN; END IF;
  IF after IS NOT NULL THEN
    SELECT p.section, p.rank, p.pos, p.at INTO v_first, v_rank, v_pos, v_at FROM list_place(after, status) p;
  END IF;
  FOREACH v_section IN ARRAY CASE WHEN status IS NULL THEN '{1,2,3,4}' WHEN status = 'running' THEN '{1}'
                                  WHEN status = 'pending' THEN '{2,3}' ELSE '{4}' END::int[]
  LOOP
    CONTINUE WHEN v_section < v_first;
    IF v_section > v_first THEN v_rank := NULL; v_pos := NULL; v_at := NULL; END IF;
    FOR v_job IN
      SELECT * FROM list_running(v_queues, type, v_left, v_at, after) WHERE v_section = 1
      UNION ALL SELECT * FROM list_ready(v_queues, type, v_left, v_rank, v_pos) WHERE v_section = 2
      UNION ALL SELECT * FROM list_scheduled(v_queues, type, v_left, v_at, v_pos) WHERE v_section = 3
      UNION ALL SELECT * FROM list_ended(status, v_queues, type, v_left, v_at, after) WHERE v_section = 4
    LOOP
      RETURN NEXT hide(v_job, v_hidden);
      v_left := v_left - 1;
    END LOOP;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.list_jobs IS
'A page of jobs: running by start, pending in the order of claim (then those for later, by time), ended newest first.
after is the last job of the page before. Reads about a page per priority in use. Columns that the caller may not read
in view jobs are null. SQLSTATEs: RL011 and RL012 (after: no such job, or one that has left the list), RL012 (status),
RL021. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.counts() RETURNS TABLE (status text, jobs int8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT s.status, coalesce(s.jobs, 0)::int8
    FROM (SELECT sum(c.pending) + sum(c.scheduled) AS pending, sum(c.running) AS running, sum(c.completed) AS completed,
                 sum(c.failed) AS failed, sum(c.cancelled) AS cancelled
            FROM (SELECT pending, scheduled, running, completed, failed, cancelled FROM total
                  UNION ALL SELECT pending, scheduled, running, completed, failed, cancelled FROM tally) c) t
   CROSS JOIN LATERAL (VALUES (1, 'pending', t.pending), (2, 'running', t.running), (3, 'completed', t.completed),
                              (4, 'failed', t.failed), (5, 'cancelled', t.cancelled)) s(ord, status, jobs)
   ORDER BY s.ord
$$;
COMMENT ON FUNCTION rowlock.counts IS
'How many jobs there are by status, from running totals: it counts nothing. Jobs that ended are counted since the
installation, also those that history has forgotten. SQLSTATEs: none. Locks: none.';
