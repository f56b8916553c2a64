//! The calls in SQL, and what they carry as the database wants it.

use serde_json::{Value, json};

use crate::call::{KEYS, KINDS, New, QUEUES, UNIT};

/// Time passes: every deadline moves back instead, which only the owner of the tables can do. Functions
/// are left alone. History's partitions go by the real time.
pub const ADVANCE: &str = "
UPDATE rowlock.scheduled SET execute_at = execute_at - $1 * interval '1 s', created_at = created_at - $1 * interval '1 s';
UPDATE rowlock.ready SET execute_at = execute_at - $1 * interval '1 s', created_at = created_at - $1 * interval '1 s';
UPDATE rowlock.worker SET lease_until = lease_until - $1 * interval '1 s' WHERE lease_until > '-infinity';
UPDATE rowlock.keeper SET held_until = held_until - $1 * interval '1 s', folded_at = folded_at - $1 * interval '1 s',
  swept_at = swept_at - $1 * interval '1 s';
UPDATE rowlock.lane SET added_at = added_at - $1 * interval '1 s';
UPDATE rowlock.lease SET jobs = ARRAY(
  SELECT ROW(j.pos, j.id, j.created_at - $1 * interval '1 s', j.execute_at - $1 * interval '1 s', j.queue, j.rank, j.attempts,
             j.max_retries, j.moved, j.type, j.payload, j.unique_key, j.opts, j.error, j.lost_by)::rowlock.ready
    FROM unnest(jobs) j);
UPDATE rowlock.cancel_request SET requested_at = requested_at - $1 * interval '1 s'";

/// complete_v1 by way of take_back and settle, which every other end of a run uses: the hot path has a copy of its own
/// of what they do, and the two must not part.
pub const SETTLED: &str = "
CREATE FUNCTION public.complete(worker uuid, leases int8[], ids uuid[], results jsonb[]) RETURNS TABLE (refused uuid)
LANGUAGE plpgsql AS $$
DECLARE
  v      record;
  v_name text := (SELECT w.name FROM rowlock.worker w WHERE w.id = complete.worker AND w.lease_until > clock_timestamp());
  v_seen uuid[] := '{}';
  v_job  rowlock.ready;
BEGIN
  IF v_name IS NOT NULL THEN
    FOR v IN SELECT t.* FROM rowlock.take_back(complete.worker, leases, ids) t LOOP
      v_job := v.job;
      v_seen := v_seen || v_job.id;
      PERFORM rowlock.settle(v_job, v.claimed_at, v_name, v.progress, 'completed', NULL, result => results[v.ord]);
    END LOOP;
  END IF;
  RETURN QUERY SELECT DISTINCT u.id FROM unnest(ids) u(id) WHERE u.id <> ALL (v_seen);
END $$";
pub const COMPLETE_SETTLED: &str = "SELECT refused FROM public.complete($1, $2, $3, $4)";

pub const COMPLETE: &str = "SELECT refused FROM rowlock.complete_v1($1, $2, $3, $4)";
pub const CLAIM: &str = "SELECT NULL::uuid AS refused, c.* FROM rowlock.claim_v1($1, $2, $3, $4, $5, $6, $7) c";
pub const WORK: &str = "SELECT * FROM rowlock.work_v1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
pub const ENQUEUE: &str = "SELECT id, inserted FROM rowlock.enqueue($1, '{}', $2, $3, $4,
  clock_timestamp() + $5::float8 * interval '1 s', $6, $7)";
/// `delay` of an element becomes its execute_at, by the database's clock.
pub const ENQUEUE_MANY: &str = "SELECT id, inserted FROM rowlock.enqueue_many((
  SELECT jsonb_agg(CASE WHEN e.job ? 'delay'
           THEN e.job - 'delay' || jsonb_build_object('execute_at', n.at + (e.job ->> 'delay')::float8 * interval '1 s')
           ELSE e.job END ORDER BY e.ord)
    FROM (SELECT clock_timestamp() AS at) n, jsonb_array_elements($1::jsonb) WITH ORDINALITY e(job, ord))) ORDER BY ord";

pub fn seconds(units: i64) -> f64 {
    (units * UNIT) as f64
}

pub fn opts(new: &New) -> Value {
    if new.tag { json!({"tags": ["tagged"]}) } else { json!({}) }
}

/// An element of enqueue_many: what is not given is not there.
pub fn as_json(new: &New) -> Value {
    let mut job = json!({"type": KINDS[new.kind].name, "opts": opts(new)});
    let given = [
        ("queue", new.queue.map(|q| json!(QUEUES[q]))),
        ("priority", new.priority.map(Value::from)),
        ("max_retries", new.max_retries.map(Value::from)),
        ("unique_key", new.key.map(|k| json!(KEYS[k]))),
        ("delay", new.delay.map(|d| json!(seconds(d)))),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            job[key] = value;
        }
    }
    job
}
