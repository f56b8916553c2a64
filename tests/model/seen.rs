//! What there is to see, in the same words from the model and from the database: a JSON value each.

use serde_json::{Map, Value, json};

use crate::{
    call::{KEYS, KINDS, QUEUES},
    ends::worker_name,
    model::{Job, Model, Place},
};

/// `$1` are the jobs' ids by number, `$2` the leases, `$3` the workers.
pub const LOOK: &str = r"
WITH jobs AS MATERIALIZED (SELECT * FROM rowlock.jobs)
SELECT jsonb_build_object(
  'rows', (SELECT count(*) FROM jobs),
  'jobs', (SELECT jsonb_object_agg(coalesce(array_position($1::uuid[], j.id) - 1, -1), jsonb_build_object(
      'type', j.type, 'queue', j.queue, 'status', j.status, 'priority', j.priority, 'attempts', j.attempts,
      'max_retries', j.max_retries, 'error', j.error, 'result', j.result, 'unique_key', j.unique_key, 'progress', j.progress,
      'worker', j.worker, 'tags', j.tags, 'started', j.started_at IS NOT NULL, 'finished', j.finished_at IS NOT NULL))
    FROM jobs j),
  'reasons', (SELECT jsonb_object_agg(array_position($1, h.id) - 1, h.reason) FROM rowlock.history h WHERE h.reason IS NOT NULL),
  'due in', (SELECT jsonb_object_agg(array_position($1, s.id) - 1, ceil(extract(epoch FROM s.execute_at - clock_timestamp()) / 100)::int)
    FROM rowlock.scheduled s),
  'queues', (SELECT jsonb_object_agg(q.queue, jsonb_build_object('paused', q.paused, 'pending', q.pending, 'scheduled', q.scheduled,
      'running', q.running, 'failed', q.failed)) FROM rowlock.queues q),
  'totals', (SELECT jsonb_object_agg(d.queue || '/' || d.type, jsonb_build_array(d.enqueued, d.completed, d.failed, d.cancelled, d.retried))
    FROM rowlock.demand() d),
  'keys', (SELECT jsonb_object_agg(k.key, array_position($1, k.job) - 1) FROM rowlock.unique_key k),
  'asked to stop', (SELECT jsonb_object_agg(array_position($1, c.job) - 1, array_position($3::uuid[], c.worker) - 1) FROM rowlock.cancel_request c),
  'receipts', (SELECT jsonb_object_agg(array_position($2::int8[], l.id) - 1, jsonb_build_object('worker', array_position($3, l.worker) - 1,
      'remaining', l.remaining, 'held', cardinality(l.jobs) - cardinality(l.done))) FROM rowlock.lease l),
  'workers', (SELECT jsonb_object_agg(array_position($3, w.id) - 1,
      jsonb_build_object('draining', w.draining, 'alive', w.lease_until > clock_timestamp())) FROM rowlock.worker w))";

impl Model {
    /// What the database should look like.
    pub fn seen(&self) -> Value {
        let kept = || self.jobs.iter().enumerate().filter(|(_, j)| j.place != Place::Gone);
        let waiting = |j: &Job| !matches!(j.place, Place::Ended(_));
        json!({
            "rows": kept().count(),
            "jobs": object(kept().map(|(n, j)| (n.to_string(), self.job(j)))),
            "reasons": object(kept().filter_map(|(n, j)| Some((n.to_string(), j.reason?.into())))),
            "due in": object(kept().filter_map(|(n, j)| match j.place {
                Place::Scheduled { due, .. } => Some((n.to_string(), (due - self.now).into())),
                _ => None,
            })),
            "queues": object((0..QUEUES.len()).map(|q| (QUEUES[q].to_owned(), self.depth(q)))),
            "totals": object(self.totals.iter().map(|((queue, kind), t)| {
                let key = format!("{}/{}", QUEUES[*queue], KINDS[*kind].name);
                (key, json!([t.enqueued, t.completed, t.failed, t.cancelled, t.retried]))
            })),
            "keys": object(kept().filter(|(_, j)| waiting(j)).filter_map(|(n, j)| Some((KEYS[j.key?].to_owned(), n.into())))),
            "asked to stop": object(kept().filter(|(_, j)| j.asked).map(|(n, j)| (n.to_string(), json!(j.worker)))),
            "receipts": self.receipts(),
            "workers": object(self.workers.iter().enumerate().filter(|(_, w)| w.known).map(|(n, w)| {
                (n.to_string(), json!({"draining": w.draining, "alive": self.alive(n)}))
            })),
        })
    }

    fn job(&self, j: &Job) -> Value {
        let status = match j.place {
            Place::Ready | Place::Scheduled { .. } => "pending",
            Place::Running { .. } => "running",
            Place::Ended(status) => status,
            Place::Gone => "gone",
        };
        json!({
            "type": KINDS[j.kind].name, "queue": QUEUES[j.queue], "status": status, "priority": j.priority,
            "attempts": j.attempts, "max_retries": j.max_retries, "error": j.error, "result": j.result,
            "unique_key": j.key.map(|k| KEYS[k]), "progress": j.progress.map(|done| json!({"done": done})),
            "worker": j.worker.map(worker_name), "tags": j.tag.then(|| json!(["tagged"])),
            "started": j.started, "finished": matches!(j.place, Place::Ended(_)),
        })
    }

    fn depth(&self, queue: usize) -> Value {
        let count = |is: fn(Place) -> bool| self.jobs.iter().filter(|j| j.queue == queue && is(j.place)).count();
        json!({
            "paused": self.paused[queue],
            "pending": count(|p| p == Place::Ready),
            "scheduled": count(|p| matches!(p, Place::Scheduled { .. })),
            "running": count(|p| matches!(p, Place::Running { .. })),
            "failed": count(|p| p == Place::Ended("failed")),
        })
    }

    fn receipts(&self) -> Value {
        let mut all: Map<String, Value> = Map::new();
        for j in &self.jobs {
            if let Place::Running { worker, lease } = j.place {
                let one = all.entry(lease.to_string()).or_insert(json!({"worker": worker, "remaining": 0, "held": 0}));
                for count in ["remaining", "held"] {
                    one[count] = (one[count].as_u64().unwrap() + 1).into();
                }
            }
        }
        if all.is_empty() { Value::Null } else { all.into() }
    }
}

/// As `jsonb_object_agg` makes it: null if there is nothing.
fn object(entries: impl Iterator<Item = (String, Value)>) -> Value {
    let all: Map<String, Value> = entries.collect();
    if all.is_empty() { Value::Null } else { all.into() }
}

/// Where two values differ, a line each.
pub fn differences(path: &str, model: &Value, real: &Value, out: &mut String) {
    if model == real {
        return;
    }
    if let (Value::Object(m), Value::Object(r)) = (model, real) {
        for key in m.keys().chain(r.keys().filter(|k| !m.contains_key(*k))) {
            let absent = Value::String("(absent)".into());
            let (a, b) = (m.get(key).unwrap_or(&absent), r.get(key).unwrap_or(&absent));
            differences(&format!("{path}/{key}"), a, b, out);
        }
        return;
    }
    out.push_str(&format!("  {path}: expected {model}, the database has {real}\n"));
}
