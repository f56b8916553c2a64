//! Events: sentences at an object, for people who look at it. They cost nobody time: a queue with a bound, and a
//! task that tells. What was told a moment ago is not told again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::api::PostParams;
use tokio::sync::mpsc;

use super::Cluster;

/// The same sentence at the same object is not said again for so long.
const AGAIN: Duration = Duration::from_secs(600);
/// Per object: so many at once, and then one in so long.
const AT_ONCE: f64 = 20.0;
const ONE_IN: Duration = Duration::from_secs(10);
/// What waits to be told, at most.
const WAITING: usize = 256;
/// The API's own limit for a note is 1 KiB.
const LONGEST: usize = 1000;

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is as it should be.
    Normal,
    /// Somebody has to do something.
    Warning,
}

/// Where Events are left. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Told>);

#[derive(Debug)]
struct Told {
    at: ObjectReference,
    kind: Kind,
    reason: &'static str,
    note: String,
}

impl Events {
    /// Tells in the name of `reporter`. Ends with the last of its clones.
    ///
    /// ```no_run
    /// # fn f(cluster: &rowlock::cluster::Cluster, pod: &k8s_openapi::api::core::v1::Pod) {
    /// use kube::Resource;
    /// use rowlock::cluster::{Events, Kind};
    /// let events = Events::new(cluster.clone(), "rowlock-controller");
    /// events.tell(pod.object_ref(&()), Kind::Warning, "Unwell", "it is unwell; look at its log".into());
    /// # }
    /// ```
    pub fn new(cluster: Cluster, reporter: &'static str) -> Events {
        let (tell, mut told) = mpsc::channel::<Told>(WAITING);
        let instance = std::env::var("POD_NAME").unwrap_or_else(|_| reporter.to_owned());
        tokio::spawn(async move {
            let mut memory = Memory::default();
            while let Some(t) = told.recv().await {
                if !memory.is_news(&t, Instant::now()) {
                    continue;
                }
                let what = format!("create event {} at {}", t.reason, t.at.name.as_deref().unwrap_or_default());
                let event = event(t, reporter, &instance);
                let events = cluster.api::<Event>();
                if let Err(error) = cluster.call(&what, events.create(&PostParams::default(), &event)).await {
                    tracing::debug!(%error, "an Event was not told");
                }
            }
        });
        Events(tell)
    }

    /// Leaves one; if too many wait, this one is lost.
    ///
    /// ```no_run
    /// # fn f(events: &rowlock::cluster::Events, at: k8s_openapi::api::core::v1::ObjectReference) {
    /// events.tell(at, rowlock::cluster::Kind::Normal, "ScaledOut", "from 1 to 3".into());
    /// # }
    /// ```
    pub fn tell(&self, at: ObjectReference, kind: Kind, reason: &'static str, note: String) {
        if self.0.try_send(Told { at, kind, reason, note }).is_err() {
            tracing::debug!(reason, "too many Events wait: one is lost");
        }
    }
}

fn event(t: Told, reporter: &str, instance: &str) -> Event {
    let now = Timestamp::now();
    let note = if t.note.len() > LONGEST { format!("{}…", cut(&t.note, LONGEST)) } else { t.note };
    let name = t.at.name.as_deref().unwrap_or(reporter);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", cut(name, 200), now.as_nanosecond())),
            namespace: t.at.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some(t.reason.into()),
        reason: Some(t.reason.into()),
        note: Some(note),
        type_: Some(match t.kind {
            Kind::Normal => "Normal".into(),
            Kind::Warning => "Warning".into(),
        }),
        event_time: Some(MicroTime(now)),
        regarding: Some(t.at),
        reporting_controller: Some(format!("rowlock.dev/{reporter}")),
        reporting_instance: Some(cut(instance, 128).to_owned()),
        ..Event::default()
    }
}

/// No more bytes than that, and no letter torn.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|n| text.is_char_boundary(*n)).unwrap_or_default();
    &text[..end]
}

/// What was told, and how much more may be.
#[derive(Default)]
struct Memory(HashMap<String, Object>);

struct Object {
    said: HashMap<String, Instant>,
    left: f64,
    at: Instant,
}

impl Memory {
    fn is_news(&mut self, t: &Told, now: Instant) -> bool {
        self.0.retain(|_, o| now.duration_since(o.at) < AGAIN);
        let key = t.at.uid.clone().or_else(|| t.at.name.clone()).unwrap_or_default();
        let object = self.0.entry(key).or_insert_with(|| Object { said: HashMap::new(), left: AT_ONCE, at: now });
        object.said.retain(|_, at| now.duration_since(*at) < AGAIN);
        let sentence = format!("{} {}", t.reason, t.note);
        if object.said.contains_key(&sentence) {
            return false;
        }
        let more = now.duration_since(object.at).as_secs_f64() / ONE_IN.as_secs_f64();
        object.left = (object.left + more).min(AT_ONCE);
        object.at = now;
        if object.left < 1.0 {
            return false;
        }
        object.left -= 1.0;
        object.said.insert(sentence, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(object: &str, note: &str) -> Told {
        let at = ObjectReference { uid: Some(object.into()), ..ObjectReference::default() };
        Told { at, kind: Kind::Normal, reason: "Scaled", note: note.into() }
    }

    #[test]
    fn the_same_is_said_once_in_a_while_and_no_object_floods() {
        let mut memory = Memory::default();
        let start = Instant::now();
        assert!(memory.is_news(&told("a", "one"), start));
        assert!(!memory.is_news(&told("a", "one"), start + AGAIN / 2));
        assert!(memory.is_news(&told("b", "one"), start + AGAIN / 2));
        assert!(memory.is_news(&told("a", "one"), start + AGAIN * 2));
        let many = (0..1000).filter(|n| memory.is_news(&told("c", &n.to_string()), start + AGAIN * 2)).count();
        assert_eq!(many, 20);
        assert!(memory.is_news(&told("c", "later"), start + AGAIN * 2 + ONE_IN));
    }

    #[test]
    fn a_long_note_is_cut_between_letters() {
        let cut = event(told("a", &"é".repeat(2000)), "controller", "pod").note.unwrap_or_default();
        assert!(cut.len() < 1024 && cut.ends_with('…'), "{}", cut.len());
    }
}
