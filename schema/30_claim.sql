-- How a worker claims jobs. Every write of a worker matches its lease, which is the worker's row (its deadline)
-- and the receipt (worker, lease id), and reports what it refused.

CREATE OR REPLACE FUNCTION rowlock.work_v1(worker uuid, leases int8[], ids uuid[], results jsonb[], queues text[],
  max int, hint_queues int4[] DEFAULT '{}', hint_ranks int2[] DEFAULT '{}', hint_after int8[] DEFAULT '{}',
  claim int8 DEFAULT 0, alone boolean DEFAULT true)
RETURNS TABLE (refused uuid, lease int8, id uuid, type text, queue text, payload jsonb, priority int2, attempts int2,
  max_retries int2, created_at timestamptz, execute_at timestamptz, opts jsonb, lane_queue int4, lane_rank int2,
  pos int8, unique_key text, error text, claimed_at timestamptz, suspect boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET jit = off SET enable_seqscan = off SET enable_hashjoin = off
  SET enable_mergejoin = off SET enable_bitmapscan = off SET enable_material = off AS $$
#variable_conflict use_column
DECLARE
  v_draining boolean;
  v_now      timestamptz;
BEGIN
  IF work_v1.max IS NULL OR work_v1.max NOT BETWEEN 0 AND 1000 THEN
    PERFORM refuse('RL021', 'max: expected 0 to 1000');
  END IF;
  IF cardinality(ids) > 0 THEN
    RETURN QUERY SELECT c.refused, null::int8, null::uuid, null::text, null::text, null::jsonb, null::int2, null::int2,
        null::int2, null::timestamptz, null::timestamptz, null::jsonb, null::int4, null::int2, null::int8,
        null::text, null::text, null::timestamptz, null::boolean
      FROM complete_v1(work_v1.worker, leases, ids, results) c;
    IF work_v1.max = 0 THEN RETURN; END IF;
  END IF;
  SELECT w.draining, clock_timestamp() INTO v_draining, v_now
    FROM worker w WHERE w.id = work_v1.worker AND w.lease_until > clock_timestamp();
  IF NOT FOUND THEN PERFORM lease_lost(); END IF;
  IF v_draining OR work_v1.max = 0 THEN RETURN; END IF;
  -- jit is off because a plan without an alternative to what is switched off looks infinitely dear.
  -- Lanes in order of claim, then each from its hint on. The inner LIMIT ends a lane, the outer one
  -- ends the walk before the next lane is touched. The ctid list is the fence that keeps the DELETE
  -- to the rows that were locked.
  RETURN QUERY
  WITH taken AS (
    DELETE FROM ready r WHERE r.ctid = ANY (ARRAY(
      SELECT l.ctid
        FROM (SELECT DISTINCT lane.rank, array_position(work_v1.queues, q.name) AS turn, q.id AS queue
                FROM queue q JOIN lane ON lane.queue = q.id
               WHERE q.name = ANY (work_v1.queues) AND NOT q.paused
               ORDER BY 1, 2) a
        CROSS JOIN LATERAL (
          SELECT n.ctid FROM ready n
           WHERE n.queue = a.queue AND n.rank = a.rank
             AND (work_v1.alone OR n.lost_by IS NULL OR cardinality(n.lost_by) < 2)
             AND n.pos > coalesce((SELECT h.after FROM unnest(hint_queues, hint_ranks, hint_after) h(queue, rank, after)
                                    WHERE h.queue = a.queue AND h.rank = a.rank LIMIT 1), -1)
           ORDER BY n.pos LIMIT work_v1.max FOR UPDATE SKIP LOCKED) l
       LIMIT work_v1.max))
    RETURNING r.*),
  receipt AS (
    INSERT INTO lease (worker, id, claim, claimed_at, remaining, jobs)
    SELECT work_v1.worker, nextval('rowlock.lease_id'), coalesce(work_v1.claim, 0), clock_timestamp(), count(*),
           array_agg(t::ready)
      FROM taken t HAVING count(*) > 0
    RETURNING id, claimed_at),
  counted AS (
    INSERT INTO tally (queue, type, pending, running, wait, seconds)
    SELECT w.queue, w.type, -count(*), count(*), bucket(w.seconds), sum(w.seconds)
      FROM (SELECT t.queue, t.type,
                   GREATEST(date_part('epoch', v_now - due_at(t.execute_at, t.created_at)), 0) AS seconds
              FROM taken t) w
     GROUP BY w.queue, w.type, bucket(w.seconds))
  SELECT NULL::uuid, receipt.id, t.id, t.type,
         CASE WHEN cardinality(work_v1.queues) = 1 THEN work_v1.queues[1]
              ELSE (SELECT q.name FROM queue q WHERE q.id = t.queue) END,
         t.payload, (~t.rank)::int2, t.attempts, t.max_retries, t.created_at, t.execute_at, t.opts,
         t.queue, t.rank, t.pos, t.unique_key, t.error, receipt.claimed_at,
         CASE WHEN cardinality(t.lost_by) >= 2 THEN true END
    FROM taken t CROSS JOIN receipt;
END $$;
COMMENT ON FUNCTION rowlock.work_v1 IS
'complete_v1 and claim_v1 in one call and one commit: the fastest way to work. A row with refused is one of
complete_v1''s, any other one of claim_v1''s. SQLSTATEs and locks: as theirs.';

CREATE OR REPLACE FUNCTION rowlock.claim_v1(worker uuid, queues text[], max int, hint_queues int4[] DEFAULT '{}',
  hint_ranks int2[] DEFAULT '{}', hint_after int8[] DEFAULT '{}',
  claim int8 DEFAULT 0, alone boolean DEFAULT true)
RETURNS TABLE (lease int8, id uuid, type text, queue text, payload jsonb, priority int2, attempts int2,
  max_retries int2, created_at timestamptz, execute_at timestamptz, opts jsonb, lane_queue int4, lane_rank int2,
  pos int8, unique_key text, error text, claimed_at timestamptz, suspect boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT w.lease, w.id, w.type, w.queue, w.payload, w.priority, w.attempts, w.max_retries, w.created_at, w.execute_at,
         w.opts, w.lane_queue, w.lane_rank, w.pos, w.unique_key, w.error, w.claimed_at, w.suspect
    FROM work_v1(claim_v1.worker, '{}', '{}', NULL, claim_v1.queues, claim_v1.max, hint_queues, hint_ranks, hint_after,
                 claim_v1.claim, claim_v1.alone) w;
END $$;
COMMENT ON FUNCTION rowlock.claim_v1 IS
'Takes up to max due jobs of the queues, in order of claim; the rows come in any order (sort by lane_rank, pos). Queues
given first go first at equal priority. error is that of the attempt before.
Hints: for a (queue, rank), the highest pos this worker took a moment ago; the search starts after it, so that it never
walks rows that are gone but not yet vacuumed. Without hints it starts at the beginning: call so now and then, it finds
what committed late.
alone: whether suspects are wanted, too. A suspect (last column: true, else null) has lost two workers already: run it
with nothing beside it, so that a job that kills its worker takes no other one along.
claim: a number that the worker gives each call, rising from 1. If a call''s answer is lost, extend_v1 gives back what
the call took.
SQLSTATEs: RL020, RL021. Locks: the rows taken (SKIP LOCKED, never waits).';
