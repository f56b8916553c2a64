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

-- Which types are told apart, in demand and in metrics -----------------------------------------

CREATE OR REPLACE FUNCTION rowlock.label_room(room text) RETURNS int8
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT GREATEST(CASE label_room.room WHEN 'catalogue' THEN 1000 WHEN 'reason' THEN 50 ELSE 100 END
    - (SELECT count(*) FROM label l WHERE l.room = label_room.room), 0)
$$;
COMMENT ON FUNCTION rowlock.label_room IS
'How many more names get a label of their own: 1000 types of the catalogue, 100 worked ones (a job of them completed, so
a worker knows them), 100 guests (all other types, as they come: an enqueuer may invent them), 50 reasons. Internal.';

CREATE OR REPLACE FUNCTION rowlock.labels_due(types text[], worked boolean[], reasons text[])
RETURNS TABLE (kind text, name text, room text)
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp
  SET jit = off SET enable_seqscan = on SET enable_nestloop = off AS $$
  SELECT f.kind, f.name, f.room
    FROM (SELECT n.kind, n.name, n.room, r.free,
                 row_number() OVER (PARTITION BY n.room ORDER BY n.name COLLATE "C") AS place
            FROM (SELECT 'type' AS kind, u.name,
                         CASE WHEN t.name IS NOT NULL THEN 'catalogue' WHEN u.worked THEN 'worked'
                              ELSE 'guest' END AS room
                    FROM unnest(types, worked) u(name, worked) LEFT JOIN job_type t ON t.name = u.name
                  UNION ALL SELECT 'reason', u.name, 'reason' FROM unnest(reasons) u(name)) n
            JOIN (SELECT o.room, label_room(o.room) AS free
                    FROM unnest('{catalogue, worked, guest, reason}'::text[]) o(room) OFFSET 0) r
              ON r.room = n.room AND r.free > 0
           WHERE NOT EXISTS (SELECT FROM label l WHERE l.kind = n.kind AND l.name = n.name)) f
   WHERE f.place <= f.free
$$;
COMMENT ON FUNCTION rowlock.labels_due IS
'Which of these types and reasons, each given once, get a label of their own now. Internal.';

CREATE OR REPLACE FUNCTION rowlock.due_types() RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp
  SET jit = off SET enable_seqscan = on SET enable_nestloop = off AS $$
  SELECT coalesce(array_agg(d.name), '{}')
    FROM (SELECT array_agg(c.type) AS types, array_agg(c.worked) AS worked
            FROM (SELECT y.type, bool_or(y.completed > 0) AS worked FROM tally y GROUP BY y.type) c) a
    CROSS JOIN LATERAL labels_due(a.types, a.worked, NULL) d
$$;
COMMENT ON FUNCTION rowlock.due_types IS
'The types that get a label with the next fold: whoever reads before it shows them alike. Internal.';

CREATE OR REPLACE FUNCTION rowlock.demand() RETURNS TABLE (queue text, type text, pending int8, scheduled int8,
  running int8, enqueued int8, completed int8, failed int8, cancelled int8, retried int8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET jit = off SET enable_seqscan = on SET enable_nestloop = off AS $$
  SELECT q.name, coalesce(n.type, 'other'), sum(c.pending)::int8, sum(c.scheduled)::int8, sum(c.running)::int8,
         sum(c.enqueued)::int8, sum(c.completed)::int8, sum(c.failed)::int8, sum(c.cancelled)::int8,
         sum(c.retried)::int8
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
