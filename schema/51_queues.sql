-- Queues: their depth, and whether they are worked. All rows of a name are one queue.

CREATE OR REPLACE VIEW rowlock.queues AS
  SELECT q.name AS queue, bool_or(q.paused) AS paused, coalesce(sum(t.pending), 0)::int8 AS pending,
         coalesce(sum(t.scheduled), 0)::int8 AS scheduled, coalesce(sum(t.running), 0)::int8 AS running,
         coalesce(sum(t.failed), 0)::int8 AS failed,
         coalesce(extract(epoch FROM clock_timestamp() - min(o.oldest))::float8, 0) AS oldest_age_seconds
    FROM rowlock.queue q
    LEFT JOIN (SELECT c.queue, sum(c.pending)::int8 AS pending, sum(c.scheduled)::int8 AS scheduled,
                      sum(c.running)::int8 AS running, sum(c.failed_kept)::int8 AS failed
                 FROM (SELECT queue, pending, scheduled, running, failed_kept FROM rowlock.total
                       UNION ALL SELECT queue, pending, scheduled, running, failed_kept FROM rowlock.tally) c
                GROUP BY c.queue) t ON t.queue = q.id
    LEFT JOIN LATERAL (
      SELECT min(f.due) AS oldest FROM rowlock.lane l
        CROSS JOIN LATERAL (
          SELECT rowlock.due_at(r.execute_at, r.created_at) AS due FROM rowlock.ready r
           WHERE r.queue = l.queue AND r.rank = l.rank ORDER BY r.pos LIMIT 1) f
       WHERE l.queue = q.id) o ON true
   GROUP BY q.name;
COMMENT ON VIEW rowlock.queues IS
'Queues and their depth, from running totals and one probe per priority in use: it counts nothing. pending are due
jobs, scheduled those for later, failed those still in history; oldest_age_seconds is how long the first due job has
waited.';

CREATE OR REPLACE FUNCTION rowlock.demand() RETURNS TABLE (queue text, type text, pending int8, scheduled int8,
  running int8, enqueued int8, completed int8, failed int8, cancelled int8, retried int8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT q.name, coalesce(n.type, 'other'), sum(c.pending)::int8, sum(c.scheduled)::int8, sum(c.running)::int8,
         sum(c.enqueued)::int8,
         sum(c.completed)::int8, sum(c.failed)::int8, sum(c.cancelled)::int8, sum(c.retried)::int8
    FROM (SELECT queue, type, pending, scheduled, running, enqueued, completed, failed, cancelled, retried FROM total
          UNION ALL
          SELECT queue, type, pending, scheduled, running, enqueued, completed, failed, cancelled, retried FROM tally) c
    JOIN queue q ON q.id = c.queue
    LEFT JOIN (SELECT l.name FROM label l WHERE l.kind = 'type' UNION SELECT unnest(due_types())) n(type)
      ON n.type = c.type
   GROUP BY q.name, coalesce(n.type, 'other')
$$;
COMMENT ON FUNCTION rowlock.demand IS
'Depth and totals by queue and type, from running totals: it counts nothing. Types without a label of their own in
metrics are other. SQLSTATEs: none. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.pause_queue(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  PERFORM ensure_queue(pause_queue.queue);
  UPDATE queue q SET paused = true WHERE q.name = pause_queue.queue;
END $$;
COMMENT ON FUNCTION rowlock.pause_queue IS
'No job of the queue is claimed until resume_queue; running ones go on, new ones may come. Makes the queue if it is new.
SQLSTATEs: RL003. Locks: the queue''s row.';

CREATE OR REPLACE FUNCTION rowlock.resume_queue(queue text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  PERFORM ensure_queue(resume_queue.queue);
  UPDATE queue q SET paused = false WHERE q.name = resume_queue.queue;
  -- How many jobs wait is not counted here; those who find none sleep on.
  PERFORM wake(resume_queue.queue, 100);
END $$;
COMMENT ON FUNCTION rowlock.resume_queue IS 'Ends pause_queue. SQLSTATEs: RL003. Locks: the queue''s row.';

CREATE OR REPLACE FUNCTION rowlock.configure_queue(queue text, priority int DEFAULT NULL, max_retries int DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_problem text := job_problem('{}', configure_queue.priority, configure_queue.max_retries, NULL, NULL, now());
BEGIN
  IF v_problem IS NOT NULL THEN PERFORM refuse(left(v_problem, 5), substr(v_problem, 6)); END IF;
  PERFORM ensure_queue(configure_queue.queue);
  UPDATE queue q SET priority = configure_queue.priority, max_retries = configure_queue.max_retries
   WHERE q.name = configure_queue.queue;
END $$;
COMMENT ON FUNCTION rowlock.configure_queue IS
'Sets a queue''s defaults, null for none. SQLSTATEs: RL003, RL004, RL005. Locks: the queue''s row.';
