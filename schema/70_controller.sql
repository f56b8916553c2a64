-- The controller: who leads, what it sees and what it decided.

CREATE OR REPLACE FUNCTION rowlock.lead_v1(holder uuid, name text, lease_seconds float8 DEFAULT 15)
RETURNS TABLE (epoch int8, leader text, left_seconds float8)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz := clock_timestamp();
  v_old uuid := (SELECT l.holder FROM leader l);
BEGIN
  IF holder IS NULL OR name_problem(name) IS NOT NULL OR NOT coalesce(lease_seconds BETWEEN 0.1 AND 3600, false) THEN
    PERFORM refuse('RL021', 'holder, name, lease_seconds: expected an id, a name of printable text, 0.1 to 3600');
  END IF;
  -- After a gap even the same holder begins anew: it does not know what happened meanwhile.
  UPDATE leader l SET epoch = l.epoch + (l.holder IS DISTINCT FROM lead_v1.holder OR l.held_until <= v_now)::int,
                      holder = lead_v1.holder, name = lead_v1.name, held_until = v_now + make_interval(secs => lease_seconds)
   WHERE l.holder = lead_v1.holder OR l.held_until <= v_now
  RETURNING l.epoch INTO epoch;
  IF FOUND AND v_old <> holder THEN DELETE FROM subscription s WHERE s.worker = v_old; END IF;
  RETURN QUERY SELECT lead_v1.epoch, l.name, extract(epoch FROM l.held_until - clock_timestamp())::float8 FROM leader l;
END $$;
COMMENT ON FUNCTION rowlock.lead_v1 IS
'Takes or keeps the leadership among controllers, for lease_seconds. holder is the controller''s id, name is for people. Answers the number of the reign, null if another leads; who leads; and for how long. Call it three times within the lease.
SQLSTATEs: RL021. Locks: the leader''s row; waits for a leader''s write under way.';

CREATE OR REPLACE FUNCTION rowlock.fence(epoch int8) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  -- Shared, so that nobody takes over in the midst of the write that follows.
  PERFORM FROM leader l WHERE l.epoch = fence.epoch AND l.held_until > clock_timestamp() FOR SHARE;
  IF NOT FOUND THEN
    PERFORM refuse('RL030', format('epoch: the reign %s is over, nothing was changed', coalesce(fence.epoch::text, 'null')),
      'Forget what was seen in it, and ask for the leadership with rowlock.lead_v1.');
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.fence IS 'Refuses a leader whose reign is over; until the transaction ends nobody else becomes leader. Internal.';

CREATE OR REPLACE FUNCTION rowlock.resign_v1(epoch int8) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  DELETE FROM subscription s USING leader l WHERE l.epoch = resign_v1.epoch AND s.worker = l.holder;
  UPDATE leader l SET held_until = '-infinity' WHERE l.epoch = resign_v1.epoch;
END $$;
COMMENT ON FUNCTION rowlock.resign_v1 IS
'Gives the leadership up, so that another need not wait for the end of the lease. SQLSTATEs: none. Locks: the leader''s row.';

CREATE OR REPLACE FUNCTION rowlock.observe_v1(queues text[], after timestamptz DEFAULT NULL, soon_seconds float8 DEFAULT 2,
  hint_queues int4[] DEFAULT '{}', hint_ranks int2[] DEFAULT '{}', hint_after int8[] DEFAULT '{}')
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz := clock_timestamp();
  v_ids int4[] := ARRAY(SELECT q.id FROM queue q WHERE q.name = ANY (observe_v1.queues));
  v jsonb := jsonb_build_object('now', v_now);
BEGIN
  -- From totals; nothing is counted.
  v := v || jsonb_build_object('types', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', d.type, 'paused', q.paused,
        'pending', d.pending, 'scheduled', d.scheduled, 'running', d.running, 'enqueued', d.enqueued, 'retried', d.retried,
        'ended', d.completed + d.failed + d.cancelled, 'expected_seconds', extract(epoch FROM t.expected))), '[]')
    FROM demand() d JOIN queue q ON q.name = d.queue LEFT JOIN job_type t ON t.name = d.type WHERE d.queue = ANY (observe_v1.queues)));
  -- The first jobs of each lane tell how old the oldest of a type is. A type that is not among them is younger
  -- than the last of them.
  v := v || jsonb_build_object('lanes', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'id', a.queue, 'rank', a.rank,
        'first', h.first, 'last_age_seconds', h.last_age, 'types', h.types)), '[]')
    FROM (SELECT DISTINCT l.queue, l.rank FROM lane l WHERE l.queue = ANY (v_ids)) a
    JOIN queue q ON q.id = a.queue
    CROSS JOIN LATERAL (
      SELECT min(g.first) AS first, min(g.youngest) AS last_age, jsonb_object_agg(g.type, g.age) AS types
        FROM (SELECT r.type, min(r.pos) AS first, extract(epoch FROM v_now - max(r.execute_at)) AS youngest,
                     extract(epoch FROM v_now - min(r.execute_at)) AS age
                FROM (SELECT n.pos, n.type, n.execute_at FROM ready n
                       WHERE n.queue = a.queue AND n.rank = a.rank
                         AND n.pos >= coalesce((SELECT u.after FROM unnest(hint_queues, hint_ranks, hint_after) u(queue, rank, after)
                                                 WHERE u.queue = a.queue AND u.rank = a.rank LIMIT 1), 0)
                       ORDER BY n.pos LIMIT 50) r
               GROUP BY r.type) g) h
   WHERE h.first IS NOT NULL));
  v := v || jsonb_build_object('soon', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', s.type, 'jobs', s.jobs)), '[]')
    FROM (SELECT d.queue, d.type, count(*) AS jobs
            FROM (SELECT s.queue, s.type FROM scheduled s WHERE s.execute_at <= v_now + make_interval(secs => soon_seconds)
                   ORDER BY s.execute_at, s.pos LIMIT 1000) d
           WHERE d.queue = ANY (v_ids) GROUP BY d.queue, d.type) s JOIN queue q ON q.id = s.queue));
  -- What the last jobs took: the newest 500 since the last look.
  v := v || jsonb_build_object('ended', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', e.type, 'jobs', e.jobs, 'seconds', e.seconds)), '[]')
    FROM (SELECT h.queue, h.type, count(*) AS jobs, sum(extract(epoch FROM h.finished_at - h.started_at)) AS seconds
            FROM (SELECT n.queue, n.type, n.finished_at, n.started_at FROM history n
                   WHERE n.status = 'completed' AND n.finished_at > coalesce(observe_v1.after, v_now - interval '5 minutes')
                   ORDER BY n.finished_at DESC LIMIT 500) h
           WHERE h.queue = ANY (v_ids) GROUP BY h.queue, h.type) e JOIN queue q ON q.id = e.queue));
  -- How long running jobs have run, from at most 200 receipts; a large one is not fetched for it.
  v := v || jsonb_build_object('running', (SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', r.type, 'age_seconds', r.age)), '[]')
    FROM (SELECT j.queue, j.type, avg(extract(epoch FROM v_now - l.claimed_at)) AS age
            FROM (SELECT n.claimed_at, n.jobs, n.done FROM lease n WHERE pg_column_size(n.jobs) < 65536 ORDER BY n.worker, n.id LIMIT 200) l
            CROSS JOIN LATERAL unnest(l.jobs) j WHERE j.queue = ANY (v_ids) AND j.id <> ALL (l.done) GROUP BY j.queue, j.type) r
    JOIN queue q ON q.id = r.queue));
  v := v || jsonb_build_object('workers', (SELECT coalesce(jsonb_agg(jsonb_build_object('id', w.id, 'identity', w.identity, 'queues', w.queues,
        'slots', w.slots, 'draining', w.draining, 'running', (SELECT coalesce(sum(l.remaining), 0) FROM lease l WHERE l.worker = w.id))), '[]')
    FROM worker w WHERE w.lease_until > v_now AND w.queues && observe_v1.queues));
  RETURN v || (SELECT jsonb_build_object(
      'oldest_transaction_seconds', max(extract(epoch FROM v_now - a.xact_start)) FILTER (WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()),
      'free_connections', GREATEST(0, current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int - count(*)))
    FROM pg_stat_activity a WHERE a.backend_type = 'client backend');
END $$;
COMMENT ON FUNCTION rowlock.observe_v1 IS
'All a controller has to know of the given queues, in one read whose cost does not grow with the backlog: {now, types, lanes, soon, ended, running, workers, oldest_transaction_seconds, free_connections}. after: jobs that ended later tell their time. soon_seconds: how far ahead jobs for later count.
Hints: for a (queue, rank), the position at which its first job was a moment ago, so that rows that are gone but not yet vacuumed are not walked; leave them out now and then.
SQLSTATEs: none. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.subscribe_queues_v1(epoch int8, queues text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_holder uuid;
  v_ids int4[];
BEGIN
  PERFORM fence(subscribe_queues_v1.epoch);
  v_holder := (SELECT l.holder FROM leader l);
  v_ids := ARRAY(SELECT ensure_queue(q.name) FROM (SELECT DISTINCT u.name FROM unnest(subscribe_queues_v1.queues) u(name) ORDER BY 1) q);
  DELETE FROM subscription s WHERE s.worker = v_holder AND s.queue <> ALL (v_ids);
  INSERT INTO subscription (queue, worker) SELECT u.id, v_holder FROM unnest(v_ids) u(id) ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION rowlock.subscribe_queues_v1 IS
'Asks for a NOTIFY on channel rowlock when one of exactly these queues gets a job. Look once more after it: a job may have come just before.
SQLSTATEs: RL003, RL030. Locks: its subscriptions; the leader''s row, shared.';

CREATE OR REPLACE VIEW rowlock.decisions AS
  SELECT id, at, deployment, current, wanted, reason, inputs FROM rowlock.decision;
COMMENT ON VIEW rowlock.decisions IS
'What the controller decided, and from what: a row when a decision changes, and one every ten seconds while it does not. Kept for a day. rowlock explain puts one in words.';

CREATE OR REPLACE FUNCTION rowlock.record_decisions_v1(epoch int8, decisions jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(record_decisions_v1.epoch);
  INSERT INTO decision (at, deployment, current, wanted, reason, inputs)
  SELECT d.at, d.deployment, d.current, d.wanted, d.reason, d.inputs
    FROM jsonb_to_recordset(record_decisions_v1.decisions) d(at timestamptz, deployment text, current int4, wanted int4, reason text, inputs jsonb);
  INSERT INTO total_scaler AS t (deployment, what, reason, n)
  SELECT d.deployment, 'decision', d.reason, count(*)
    FROM jsonb_to_recordset(record_decisions_v1.decisions) d(deployment text, reason text) GROUP BY d.deployment, d.reason ORDER BY d.deployment, d.reason
  ON CONFLICT (deployment, what, reason) DO UPDATE SET n = t.n + excluded.n;
  -- A few more go than come, so that it stays bounded and no call has much to do.
  DELETE FROM decision d WHERE d.ctid = ANY (ARRAY(
    SELECT o.ctid FROM decision o WHERE o.at < clock_timestamp() - interval '1 day' ORDER BY o.at
     LIMIT 10 + 2 * jsonb_array_length(record_decisions_v1.decisions)));
END $$;
COMMENT ON FUNCTION rowlock.record_decisions_v1 IS
'Stores decisions, objects with the columns of rowlock.decisions but id, and forgets those older than a day.
SQLSTATEs: RL030. Locks: the leader''s row, shared.';

CREATE OR REPLACE FUNCTION rowlock.drain_v1(epoch int8, workers uuid[]) RETURNS TABLE (worker uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(drain_v1.epoch);
  RETURN QUERY
  UPDATE worker w SET draining = true
    FROM (SELECT l.id FROM worker l WHERE l.id = ANY (drain_v1.workers) ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id AND NOT w.draining AND w.lease_until > clock_timestamp()
     AND NOT EXISTS (SELECT FROM lease l WHERE l.worker = w.id)
  RETURNING w.id;
END $$;
COMMENT ON FUNCTION rowlock.drain_v1 IS
'Marks the idle ones of these workers as draining: they claim no more, and end. Answers which. A claim that was under way may still give one a job: ask confirm_drained_v1 a moment later.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared.';

CREATE OR REPLACE FUNCTION rowlock.confirm_drained_v1(epoch int8, workers uuid[]) RETURNS TABLE (worker uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(confirm_drained_v1.epoch);
  UPDATE worker w SET draining = false
    FROM (SELECT l.id FROM worker l WHERE l.id = ANY (confirm_drained_v1.workers) ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id AND w.draining AND w.lease_until > clock_timestamp()
     AND EXISTS (SELECT FROM lease l WHERE l.worker = w.id);
  RETURN QUERY SELECT u.id FROM unnest(confirm_drained_v1.workers) u(id)
   WHERE NOT EXISTS (SELECT FROM lease l WHERE l.worker = u.id)
     AND NOT EXISTS (SELECT FROM worker w WHERE w.id = u.id AND NOT w.draining);
END $$;
COMMENT ON FUNCTION rowlock.confirm_drained_v1 IS
'Which of the workers that drain_v1 marked are idle, and so can be stopped, or have ended. The others got a job at the last moment: they go on, no longer draining.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared.';

CREATE OR REPLACE FUNCTION rowlock.end_replicas_v1(epoch int8, replicas text[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(end_replicas_v1.epoch);
  UPDATE worker w SET lease_until = '-infinity', draining = true
    FROM (SELECT l.id FROM worker l
           WHERE split_part(l.identity, '/', 1) = ANY (end_replicas_v1.replicas) OR l.identity = ANY (end_replicas_v1.replicas)
           ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id;
  RETURN rescue();
END $$;
COMMENT ON FUNCTION rowlock.end_replicas_v1 IS
'Ends the leases of workers whose Pod or process is known to be gone, by what their identity begins with, and puts their jobs back; or by the whole identity, where a container began anew in a Pod that is still there. Answers how many. Never for one that may still run.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared; the receipts (SKIP LOCKED).';
