-- How many jobs come in at once.

CREATE OR REPLACE FUNCTION rowlock.batch_jobs(types text[], payloads jsonb[], queues text[], priorities int4[], max_retries int4[],
  execute_at timestamptz[], unique_keys text[], opts jsonb[], positions int8[], held uuid[],
  n_type text[], n_key text[], n_queue int4[], n_priority int4[], n_retries int4[], now timestamptz, ms int8)
RETURNS TABLE (ord int8, pos int8, id uuid, queue int4, rank int2, max_retries int2, type text, payload jsonb,
  execute_at timestamptz, unique_key text, opts jsonb, held uuid)
LANGUAGE sql STABLE AS $$
  SELECT p.ord, p.pos, rowlock.make_id(ms, p.queue, (~p.priority)::int2, p.pos),
         p.queue, (~p.priority)::int2, p.retries::int2, p.type, coalesce(p.payload, '{}'), p.at, p.key, p.opts, p.held
    FROM (SELECT j.*, coalesce(j.taken, nextval('rowlock.position')) AS pos,
                 rowlock.job_problem(j.payload, j.priority, j.retries, j.at, j.key, now) AS problem
            FROM (SELECT u.*, n.queue, coalesce(u.own_priority, n.priority) AS priority, coalesce(u.own_retries, n.retries) AS retries
                    FROM unnest(types, payloads, queues, priorities, max_retries, execute_at, unique_keys, opts, positions, held)
                         WITH ORDINALITY u(type, payload, queue_name, own_priority, own_retries, at, key, opts, taken, held, ord)
                    JOIN unnest(n_type, n_key, n_queue, n_priority, n_retries) n(type, key, queue, priority, retries)
                      ON n.type = u.type AND n.key = coalesce(u.queue_name, '')
                   ORDER BY u.ord) j) p
   WHERE CASE WHEN p.problem IS NULL THEN true
         ELSE rowlock.refuse(left(p.problem, 5), format('jobs[%s].%s', p.ord - 1, substr(p.problem, 6))) IS NULL END
$$;
COMMENT ON FUNCTION rowlock.batch_jobs IS
'The jobs of a batch, each checked and with its place, in input order; n_ describe each pair of type and queue. It takes positions and yet is STABLE: only so does the planner make it a part of the calling statement. Give it the positions it took if it is called twice. Internal.';

CREATE OR REPLACE FUNCTION rowlock.enqueue_batch_v1(types text[], payloads jsonb[], queues text[] DEFAULT NULL,
  priorities int4[] DEFAULT NULL, max_retries int4[] DEFAULT NULL, execute_at timestamptz[] DEFAULT NULL,
  unique_keys text[] DEFAULT NULL, opts jsonb[] DEFAULT NULL)
RETURNS TABLE (ord int4, id uuid, inserted boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp SET plan_cache_mode = force_generic_plan SET enable_mergejoin = off AS $$
#variable_conflict use_column
DECLARE
  v_now     timestamptz := clock_timestamp();
  v_ms      int8 := floor(extract(epoch FROM v_now) * 1000);
  v_n       int := coalesce(cardinality(types), 0);
  v_pos     int8[];  -- only where there are unique keys
  v_ids     uuid[];
  v_held    uuid[];  -- per element: the job that holds its key, its own or another's
  v_missing int;
  v_pair    record;
  v_problem   text;
  v_opts    jsonb[] := enqueue_batch_v1.opts;
  -- The distinct pairs of type and queue ('' for none given), and what the catalogue says of each.
  n_type text[] := '{}'; n_key text[] := '{}'; n_name text[] := '{}'; n_queue int4[] := '{}';
  n_priority int4[] := '{}'; n_retries int4[] := '{}'; n_jobs int4[] := '{}';
  v_open    boolean := true;   -- every lane is
  v_listen boolean := false;  -- on some queue
BEGIN
  IF v_n = 0 THEN RETURN; END IF;
  IF v_n > 10000 THEN
    PERFORM refuse('RL009', format('jobs: expected at most 10000 elements, got %s', v_n));
  END IF;
  IF v_n <> ALL (ARRAY[coalesce(cardinality(payloads), v_n), coalesce(cardinality(queues), v_n), coalesce(cardinality(priorities), v_n),
      coalesce(cardinality(enqueue_batch_v1.max_retries), v_n), coalesce(cardinality(enqueue_batch_v1.execute_at), v_n),
      coalesce(cardinality(unique_keys), v_n), coalesce(cardinality(v_opts), v_n)]) THEN
    PERFORM refuse('RL009', 'jobs: expected arrays of equal length');
  END IF;

  -- Each distinct pair is looked up once; a batch has few.
  FOR v_pair IN
    SELECT u.type, u.queue AS key, u.at, u.jobs, t.name IS NOT NULL AS known, coalesce(u.queue, t.queue, 'default') AS queue, q.id,
           coalesce(t.priority, q.priority, 5)::int4 AS priority, coalesce(t.max_retries, q.max_retries, 3)::int4 AS retries,
           EXISTS (SELECT FROM lane l WHERE l.queue = q.id AND l.rank = ~coalesce(t.priority, q.priority, 5)) AS open,
           EXISTS (SELECT FROM subscription s WHERE s.queue = q.id) AS listens
      FROM (SELECT u.type, u.queue, min(u.ord) - 1 AS at, count(*)::int4 AS jobs
              FROM unnest(types, queues) WITH ORDINALITY u(type, queue, ord) GROUP BY u.type, u.queue) u
      LEFT JOIN job_type t ON t.name = u.type
      LEFT JOIN queue q ON q.name = coalesce(u.queue, t.queue, 'default')
     ORDER BY u.at
  LOOP
    v_problem := CASE WHEN NOT v_pair.known THEN name_problem(v_pair.type) END;
    IF v_problem IS NOT NULL THEN PERFORM refuse('RL001', format('jobs[%s].type: %s', v_pair.at, v_problem)); END IF;
    v_problem := CASE WHEN v_pair.id IS NULL THEN name_problem(v_pair.queue) END;
    IF v_problem IS NOT NULL THEN PERFORM refuse('RL003', format('jobs[%s].queue: %s', v_pair.at, v_problem)); END IF;
    n_type := n_type || v_pair.type; n_key := n_key || coalesce(v_pair.key, ''); n_name := n_name || v_pair.queue; n_queue := n_queue || v_pair.id;
    n_priority := n_priority || v_pair.priority; n_retries := n_retries || v_pair.retries; n_jobs := n_jobs || v_pair.jobs;
    v_open := v_open AND v_pair.open; v_listen := v_listen OR v_pair.listens;
  END LOOP;
  IF array_position(n_queue, NULL) IS NOT NULL THEN
    -- New queues, always in the same order, so that two batches cannot deadlock.
    PERFORM ensure_queue(n.name) FROM (SELECT DISTINCT u.name FROM unnest(n_name, n_queue) u(name, id) WHERE u.id IS NULL ORDER BY 1) n;
    SELECT array_agg(coalesce(u.id, (SELECT q.id FROM queue q WHERE q.name = u.name)) ORDER BY u.ord)
      INTO n_queue FROM unnest(n_name, n_queue) WITH ORDINALITY u(name, id, ord);
  END IF;
  IF v_opts IS NOT NULL THEN
    SELECT array_agg(CASE WHEN u.o IS NULL OR u.o = '{}' THEN NULL ELSE checked_opts(u.o, format('jobs[%s].', u.ord - 1)) END ORDER BY u.ord)
      INTO v_opts FROM unnest(v_opts) WITH ORDINALITY u(o, ord);
  END IF;

  IF unique_keys IS NOT NULL THEN
    SELECT array_agg(j.pos ORDER BY j.ord), array_agg(j.id ORDER BY j.ord) INTO v_pos, v_ids
      FROM batch_jobs(types, payloads, queues, priorities, enqueue_batch_v1.max_retries, enqueue_batch_v1.execute_at, unique_keys,
                      v_opts, NULL, NULL, n_type, n_key, n_queue, n_priority, n_retries, v_now, v_ms) j;
    -- As in enqueue, for all keys at once and in key order, so that two batches cannot deadlock.
    LOOP
      INSERT INTO unique_key (key, job)
      SELECT DISTINCT ON (u.key) u.key, u.id
        FROM unnest(unique_keys, v_ids) WITH ORDINALITY u(key, id, ord)
       WHERE u.key IS NOT NULL AND NOT EXISTS (SELECT FROM unique_key k WHERE k.key = u.key)
       ORDER BY u.key, u.ord
      ON CONFLICT DO NOTHING;
      SELECT array_agg(CASE WHEN u.key IS NULL THEN u.id ELSE k.job END ORDER BY u.ord),
             count(*) FILTER (WHERE u.key IS NOT NULL AND k.job IS NULL)
        INTO v_held, v_missing
        FROM unnest(unique_keys, v_ids) WITH ORDINALITY u(key, id, ord)
        LEFT JOIN unique_key k ON k.key = u.key;
      EXIT WHEN v_missing = 0;
    END LOOP;
  END IF;

  IF unique_keys IS NULL AND enqueue_batch_v1.execute_at IS NULL THEN
    -- All are new and due: what is below, with the steps left out that then do nothing.
    RETURN QUERY
    WITH counted AS (
      INSERT INTO tally (queue, type, pending, enqueued) SELECT n.queue, n.type, n.jobs, n.jobs FROM unnest(n_queue, n_type, n_jobs) n(queue, type, jobs)),
    due AS (
      INSERT INTO ready (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, opts)
      SELECT j.pos, j.id, v_now, v_now, j.queue, j.rank, j.max_retries, j.type, j.payload, j.opts
        FROM batch_jobs(types, payloads, queues, priorities, enqueue_batch_v1.max_retries, NULL, NULL,
                        v_opts, NULL, NULL, n_type, n_key, n_queue, n_priority, n_retries, v_now, v_ms) j
      RETURNING ready.id)
    SELECT (row_number() OVER () - 1)::int4, d.id, true FROM due d;
  ELSE
    RETURN QUERY
    WITH j AS MATERIALIZED (
      SELECT j.*, coalesce(j.held, j.id) AS holder, coalesce(j.execute_at > v_now, false) AS later
        FROM batch_jobs(types, payloads, queues, priorities, enqueue_batch_v1.max_retries, enqueue_batch_v1.execute_at, unique_keys,
                        v_opts, v_pos, v_held, n_type, n_key, n_queue, n_priority, n_retries, v_now, v_ms) j),
    due AS (
      INSERT INTO ready (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
      SELECT j.pos, j.id, v_now, coalesce(j.execute_at, v_now), j.queue, j.rank, j.max_retries, j.type, j.payload, j.unique_key, j.opts
        FROM j WHERE NOT j.later AND j.holder = j.id),
    delayed AS (
      INSERT INTO scheduled (pos, id, created_at, execute_at, queue, rank, max_retries, type, payload, unique_key, opts)
      SELECT j.pos, j.id, v_now, j.execute_at, j.queue, j.rank, j.max_retries, j.type, j.payload, j.unique_key, j.opts
        FROM j WHERE j.later AND j.holder = j.id),
    counted AS (
      INSERT INTO tally (queue, type, pending, scheduled, enqueued)
      SELECT j.queue, j.type, count(*) FILTER (WHERE NOT j.later), count(*) FILTER (WHERE j.later), count(*)
        FROM j WHERE j.holder = j.id GROUP BY j.queue, j.type)
    SELECT (j.ord - 1)::int4, j.holder, j.holder = j.id FROM j;
  END IF;

  IF NOT v_open OR priorities IS NOT NULL THEN
    -- Perhaps more than were used: a lane is a hint.
    INSERT INTO lane (queue, rank)
    SELECT DISTINCT n.queue, (~coalesce(p.own, n.priority))::int2
      FROM unnest(n_queue, n_priority) n(queue, priority), unnest(coalesce(priorities, '{NULL}')) p(own)
     WHERE NOT EXISTS (SELECT FROM lane l WHERE l.queue = n.queue AND l.rank = ~coalesce(p.own, n.priority));
  END IF;
  IF v_listen THEN
    PERFORM pg_notify('rowlock', s.queue::text) FROM (SELECT DISTINCT s.queue FROM subscription s WHERE s.queue = ANY (n_queue)) s;
  END IF;
END $$;
COMMENT ON FUNCTION rowlock.enqueue_batch_v1 IS
'enqueue for arrays, one element a job, for client libraries: the fastest way in. An array that is null means null for every element. All or nothing; answers in input order with ord from 0; at most 10000 jobs.
SQLSTATEs: as enqueue, the message names the element; RL009 for the arrays. Locks: as enqueue, taken in key order.';

CREATE OR REPLACE FUNCTION rowlock.enqueue_many(jobs jsonb) RETURNS TABLE (ord int4, id uuid, inserted boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, rowlock, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_bad record;
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
  IF jsonb_array_length(jobs) > 10000 THEN
    PERFORM refuse('RL009', format('jobs: expected at most 10000 elements, got %s', jsonb_array_length(jobs)));
  END IF;
  SELECT e.ord - 1 AS at, jsonb_typeof(e.job) AS kind INTO v_bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord) WHERE jsonb_typeof(e.job) <> 'object' LIMIT 1;
  IF FOUND THEN
    PERFORM refuse('RL009', format('jobs[%s]: expected a JSON object, got %s', v_bad.at, v_bad.kind));
  END IF;
  -- Anything but a known key with a value of its kind stops here, with the element's number.
  SELECT e.ord - 1 AS at, f.key, jsonb_typeof(f.value) AS kind,
         CASE f.key WHEN 'type' THEN 'RL001' WHEN 'payload' THEN 'RL002' WHEN 'queue' THEN 'RL003' WHEN 'priority' THEN 'RL004'
           WHEN 'max_retries' THEN 'RL005' WHEN 'execute_at' THEN 'RL006' WHEN 'unique_key' THEN 'RL007' WHEN 'opts' THEN 'RL008' END AS code,
         f.value
    INTO v_bad
    FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord), jsonb_each(e.job) f
   WHERE CASE
     WHEN f.key IN ('type', 'queue', 'execute_at', 'unique_key') THEN jsonb_typeof(f.value) NOT IN ('string', 'null')
     WHEN f.key IN ('priority', 'max_retries') THEN CASE WHEN jsonb_typeof(f.value) = 'number'
            THEN f.value::numeric <> trunc(f.value::numeric) OR abs(f.value::numeric) > 2147483647 ELSE f.value <> 'null' END
     WHEN f.key IN ('payload', 'opts') THEN jsonb_typeof(f.value) NOT IN ('object', 'null')
     ELSE true END
   ORDER BY e.ord LIMIT 1;
  IF FOUND THEN
    IF v_bad.code IS NULL THEN
      PERFORM refuse('RL009', format('jobs[%s].%s: unknown key; known are type, payload, queue, priority, max_retries, execute_at, unique_key, opts', v_bad.at, left(v_bad.key, 128)));
    END IF;
    PERFORM refuse(v_bad.code, format('jobs[%s].%s: expected %s, got %s', v_bad.at, v_bad.key,
      CASE v_bad.key WHEN 'priority' THEN '-32768 to 32767' WHEN 'max_retries' THEN '0 to 32767' WHEN 'payload' THEN 'a JSON object' WHEN 'opts' THEN 'a JSON object'
        WHEN 'execute_at' THEN 'a time as text' ELSE 'text' END,
      CASE WHEN v_bad.kind = 'number' THEN left(v_bad.value::text, 40) ELSE v_bad.kind END));
  END IF;
  SELECT array_agg(e.job ->> 'type'), array_agg(nullif(e.job -> 'payload', 'null')), array_agg(e.job ->> 'queue'),
         array_agg((e.job ->> 'priority')::numeric::int4), array_agg((e.job ->> 'max_retries')::numeric::int4),
         array_agg((e.job ->> 'execute_at')::timestamptz) FILTER (WHERE v_any_at), array_agg(e.job ->> 'unique_key') FILTER (WHERE v_any_key),
         array_agg(nullif(e.job -> 'opts', 'null')) FILTER (WHERE v_any_opts)
    INTO v_types, v_payloads, v_queues, v_priorities, v_retries, v_at, v_keys, v_opts
    FROM (SELECT e.job FROM jsonb_array_elements(jobs) WITH ORDINALITY e(job, ord) ORDER BY e.ord) e;
  RETURN QUERY SELECT * FROM enqueue_batch_v1(v_types, v_payloads, v_queues, v_priorities, v_retries, v_at, v_keys, v_opts);
END $$;
COMMENT ON FUNCTION rowlock.enqueue_many IS
'enqueue for a JSON array of up to 10000 objects whose keys are enqueue''s argument names. All or nothing; answers in input order with ord from 0.
SQLSTATEs: as enqueue, the message names the element (jobs[3].priority: …); RL009 for the list itself or an unknown key; 22007 for a time that Postgres cannot read. Locks: as enqueue, taken in key order.';
