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
  -- After a gap even the same holder begins anew: it does not know what happened meanwhile. A deadline further ahead
  -- than the lease is long is of a clock that has gone back since, and holds no more.
  UPDATE leader l
     SET epoch = l.epoch + (l.holder IS DISTINCT FROM lead_v1.holder
                            OR l.held_until NOT BETWEEN v_now AND v_now + l.lease)::int,
         holder = lead_v1.holder, name = lead_v1.name, held_until = v_now + make_interval(secs => lease_seconds),
         lease = make_interval(secs => lease_seconds)
   WHERE l.holder = lead_v1.holder OR l.held_until <= v_now OR l.held_until > v_now + l.lease
  RETURNING l.epoch INTO epoch;
  IF FOUND AND v_old <> holder THEN DELETE FROM subscription s WHERE s.worker = v_old; END IF;
  -- It would ask in vain for ever: remembered for people, seldom and without a wait, because each write costs.
  IF epoch IS NULL THEN
    UPDATE leader l SET rival = lead_v1.name, rival_at = v_now
      FROM (SELECT o.one FROM leader o FOR NO KEY UPDATE SKIP LOCKED) o
     WHERE l.one = o.one AND l.rival_at NOT BETWEEN v_now - interval '10 seconds' AND v_now
       AND (substring(l.name FROM ' in namespace (.*)$') <> substring(lead_v1.name FROM ' in namespace (.*)$')
            OR substring(l.name FROM ' of release (.*) in namespace ')
               <> substring(lead_v1.name FROM ' of release (.*) in namespace '));
  END IF;
  RETURN QUERY
  SELECT lead_v1.epoch, l.name, extract(epoch FROM l.held_until - clock_timestamp())::float8 FROM leader l;
END $$;
COMMENT ON FUNCTION rowlock.lead_v1 IS
'Takes or keeps the leadership among controllers, for lease_seconds. holder is the controller''s id, name is for people;
it ends with " in namespace X" for a controller that scales the Deployments of X, and with " of release R in namespace
X" for one that scales those of a Helm release.
Answers the number of the term, null if another leads; who leads; and for how long. Call it three times within the
lease.
SQLSTATEs: RL021. Locks: the leader''s row; waits for a leader''s write under way.';

CREATE OR REPLACE VIEW rowlock.controllers AS
  SELECT name, true AS leads, held_until - lease AS seen_at FROM rowlock.leader
   WHERE held_until BETWEEN clock_timestamp() AND clock_timestamp() + lease
  UNION ALL
  SELECT rival, false, rival_at FROM rowlock.leader
   WHERE rival_at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp();
COMMENT ON VIEW rowlock.controllers IS
'The controller that leads; and one of another namespace or release that waits for the leadership, and scales nothing
meanwhile. Others of the leader''s kind are not shown: they take its place when it is gone.';

CREATE OR REPLACE FUNCTION rowlock.fence(epoch int8) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  -- Shared, so that nobody takes over in the midst of the write that follows.
  PERFORM FROM leader l WHERE l.epoch = fence.epoch AND l.held_until > clock_timestamp()
    AND l.held_until <= clock_timestamp() + l.lease FOR SHARE;
  IF NOT FOUND THEN
    PERFORM refuse('RL030',
      format('epoch: the term %s is over, nothing was changed', coalesce(fence.epoch::text, 'null')),
      'Forget what was seen in it, and ask for the leadership with rowlock.lead_v1.');
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.fence IS
'Refuses a leader whose term is over; until the transaction ends nobody else becomes leader. Internal.';

CREATE OR REPLACE FUNCTION rowlock.resign_v1(epoch int8) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  DELETE FROM subscription s USING leader l WHERE l.epoch = resign_v1.epoch AND s.worker = l.holder;
  UPDATE leader l SET held_until = '-infinity' WHERE l.epoch = resign_v1.epoch;
END $$;
COMMENT ON FUNCTION rowlock.resign_v1 IS
'Gives the leadership up, so that another need not wait for the end of the lease. SQLSTATEs: none. Locks: the leader''s
row.';

-- What a leader sees --------------------------------------------------------------------------

CREATE OR REPLACE FUNCTION rowlock.observe_lanes(ids int4[], due_types text[], now timestamptz, hint_queues int4[],
  hint_ranks int2[], hint_after int8[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'id', a.queue, 'rank', a.rank, 'first', h.first,
           'last_age_seconds', h.last_age, 'types', h.types)), '[]')
    FROM (SELECT DISTINCT l.queue, l.rank FROM lane l WHERE l.queue = ANY (ids)) a
    JOIN queue q ON q.id = a.queue
    CROSS JOIN LATERAL (
      SELECT min(g.first) AS first, min(g.youngest) AS last_age, jsonb_object_agg(g.type, g.age) AS types
        FROM (SELECT r.type, min(r.pos) AS first, extract(epoch FROM observe_lanes.now - max(r.due)) AS youngest,
                     extract(epoch FROM observe_lanes.now - min(r.due)) AS age
                FROM (SELECT n.pos, CASE WHEN n.type = ANY (observe_lanes.due_types) OR EXISTS (
                               SELECT FROM label b WHERE b.kind = 'type' AND b.name = n.type)
                               THEN n.type ELSE 'other' END AS type,
                             due_at(n.execute_at, n.created_at) AS due
                        FROM ready n
                       WHERE n.queue = a.queue AND n.rank = a.rank
                         AND n.pos >= coalesce((
                           SELECT u.after FROM unnest(hint_queues, hint_ranks, hint_after) u(queue, rank, after)
                            WHERE u.queue = a.queue AND u.rank = a.rank LIMIT 1), 0)
                       ORDER BY n.pos LIMIT 50) r
               GROUP BY r.type) g) h
   WHERE h.first IS NOT NULL
$$;
COMMENT ON FUNCTION rowlock.observe_lanes IS
'The first jobs of each lane tell how old the oldest of a type is. A type that is not among them is younger than the
last of them. Internal.';

CREATE OR REPLACE FUNCTION rowlock.observe_running(ids int4[], due_types text[], queues text[], now timestamptz)
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp SET jit = off AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_object('queue', r.name, 'type', r.type, 'age_seconds', r.age)), '[]')
    FROM (SELECT q.name, CASE WHEN j.type = ANY (observe_running.due_types) OR EXISTS (
                           SELECT FROM label b WHERE b.kind = 'type' AND b.name = j.type)
                           THEN j.type ELSE 'other' END AS type,
                 avg(extract(epoch FROM observe_running.now - l.claimed_at)) AS age
            FROM worker w JOIN lease l ON l.worker = w.id CROSS JOIN LATERAL unnest(l.jobs) j
            JOIN queue q ON q.id = j.queue
           WHERE w.queues && observe_running.queues AND pg_column_size(l.jobs) < 65536
             AND j.queue = ANY (ids) AND j.id <> ALL (l.done)
           GROUP BY 1, 2) r
$$;
COMMENT ON FUNCTION rowlock.observe_running IS
'How long running jobs have run; a large receipt is not fetched for it. Internal.';

CREATE OR REPLACE FUNCTION rowlock.observe_v1(queues text[], after timestamptz DEFAULT NULL,
  soon_seconds float8 DEFAULT 2, hint_queues int4[] DEFAULT '{}', hint_ranks int2[] DEFAULT '{}',
  hint_after int8[] DEFAULT '{}')
RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
  v_now timestamptz := clock_timestamp();
  v_ids int4[] := ARRAY(SELECT q.id FROM queue q WHERE q.name = ANY (observe_v1.queues));
  v_due text[] := due_types();
  v     jsonb;
BEGIN
  v := jsonb_build_object('now', v_now,
    'lanes', observe_lanes(v_ids, v_due, v_now, hint_queues, hint_ranks, hint_after),
    'running', observe_running(v_ids, v_due, observe_v1.queues, v_now));
  -- From totals; nothing is counted.
  v := v || jsonb_build_object('types', (
    SELECT coalesce(jsonb_agg(jsonb_build_object('queue', d.queue, 'type', d.type, 'paused', q.paused,
        'pending', d.pending, 'scheduled', d.scheduled, 'running', d.running, 'enqueued', d.enqueued,
        'retried', d.retried, 'ended', d.completed + d.failed + d.cancelled,
        'expected_seconds', extract(epoch FROM t.expected))), '[]')
      FROM demand() d
      CROSS JOIN LATERAL (SELECT bool_or(o.paused) AS paused FROM queue o WHERE o.name = d.queue) q
      LEFT JOIN job_type t ON t.name = d.type
     WHERE d.queue = ANY (observe_v1.queues)));
  v := v || jsonb_build_object('soon', (
    SELECT coalesce(jsonb_agg(jsonb_build_object('queue', q.name, 'type', s.type, 'jobs', s.jobs)), '[]')
      FROM queue q
      CROSS JOIN LATERAL (
        SELECT CASE WHEN d.type = ANY (v_due) OR EXISTS (
                 SELECT FROM label b WHERE b.kind = 'type' AND b.name = d.type) THEN d.type ELSE 'other' END AS type,
               count(*) AS jobs
          FROM (SELECT n.type FROM scheduled n
                 WHERE n.queue = q.id AND n.execute_at <= v_now + make_interval(secs => soon_seconds)
                 ORDER BY n.execute_at LIMIT 1000) d
         GROUP BY 1) s
     WHERE q.id = ANY (v_ids)));
  -- What the last jobs took, since the last look.
  v := v || jsonb_build_object('ended', (
    SELECT coalesce(jsonb_agg(jsonb_build_object('queue', e.name, 'type', e.type, 'jobs', e.jobs,
        'seconds', e.seconds)), '[]')
      FROM (SELECT q.name, coalesce(nullif(p.type, ''), 'other') AS type, sum(p.jobs) AS jobs,
                   sum(p.seconds) AS seconds
              FROM pace p JOIN queue q ON q.id = p.queue
             WHERE p.at > coalesce(observe_v1.after, v_now - interval '5 minutes') AND p.queue = ANY (v_ids)
             GROUP BY 1, 2) e));
  v := v || jsonb_build_object('workers', (
    SELECT coalesce(jsonb_agg(jsonb_build_object('id', w.id, 'identity', w.identity, 'queues', w.queues,
        'slots', w.slots, 'draining', w.draining,
        'running', (SELECT coalesce(sum(l.remaining), 0) FROM lease l WHERE l.worker = w.id))), '[]')
      FROM worker w WHERE w.lease_until > v_now AND w.queues && observe_v1.queues));
  RETURN v || (SELECT jsonb_build_object(
      'oldest_transaction_seconds', max(extract(epoch FROM v_now - a.xact_start))
        FILTER (WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()),
      'free_connections', GREATEST(0, current_setting('max_connections')::int
        - current_setting('superuser_reserved_connections')::int - count(*)))
    FROM pg_stat_activity a WHERE a.backend_type = 'client backend');
END $$;
COMMENT ON FUNCTION rowlock.observe_v1 IS
'All a controller has to know of the given queues, in one read whose cost does not grow with the backlog: {now, types,
lanes, soon, ended, running, workers, oldest_transaction_seconds, free_connections}. after: jobs that ended later tell
their time, from a second after their end on. soon_seconds: how far ahead jobs for later count. No bound cuts one
queue''s figures for another''s. A type that has no label of its own in metrics is other.
Hints: for a (queue, rank), the position at which its first job was a moment ago, so that rows that are gone but not yet
vacuumed are not walked; leave them out now and then.
SQLSTATEs: none. Locks: none.';

CREATE OR REPLACE FUNCTION rowlock.subscribe_queues_v1(epoch int8, queues text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_holder  uuid;
  v_names   text[] := ARRAY(SELECT DISTINCT u.name FROM unnest(subscribe_queues_v1.queues) u(name));
  v_problem text := (SELECT p.problem FROM unnest(v_names) u(name) CROSS JOIN LATERAL name_problem(u.name) p(problem)
                      WHERE p.problem IS NOT NULL LIMIT 1);
BEGIN
  PERFORM fence(subscribe_queues_v1.epoch);
  IF v_problem IS NOT NULL THEN PERFORM refuse('RL003', 'queue: ' || v_problem); END IF;
  v_holder := (SELECT l.holder FROM leader l);
  DELETE FROM subscription s WHERE s.worker = v_holder AND s.queue <> ALL (v_names);
  -- Lasting: a job wakes one worker, and the leader hears of it beside that.
  INSERT INTO subscription (queue, worker, lasting)
  SELECT u.name, v_holder, true FROM unnest(v_names) u(name)
   WHERE NOT EXISTS (SELECT FROM subscription s WHERE s.worker = v_holder AND s.queue = u.name);
END $$;
COMMENT ON FUNCTION rowlock.subscribe_queues_v1 IS
'Asks for a NOTIFY on channel rowlock (payload: the leader''s id) when one of exactly these queues gets a job; they need
not exist yet. Look once more after it: a job may have come just before.
SQLSTATEs: RL003, RL030. Locks: its subscriptions; the leader''s row, shared.';

-- What it decided -----------------------------------------------------------------------------

CREATE OR REPLACE VIEW rowlock.decisions AS
  SELECT id, at, deployment, current, wanted, reason, inputs FROM rowlock.decision;
COMMENT ON VIEW rowlock.decisions IS
'What the controller decided, and from what: a row when a decision changes, and one every ten seconds while it does not.
Kept for a day. rowlock explain puts one in words.';

CREATE OR REPLACE FUNCTION rowlock.record_decisions_v1(epoch int8, decisions jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(record_decisions_v1.epoch);
  INSERT INTO decision (at, deployment, current, wanted, reason, inputs)
  SELECT d.at, d.deployment, d.current, d.wanted, d.reason, d.inputs
    FROM jsonb_to_recordset(record_decisions_v1.decisions)
         d(at timestamptz, deployment text, current int4, wanted int4, reason text, inputs jsonb);
  INSERT INTO total_scaler AS t (deployment, what, reason, n)
  SELECT d.deployment, 'decision', d.reason, count(*)
    FROM jsonb_to_recordset(record_decisions_v1.decisions) d(deployment text, reason text)
   GROUP BY d.deployment, d.reason ORDER BY d.deployment, d.reason
  ON CONFLICT (deployment, what, reason) DO UPDATE SET n = t.n + excluded.n;
  -- A few more go than come, so that it stays bounded and no call has much to do.
  DELETE FROM decision d WHERE d.ctid = ANY (ARRAY(
    SELECT o.ctid FROM decision o WHERE o.at < clock_timestamp() - interval '1 day' ORDER BY o.at
     LIMIT 10 + 2 * jsonb_array_length(record_decisions_v1.decisions)));
END $$;
COMMENT ON FUNCTION rowlock.record_decisions_v1 IS
'Stores decisions, objects with the columns of rowlock.decisions but id, and forgets those older than a day.
SQLSTATEs: RL030. Locks: the leader''s row, shared.';

-- What it does --------------------------------------------------------------------------------

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
  PERFORM unsubscribe_v1(w.id) FROM worker w WHERE w.id = ANY (drain_v1.workers) AND w.draining;
END $$;
COMMENT ON FUNCTION rowlock.drain_v1 IS
'Marks the idle ones of these workers as draining: they claim no more, and end. Answers which. A claim that was under
way may still give one a job: ask confirm_drained_v1 a moment later.
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
'Which of the workers that drain_v1 marked are idle, and so can be stopped, or have ended. The others got a job at the
last moment: they go on, no longer draining.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared.';

CREATE OR REPLACE FUNCTION rowlock.end_replicas_v1(epoch int8, replicas text[]) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM fence(end_replicas_v1.epoch);
  UPDATE worker w SET lease_until = '-infinity', draining = true
    FROM (SELECT l.id FROM worker l
           WHERE split_part(l.identity, '/', 1) = ANY (end_replicas_v1.replicas)
              OR l.identity = ANY (end_replicas_v1.replicas)
           ORDER BY l.id FOR UPDATE) o
   WHERE w.id = o.id;
  RETURN rescue();
END $$;
COMMENT ON FUNCTION rowlock.end_replicas_v1 IS
'Ends the leases of workers whose Pod or process is known to be gone, by what their identity begins with, and puts their
jobs back; or by the whole identity, where a container began anew in a Pod that is still there. Answers how many. Never
for one that may still run.
SQLSTATEs: RL030. Locks: the workers'' rows; the leader''s row, shared; the receipts (SKIP LOCKED).';
