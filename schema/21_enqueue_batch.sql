-- How many jobs come in at once.

CREATE OR REPLACE FUNCTION rowlock.batch_jobs(types text[], payloads jsonb[], queues text[], priorities int4[],
  max_retries int4[], execute_at timestamptz[], unique_keys text[], opts jsonb[], positions int8[], held uuid[],
  n_type text[], n_key text[], n_queue int4[], n_priority int4[], n_retries int4[], now timestamptz, ms int8)
RETURNS TABLE (ord int8, pos int8, id uuid, queue int4, rank int2, max_retries int2, type text, payload jsonb,
  execute_at timestamptz, unique_key text, opts jsonb, held uuid)
LANGUAGE sql STABLE AS $$
  SELECT p.ord, p.pos, rowlock.make_id(ms, p.queue, (~p.priority)::int2, p.pos), p.queue, (~p.priority)::int2,
         p.retries::int2, p.type, coalesce(p.payload, '{}'), p.at, p.key, p.opts, p.held
    FROM (SELECT j.*, coalesce(j.taken, nextval('rowlock.position')) AS pos,
                 rowlock.job_problem(j.payload, j.priority, j.retries, j.at, j.key, now) AS problem
            FROM (SELECT u.*, n.queue, coalesce(u.own_priority, n.priority) AS priority,
                         coalesce(u.own_retries, n.retries) AS retries
                    FROM unnest(types, payloads, queues, priorities, max_retries, execute_at, unique_keys, opts,
                                positions, held) WITH ORDINALITY
                         u(type, payload, queue_name, own_priority, own_retries, at, key, opts, taken, held, ord)
                    JOIN unnest(n_type, n_key, n_queue, n_priority, n_retries) n(type, key, queue, priority, retries)
                      ON n.type = u.type AND n.key = coalesce(u.queue_name, '')
                   ORDER BY u.ord) j) p
   WHERE CASE WHEN p.problem IS NULL THEN true
         ELSE rowlock.refuse(left(p.problem, 5), format('jobs[%s].%s', p.ord - 1, substr(p.problem, 6))) IS NULL END
$$;
COMMENT ON FUNCTION rowlock.batch_jobs IS
'The jobs of a batch, each checked and with its place, in input order; n_ describe each pair of type and queue. It takes
positions and yet is STABLE: only so does the planner make it a part of the calling statement. Give it the positions it
took if it is called twice. Internal.';

CREATE OR REPLACE FUNCTION rowlock.batch_pairs(types text[], queues text[])
RETURNS TABLE (at int8, type text, key text, jobs int4, name text, queue int4, priority int4, retries int4,
  is_open boolean, listens boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp SET plan_cache_mode = force_generic_plan
  SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  v         record;
  v_problem text;
BEGIN
  FOR v IN
    SELECT u.at, u.type, u.queue AS key, u.jobs, t.name IS NOT NULL AS known, n.name, q.id,
           coalesce(t.priority, q.priority, 5)::int4 AS priority,
           coalesce(t.max_retries, q.max_retries, 3)::int4 AS retries,
           EXISTS (SELECT FROM lane l
                    WHERE l.queue = q.id AND l.rank = ~coalesce(t.priority, q.priority, 5)) AS is_open,
           EXISTS (SELECT FROM subscription s WHERE s.queue = n.name) AS listens
      FROM (SELECT u.type, u.queue, min(u.ord) - 1 AS at, count(*)::int4 AS jobs
              FROM unnest(types, queues) WITH ORDINALITY u(type, queue, ord) GROUP BY u.type, u.queue) u
      LEFT JOIN job_type t ON t.name = u.type
      CROSS JOIN LATERAL (SELECT coalesce(u.queue, t.queue, 'default') AS name) n
      LEFT JOIN LATERAL (SELECT o.* FROM queue o WHERE o.name = n.name ORDER BY o.id LIMIT 1) q ON true
     ORDER BY u.at
  LOOP
    v_problem := CASE WHEN NOT v.known THEN name_problem(v.type) END;
    IF v_problem IS NOT NULL THEN PERFORM refuse('RL001', format('jobs[%s].type: %s', v.at, v_problem)); END IF;
    v_problem := CASE WHEN v.id IS NULL THEN name_problem(v.name) END;
    IF v_problem IS NOT NULL THEN PERFORM refuse('RL003', format('jobs[%s].queue: %s', v.at, v_problem)); END IF;
    at := v.at; type := v.type; key := coalesce(v.key, ''); jobs := v.jobs; name := v.name; queue := v.id;
    priority := v.priority; retries := v.retries; is_open := v.is_open; listens := v.listens;
    RETURN NEXT;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.batch_pairs IS
'The distinct pairs of type and queue ('''' for none given) of a batch, and what the catalogue says of each: a batch has
few. Internal.';

CREATE OR REPLACE FUNCTION rowlock.hold_keys(keys text[], ids uuid[]) RETURNS uuid[]
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_held    uuid[];
  v_missing int;
BEGIN
  -- As hold_key, for all keys at once and in key order, so that two batches cannot deadlock.
  LOOP
    INSERT INTO unique_key (key, job)
    SELECT DISTINCT ON (u.key) u.key, u.id
      FROM unnest(keys, ids) WITH ORDINALITY u(key, id, ord)
     WHERE u.key IS NOT NULL AND NOT EXISTS (SELECT FROM unique_key k WHERE k.key = u.key)
     ORDER BY u.key, u.ord
    ON CONFLICT DO NOTHING;
    SELECT array_agg(CASE WHEN u.key IS NULL THEN u.id ELSE k.job END ORDER BY u.ord),
           count(*) FILTER (WHERE u.key IS NOT NULL AND k.job IS NULL)
      INTO v_held, v_missing
      FROM unnest(keys, ids) WITH ORDINALITY u(key, id, ord)
      LEFT JOIN unique_key k ON k.key = u.key;
    IF v_missing = 0 THEN RETURN v_held; END IF;
  END LOOP;
END $$;
COMMENT ON FUNCTION rowlock.hold_keys IS
'Takes unique keys for the jobs of a batch, and answers for each job which one has its key. Internal.';

CREATE OR REPLACE FUNCTION rowlock.batch_length(lengths int[]) RETURNS int
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
BEGIN
  IF lengths[1] > 10000 THEN
    PERFORM refuse('RL009', format('jobs: expected at most 10000 elements, got %s', lengths[1]));
  END IF;
  IF lengths[1] <> ANY (lengths) THEN PERFORM refuse('RL009', 'jobs: expected arrays of equal length'); END IF;
  RETURN lengths[1];
END $$;
COMMENT ON FUNCTION rowlock.batch_length IS
'The number of jobs in a batch, if all its arrays are of that length; null is an array that was not given. Internal.';

CREATE OR REPLACE FUNCTION rowlock.enqueue_batch_v1(types text[], payloads jsonb[], queues text[] DEFAULT NULL,
  priorities int4[] DEFAULT NULL, max_retries int4[] DEFAULT NULL, execute_at timestamptz[] DEFAULT NULL,
  unique_keys text[] DEFAULT NULL, opts jsonb[] DEFAULT NULL)
RETURNS TABLE (ord int4, id uuid, inserted boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  v_now     timestamptz := clock_timestamp();
  v_ms      int8 := floor(extract(epoch FROM v_now) * 1000);
  v_at      timestamptz[] := enqueue_batch_v1.execute_at;
  v_opts    jsonb[] := enqueue_batch_v1.opts;
  v_retries int4[] := enqueue_batch_v1.max_retries;
  v_open    boolean;
  v_listen  boolean;
  -- By distinct pair of type and queue.
  n_type text[]; n_key text[]; n_jobs int4[]; n_name text[]; n_queue int4[]; n_priority int4[]; n_retries int4[];
BEGIN
  IF coalesce(cardinality(types), 0) = 0 THEN RETURN; END IF;
  PERFORM batch_length(ARRAY[cardinality(types), cardinality(payloads), cardinality(queues), cardinality(priorities),
    cardinality(v_retries), cardinality(v_at), cardinality(unique_keys), cardinality(v_opts)]);
  SELECT array_agg(p.type), array_agg(p.key), array_agg(p.jobs), array_agg(p.name), array_agg(p.queue),
         array_agg(p.priority), array_agg(p.retries), bool_and(p.is_open), bool_or(p.listens)
    INTO n_type, n_key, n_jobs, n_name, n_queue, n_priority, n_retries, v_open, v_listen
    FROM batch_pairs(types, queues) p;
  IF v_opts IS NOT NULL THEN
    SELECT o.opts, CASE WHEN o.is_timed THEN o.at ELSE v_at END INTO v_opts, v_at
      FROM batch_opts(v_opts, v_at, v_now) o;
  END IF;
  IF array_position(n_queue, NULL) IS NOT NULL THEN
    -- All is checked before a queue is made; the same order for all saves two batches from making it twice.
    PERFORM FROM batch_jobs(types, payloads, queues, priorities, v_retries, v_at, unique_keys, v_opts, NULL, NULL,
                            n_type, n_key, n_queue, n_priority, n_retries, v_now, v_ms);
    n_queue := ARRAY(SELECT coalesce(u.id, ensure_queue(u.name)) FROM unnest(n_name, n_queue) u(name, id));
  END IF;

  IF unique_keys IS NULL AND v_at IS NULL THEN
    -- All are new and due: what batch_put does, with the steps left out that then do nothing.
    RETURN QUERY
    WITH counted AS (
      INSERT INTO tally (queue, type, pending, enqueued)
      SELECT n.queue, n.type, n.jobs, n.jobs FROM unnest(n_queue, n_type, n_jobs) n(queue, type, jobs)),
    due AS (
      INSERT INTO ready (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, opts)
      SELECT j.pos, j.id, v_now, v_now, j.queue, j.rank, j.max_retries, j.type, j.payload, j.opts
        FROM batch_jobs(types, payloads, queues, priorities, v_retries, NULL, NULL, v_opts, NULL, NULL,
                        n_type, n_key, n_queue, n_priority, n_retries, v_now, v_ms) j
      RETURNING ready.id)
    SELECT (row_number() OVER () - 1)::int4, d.id, true FROM due d;
  ELSE
    RETURN QUERY SELECT b.ord, b.id, b.inserted
      FROM batch_put(types, payloads, queues, priorities, v_retries, v_at, unique_keys, v_opts,
                     n_type, n_key, n_queue, n_priority, n_retries, v_now, v_ms) b;
  END IF;
  IF NOT v_open OR priorities IS NOT NULL THEN
    PERFORM batch_lanes(types, queues, priorities, v_at, n_type, n_key, n_queue, n_priority, v_now);
  END IF;
  IF v_listen THEN
    PERFORM batch_wake(types, queues, v_at, enqueue_batch_v1.opts, n_type, n_key, n_name, v_now);
  END IF;
  IF v_at IS NOT NULL THEN
    PERFORM wake_keeper((SELECT min(u.at) FROM unnest(v_at, enqueue_batch_v1.opts) u(at, o)
                          WHERE u.at > v_now AND coalesce((u.o -> 'notify')::boolean, true)));
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.enqueue_batch_v1 IS
'enqueue for arrays, one element a job, for client libraries: the fastest way in. An array that is null means null for
every element. All or nothing; answers in input order with ord from 0; at most 10000 jobs.
SQLSTATEs: as enqueue, the message names the element; RL009 for the arrays. Locks: as enqueue, taken in key order.';

CREATE OR REPLACE FUNCTION rowlock.batch_opts(given jsonb[], execute_at timestamptz[], now timestamptz,
  OUT opts jsonb[], OUT at timestamptz[], OUT is_timed boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
  SELECT array_agg(kept_opts(c.o) ORDER BY c.ord),
         array_agg(coalesce(c.at, batch_opts.now + make_interval(secs => (c.o ->> 'delay_seconds')::float8))
                   ORDER BY c.ord),
         bool_or(c.at IS NOT NULL OR c.o ? 'delay_seconds')
    FROM (SELECT u.ord, u.at, checked_opts(u.o, u.at IS NOT NULL, format('jobs[%s].', u.ord - 1)) AS o
            FROM unnest(given, batch_opts.execute_at) WITH ORDINALITY u(o, at, ord) OFFSET 0) c
$$;
COMMENT ON FUNCTION rowlock.batch_opts IS
'The opts of a batch, checked, what of them is stored, and when their jobs are due. Internal.';

CREATE OR REPLACE FUNCTION rowlock.batch_put(types text[], payloads jsonb[], queues text[], priorities int4[],
  max_retries int4[], execute_at timestamptz[], unique_keys text[], opts jsonb[], n_type text[], n_key text[],
  n_queue int4[], n_priority int4[], n_retries int4[], now timestamptz, ms int8)
RETURNS TABLE (ord int4, id uuid, inserted boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp
  SET plan_cache_mode = force_generic_plan SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  v_pos  int8[];  -- only where there are unique keys
  v_ids  uuid[];
  v_held uuid[];  -- per element: the job that holds its key, its own or another's
BEGIN
  IF unique_keys IS NOT NULL THEN
    SELECT array_agg(j.pos ORDER BY j.ord), array_agg(j.id ORDER BY j.ord) INTO v_pos, v_ids
      FROM batch_jobs(types, payloads, queues, priorities, batch_put.max_retries, batch_put.execute_at, unique_keys,
                      batch_put.opts, NULL, NULL, n_type, n_key, n_queue, n_priority, n_retries, batch_put.now, ms) j;
    v_held := hold_keys(unique_keys, v_ids);
  END IF;
  RETURN QUERY
  WITH j AS MATERIALIZED (
    SELECT j.*, coalesce(j.held, j.id) AS holder, coalesce(j.execute_at > batch_put.now, false) AS later
      FROM batch_jobs(types, payloads, queues, priorities, batch_put.max_retries, batch_put.execute_at, unique_keys,
                      batch_put.opts, v_pos, v_held, n_type, n_key, n_queue, n_priority, n_retries, batch_put.now,
                      ms) j),
  due AS (
    INSERT INTO ready (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
    SELECT j.pos, j.id, batch_put.now, coalesce(j.execute_at, batch_put.now), j.queue, j.rank, j.max_retries, j.type,
           j.payload, j.unique_key, j.opts
      FROM j WHERE NOT j.later AND j.holder = j.id),
  delayed AS (
    INSERT INTO scheduled (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
    SELECT j.pos, j.id, batch_put.now, j.execute_at, j.queue, j.rank, j.max_retries, j.type, j.payload, j.unique_key,
           j.opts
      FROM j WHERE j.later AND j.holder = j.id),
  counted AS (
    INSERT INTO tally (queue, type, pending, scheduled, enqueued)
    SELECT j.queue, j.type, count(*) FILTER (WHERE NOT j.later), count(*) FILTER (WHERE j.later), count(*)
      FROM j WHERE j.holder = j.id GROUP BY j.queue, j.type)
  SELECT (j.ord - 1)::int4, j.holder, j.holder = j.id FROM j;
END $$;
COMMENT ON FUNCTION rowlock.batch_put IS 'Puts the jobs of a batch where they wait. Internal.';

CREATE OR REPLACE FUNCTION rowlock.batch_lanes(types text[], queues text[], priorities int4[],
  execute_at timestamptz[], n_type text[], n_key text[], n_queue int4[], n_priority int4[], now timestamptz)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, rowlock, pg_temp SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
BEGIN
  -- Exactly those of the jobs that are due: promote opens the others'.
  INSERT INTO lane (queue, rank)
  SELECT d.queue, d.rank
    FROM (SELECT DISTINCT n.queue, (~coalesce(u.priority, n.priority))::int2 AS rank
            FROM unnest(types, queues, priorities, batch_lanes.execute_at) u(type, queue, priority, at)
            JOIN unnest(n_type, n_key, n_queue, n_priority) n(type, key, queue, priority)
              ON n.type = u.type AND n.key = coalesce(u.queue, '')
           WHERE NOT coalesce(u.at > batch_lanes.now, false)) d
   WHERE NOT EXISTS (SELECT FROM lane l WHERE l.queue = d.queue AND l.rank = d.rank);
END $$;
COMMENT ON FUNCTION rowlock.batch_lanes IS 'Says which priorities a batch uses. Never waits. Internal.';

CREATE OR REPLACE FUNCTION rowlock.batch_wake(types text[], queues text[], execute_at timestamptz[], opts jsonb[],
  n_type text[], n_key text[], n_name text[], now timestamptz) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, rowlock, pg_temp SET enable_mergejoin = off AS $$
  SELECT count(wake(w.name, w.jobs))
    FROM (SELECT n.name, count(*) AS jobs
            FROM unnest(types, queues, batch_wake.execute_at, opts) u(type, queue, at, o)
            JOIN unnest(n_type, n_key, n_name) n(type, key, name)
              ON n.type = u.type AND n.key = coalesce(u.queue, '')
           WHERE NOT coalesce(u.at > batch_wake.now, false) AND coalesce((u.o -> 'notify')::boolean, true)
           GROUP BY n.name) w
$$;
COMMENT ON FUNCTION rowlock.batch_wake IS
'Wakes sleepers of the queues of a batch, one for each job that is due and does not say notify false. Internal.';

CREATE OR REPLACE FUNCTION rowlock.element_problem(key text, value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
    WHEN k.code IS NULL THEN 'RL009: unknown key; known are type, payload, queue, priority, max_retries, execute_at, '
      || 'unique_key, opts'
    WHEN value = 'null' THEN NULL
    WHEN jsonb_typeof(value) <> k.kind
      OR k.kind = 'number' AND (value::numeric <> trunc(value::numeric) OR abs(value::numeric) > 2147483647)
      THEN format('%s: expected %s, got %s', k.code, k.expected,
        CASE jsonb_typeof(value) WHEN 'number' THEN left(value::text, 40) ELSE jsonb_typeof(value) END)
  END
    FROM (VALUES (1)) one
    LEFT JOIN (VALUES
      ('type',        'RL001', 'string', 'text'),
      ('payload',     'RL002', 'object', 'a JSON object'),
      ('queue',       'RL003', 'string', 'text'),
      ('priority',    'RL004', 'number', '-32768 to 32767'),
      ('max_retries', 'RL005', 'number', '0 to 32767'),
      ('execute_at',  'RL006', 'string', 'a time as text'),
      ('unique_key',  'RL007', 'string', 'text'),
      ('opts',        'RL008', 'object', 'a JSON object')) k(key, code, kind, expected) ON k.key = element_problem.key
$$;
COMMENT ON FUNCTION rowlock.element_problem IS
'What is wrong with a key of an element of enqueue_many, or with the kind of its value: SQLSTATE and sentence, or null.
Internal.';

CREATE OR REPLACE FUNCTION rowlock.batch_times(jobs jsonb) RETURNS timestamptz[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, rowlock, pg_temp AS $$
DECLARE
  v record;
BEGIN
  RETURN ARRAY(SELECT (e.job ->> 'execute_at')::timestamptz
                 FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord) ORDER BY e.ord);
EXCEPTION WHEN data_exception THEN
  -- One of them cannot be read: which?
  FOR v IN SELECT e.ord - 1 AS at, e.job ->> 'execute_at' AS value
             FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord)
            WHERE jsonb_typeof(e.job -> 'execute_at') = 'string' ORDER BY e.ord LOOP
    BEGIN
      PERFORM v.value::timestamptz;
    EXCEPTION WHEN data_exception THEN
      PERFORM refuse('RL006', format('jobs[%s].execute_at: expected a time such as 2030-01-31T12:00:00Z, got %s', v.at,
        left(v.value, 64)));
    END;
  END LOOP;
  RETURN NULL;
END $$;
COMMENT ON FUNCTION rowlock.batch_times IS
'The times of enqueue_many; refuses the first that cannot be read. Internal.';

CREATE OR REPLACE FUNCTION rowlock.enqueue_many(jobs jsonb) RETURNS TABLE (ord int4, id uuid, inserted boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_bad record;
  v_problem text;
  v_types text[]; v_payloads jsonb[]; v_queues text[]; v_priorities int4[]; v_retries int4[];
  v_at timestamptz[]; v_keys text[]; v_opts jsonb[];
  -- Asked once: inside the query below it would be once per element.
  v_any_at   boolean := jobs @? '$[*].execute_at';
  v_any_key  boolean := jobs @? '$[*].unique_key';
  v_any_opts boolean := jobs @? '$[*].opts';
BEGIN
  IF jobs IS NULL OR jsonb_typeof(jobs) <> 'array' THEN
    PERFORM refuse('RL009', 'jobs: expected a JSON array of objects, got ' || coalesce(jsonb_typeof(jobs), 'null'));
  END IF;
  PERFORM batch_length(ARRAY[jsonb_array_length(jobs)]);
  SELECT e.ord - 1 AS at, jsonb_typeof(e.job) AS kind INTO v_bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord) WHERE jsonb_typeof(e.job) <> 'object' LIMIT 1;
  IF FOUND THEN
    PERFORM refuse('RL009', format('jobs[%s]: expected a JSON object, got %s', v_bad.at, v_bad.kind));
  END IF;
  -- Anything but a known key with a value of its kind stops here, with the element's number. element_problem knows
  -- the same, and says it in words; in here it would cost too much.
  SELECT e.ord - 1 AS at, f.key, f.value INTO v_bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord), jsonb_each(e.job) f
   WHERE CASE
     WHEN f.key IN ('type', 'queue', 'execute_at', 'unique_key') THEN jsonb_typeof(f.value) NOT IN ('string', 'null')
     WHEN f.key IN ('priority', 'max_retries') THEN CASE WHEN jsonb_typeof(f.value) = 'number'
       THEN f.value::numeric <> trunc(f.value::numeric) OR abs(f.value::numeric) > 2147483647
       ELSE f.value <> 'null' END
     WHEN f.key IN ('payload', 'opts') THEN jsonb_typeof(f.value) NOT IN ('object', 'null')
     ELSE true END
   ORDER BY e.ord LIMIT 1;
  IF FOUND THEN
    v_problem := element_problem(v_bad.key, v_bad.value);
    PERFORM refuse(left(v_problem, 5), format('jobs[%s].%s%s', v_bad.at, left(v_bad.key, 128), substr(v_problem, 6)));
  END IF;
  IF v_any_at THEN v_at := batch_times(jobs); END IF;
  SELECT array_agg(e.job ->> 'type'), array_agg(nullif(e.job -> 'payload', 'null')), array_agg(e.job ->> 'queue'),
         array_agg((e.job ->> 'priority')::numeric::int4), array_agg((e.job ->> 'max_retries')::numeric::int4),
         array_agg(e.job ->> 'unique_key') FILTER (WHERE v_any_key),
         array_agg(nullif(e.job -> 'opts', 'null')) FILTER (WHERE v_any_opts)
    INTO v_types, v_payloads, v_queues, v_priorities, v_retries, v_keys, v_opts
    FROM (SELECT e.job FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord) ORDER BY e.ord) e;
  RETURN QUERY
  SELECT * FROM enqueue_batch_v1(v_types, v_payloads, v_queues, v_priorities, v_retries, v_at, v_keys, v_opts);
END $$;
COMMENT ON FUNCTION rowlock.enqueue_many IS
'enqueue for a JSON array of up to 10000 objects whose keys are enqueue''s argument names. All or nothing; answers in
input order with ord from 0.
SQLSTATEs: as enqueue, the message names the element (jobs[3].priority: …); RL009 for the list itself or an unknown
key. Locks: as enqueue, taken in key order.';
