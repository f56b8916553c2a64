-- What is exported. Totals live here, not in a process: they go on over restarts, changes of the leader and
-- times without any worker. Transitions write lines of the tally; fold adds them up.

CREATE OR REPLACE FUNCTION rowlock.oldest_transaction() RETURNS float8
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(extract(epoch FROM clock_timestamp() - min(o.began))::float8, 0)
    FROM (SELECT a.xact_start AS began FROM pg_stat_activity a
           WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
          UNION ALL SELECT p.prepared FROM pg_prepared_xacts p WHERE p.database = current_database()) o
  HAVING pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
$$;
COMMENT ON FUNCTION rowlock.oldest_transaction IS
'Seconds since the oldest open transaction of this database began. Null where the schema''s owner may not see others''
transactions: GRANT pg_read_all_stats to it. Internal.';

CREATE OR REPLACE FUNCTION rowlock.metrics_jobs()
RETURNS TABLE (what text, queue text, type text, label text, value float8)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_nestloop = off AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  WITH t AS MATERIALIZED (
    SELECT y.queue, y.type, y.reason, y.wait, y.run, sum(y.pending)::int8 AS pending,
           sum(y.scheduled)::int8 AS scheduled, sum(y.running)::int8 AS running, sum(y.enqueued)::int8 AS enqueued,
           sum(y.completed)::int8 AS completed, sum(y.failed)::int8 AS failed, sum(y.retried)::int8 AS retried,
           sum(y.failed_kept)::int8 AS failed_kept, sum(y.seconds) AS seconds
      FROM tally y GROUP BY y.queue, y.type, y.reason, y.wait, y.run),
  -- As fold will name them, so that what is shown before it is shown alike after it.
  named AS MATERIALIZED (
    SELECT l.kind, l.name FROM label l
    UNION ALL
    SELECT d.kind, d.name
      FROM (SELECT array_agg(c.type) AS types, array_agg(c.worked) AS worked
              FROM (SELECT t.type, bool_or(t.completed > 0) AS worked FROM t GROUP BY t.type) c) a
     CROSS JOIN LATERAL labels_due(a.types, a.worked,
       ARRAY(SELECT DISTINCT t.reason FROM t WHERE t.reason IS NOT NULL)) d),
  counts AS MATERIALIZED (
    SELECT q.name AS queue, coalesce(n.name, 'other') AS type, sum(c.pending + c.scheduled)::float8 AS pending,
           sum(c.running)::float8 AS running, sum(c.enqueued)::float8 AS enqueued,
           sum(c.completed)::float8 AS completed, sum(c.failed_kept)::float8 AS failed_kept
      FROM (SELECT queue, type, pending, scheduled, running, enqueued, completed, failed_kept FROM total
            UNION ALL SELECT queue, type, pending, scheduled, running, enqueued, completed, failed_kept FROM t) c
      JOIN queue q ON q.id = c.queue LEFT JOIN named n ON n.kind = 'type' AND n.name = c.type
     GROUP BY 1, 2),
  reasons AS (
    SELECT q.name AS queue, coalesce(n.name, 'other') AS type, coalesce(r.name, 'other') AS reason,
           sum(c.failed)::float8 AS failed, sum(c.retried)::float8 AS retried
      FROM (SELECT queue, type, reason, failed, retried FROM total_reason
            UNION ALL SELECT queue, type, reason, failed, retried FROM t WHERE reason IS NOT NULL) c
      JOIN queue q ON q.id = c.queue LEFT JOIN named n ON n.kind = 'type' AND n.name = c.type
      LEFT JOIN named r ON r.kind = 'reason' AND r.name = c.reason
     GROUP BY 1, 2, 3),
  times AS MATERIALIZED (
    SELECT q.name AS queue, coalesce(n.name, 'other') AS type, c.what, c.bucket, sum(c.jobs)::float8 AS jobs,
           sum(c.seconds) AS seconds
      FROM (SELECT queue, type, what, bucket, jobs, seconds FROM total_time
            UNION ALL SELECT queue, type, 'wait', wait, running, seconds FROM t WHERE wait IS NOT NULL
            UNION ALL SELECT queue, type, 'run', run, -running, seconds FROM t WHERE run IS NOT NULL) c
      JOIN queue q ON q.id = c.queue LEFT JOIN named n ON n.kind = 'type' AND n.name = c.type
     GROUP BY 1, 2, 3, 4)
  SELECT v.what, c.queue, c.type, v.status, v.n FROM counts c CROSS JOIN LATERAL (VALUES
      ('jobs', 'pending', c.pending), ('jobs', 'running', c.running), ('jobs', 'failed', c.failed_kept),
      ('enqueued', NULL, c.enqueued), ('completed', NULL, c.completed)) v(what, status, n)
  UNION ALL
  SELECT v.what, r.queue, r.type, r.reason, v.n FROM reasons r
   CROSS JOIN LATERAL (VALUES ('failed', r.failed), ('retried', r.retried)) v(what, n) WHERE v.n > 0
  UNION ALL
  SELECT h.what, h.queue, h.type, h.bucket::text, h.jobs FROM times h
  UNION ALL
  SELECT h.what || '_seconds', h.queue, h.type, NULL, sum(h.seconds) FROM times h GROUP BY h.what, h.queue, h.type;
END $$;
COMMENT ON FUNCTION rowlock.metrics_jobs IS 'What metrics_v1 says by queue and type. Internal.';

CREATE OR REPLACE FUNCTION rowlock.metrics_queues(hint_queues int4[], hint_ranks int2[], hint_after int8[])
RETURNS TABLE (what text, queue text, type text, label text, value float8)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_last int8 := (SELECT p.last_value FROM position p);
BEGIN
  RETURN QUERY
  WITH depths AS MATERIALIZED (
    SELECT q.id, q.name, q.paused, coalesce(d.pending, 0) AS pending
      FROM queue q
      LEFT JOIN (SELECT c.queue, sum(c.pending)::float8 AS pending
                   FROM (SELECT queue, pending FROM total UNION ALL SELECT queue, pending FROM tally) c
                  GROUP BY c.queue) d ON d.queue = q.id),
  -- Of an empty queue nothing is looked up: there all index entries are of rows that are gone.
  heads AS MATERIALIZED (
    SELECT a.queue, a.rank, d.name, f.pos, f.due
      FROM (SELECT DISTINCT l.queue, l.rank FROM lane l) a JOIN depths d ON d.id = a.queue AND d.pending > 0
      LEFT JOIN LATERAL (
        SELECT r.pos, due_at(r.execute_at, r.created_at) AS due FROM ready r
         WHERE r.queue = a.queue AND r.rank = a.rank
           AND r.pos > coalesce((SELECT h.after FROM unnest(hint_queues, hint_ranks, hint_after) h(queue, rank, after)
                                  WHERE h.queue = a.queue AND h.rank = a.rank LIMIT 1), -1)
         ORDER BY r.pos LIMIT 1) f ON true)
  SELECT v.what, d.name, NULL::text, NULL::text, v.n
    FROM (SELECT s.name, sum(s.pending) AS pending, bool_or(s.paused) AS paused FROM depths s GROUP BY s.name) d
   CROSS JOIN LATERAL (VALUES
      ('queue_pending', d.pending), ('queue_paused', d.paused::int::float8),
      ('queue_oldest_age', coalesce((
        SELECT GREATEST(extract(epoch FROM clock_timestamp() - min(h.due)), 0)::float8 FROM heads h
         WHERE h.name = d.name), 0))) v(what, n)
  UNION ALL
  -- Whole numbers of the counter, which a float8 holds exactly.
  SELECT 'searched', h.queue::text, NULL, h.rank::text, coalesce((h.pos - 1) >> 20 << 20, v_last)::float8 FROM heads h;
END $$;
COMMENT ON FUNCTION rowlock.metrics_queues IS
'What metrics_v1 says by queue, and how far each lane was searched. Internal.';

CREATE OR REPLACE FUNCTION rowlock.metrics_v1(hint_queues int4[] DEFAULT '{}', hint_ranks int2[] DEFAULT '{}',
  hint_after int8[] DEFAULT '{}')
RETURNS TABLE (what text, queue text, type text, label text, value float8)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  -- STABLE: all in the caller's snapshot.
  RETURN QUERY
  SELECT 'read_at', NULL::text, NULL::text, NULL::text, extract(epoch FROM clock_timestamp())::float8
  UNION ALL SELECT 'schema', NULL, NULL, NULL, max(m.version)::float8 FROM migration m
  UNION ALL SELECT 'text', NULL, NULL,
      encode(sha256(convert_to(string_agg(s.file || ' ' || s.checksum, E'\n' ORDER BY s.file COLLATE "C"), 'UTF8')),
             'hex'),
      max((s.release[1] * 1000 + s.release[2]) * 1000 + s.release[3])::float8 FROM schema_text s
  UNION ALL SELECT 'bound', NULL, NULL, NULL, b FROM unnest(bucket_bounds()) b
  UNION ALL SELECT 'oldest_transaction', NULL, NULL, NULL, o FROM oldest_transaction() o WHERE o IS NOT NULL
  UNION ALL SELECT 'maintenance_failures', NULL, NULL, p.part, coalesce((k.failures -> p.part ->> 'n')::float8, 0)
              FROM keeper k CROSS JOIN unnest(maintenance_parts()) p(part)
             WHERE k.failures <> '{}' OR EXISTS (SELECT FROM total) OR EXISTS (SELECT FROM tally)
  UNION ALL SELECT 'maintenance_failed_at', NULL, f.value ->> 'error', f.key,
                   extract(epoch FROM (f.value ->> 'at')::timestamptz)::float8
              FROM keeper k CROSS JOIN LATERAL jsonb_each(k.failures) f
  UNION ALL SELECT 'scaler_' || s.what, s.deployment, NULL, s.reason, s.n::float8 FROM total_scaler s;
  RETURN QUERY SELECT * FROM metrics_queues(hint_queues, hint_ranks, hint_after);
  RETURN QUERY SELECT * FROM metrics_jobs();
END $$;
COMMENT ON FUNCTION rowlock.metrics_v1 IS
'All that is exported, in one read: what, its labels (of a scaler_ row queue is the deployment) and the value. wait and
run rows count jobs by bucket, label its number from 0; bound rows are the buckets'' upper bounds. text is a digest of
the functions and views, and the release that wrote them. maintenance_failures: how often a part (label) of a round of
maintain_v1 went wrong, from the first job on; maintenance_failed_at: when it did last, and type is the error, no row if
never.
Hints: as of claim_v1, from the searched rows of the last call (queue its number, label the rank): rows that are gone
but not yet vacuumed are not walked again. Leave them out now and then. It counts nothing: the cost is that of the
totals, of the lines not yet folded and of one probe per priority in use.
SQLSTATEs: none. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.scaler_error_v1(epoch int8, deployment text, reason text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT fence(scaler_error_v1.epoch);
  INSERT INTO total_scaler AS t (deployment, what, reason, n)
  VALUES (scaler_error_v1.deployment, 'error', scaler_error_v1.reason, 1)
  ON CONFLICT (deployment, what, reason) DO UPDATE SET n = t.n + 1
$$;
COMMENT ON FUNCTION rowlock.scaler_error_v1 IS
'Counts what the leader could not do; reason is one of a few fixed words. Decisions are counted by record_decisions_v1.
SQLSTATEs: RL030. Locks: the leader''s row, shared; the counter''s row.';
