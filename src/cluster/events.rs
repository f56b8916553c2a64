//! Events: sentences at an object, for people who look at it. They cost the publisher no time: there is a bounded queue
//! and a task that sends. A sentence that was sent a moment ago is not sent again.

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

/// The same sentence at the same object is not sent again for this time.
const REPEAT_AFTER: Duration = Duration::from_secs(600);
/// An object may have so many Events at once, and then one more in each period.
const BURST: f64 = 20.0;
const REFILL_EVERY: Duration = Duration::from_secs(10);
/// At most so many Events wait to be sent.
const QUEUE_LENGTH: usize = 256;
/// The length of a note. The API's own limit is 1 KiB.
const NOTE_BYTES: usize = 1000;

/// The type under which an Event is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The object is as it should be.
    Normal,
    /// Somebody has to do something.
    Warning,
}

/// A queue of Events. A clone is cheap.
#[derive(Debug, Clone)]
pub struct Events(mpsc::Sender<Notice>);

#[derive(Debug)]
struct Notice {
    at: ObjectReference,
    kind: Kind,
    reason: &'static str,
    note: String,
}

impl Events {
    /// Makes a queue whose Events are sent in the name of `reporter`. The sending task ends with the last clone.
    ///
    /// ```no_run
    /// # fn f(cluster: &rowlock::cluster::Cluster, pod: &k8s_openapi::api::core::v1::Pod) {
    /// use kube::Resource;
    /// use rowlock::cluster::{Events, Kind};
    /// let events = Events::new(cluster.clone(), "rowlock-controller");
    /// events.publish(pod.object_ref(&()), Kind::Warning, "Unwell", "it is unwell; look at its log".into());
    /// # }
    /// ```
    pub fn new(cluster: Cluster, reporter: &'static str) -> Events {
        let (sender, mut notices) = mpsc::channel::<Notice>(QUEUE_LENGTH);
        let instance = std::env::var("POD_NAME").unwrap_or_else(|_| reporter.to_owned());
        tokio::spawn(async move {
            let mut memory = Memory::default();
            while let Some(notice) = notices.recv().await {
                if !memory.admits(&notice, Instant::now()) {
                    continue;
                }
                let what =
                    format!("create event {} at {}", notice.reason, notice.at.name.as_deref().unwrap_or_default());
                let event = event(notice, reporter, &instance);
                let events = cluster.api::<Event>();
                if let Err(error) = cluster.call(&what, events.create(&PostParams::default(), &event)).await {
                    tracing::debug!(%error, "an Event was not sent");
                }
            }
        });
        Events(sender)
    }

    /// Publishes an Event; if too many wait, this one is lost.
    ///
    /// ```no_run
    /// # fn f(events: &rowlock::cluster::Events, at: k8s_openapi::api::core::v1::ObjectReference) {
    /// events.publish(at, rowlock::cluster::Kind::Normal, "ScaledOut", "from 1 to 3".into());
    /// # }
    /// ```
    pub fn publish(&self, at: ObjectReference, kind: Kind, reason: &'static str, note: String) {
        if self.0.try_send(Notice { at, kind, reason, note }).is_err() {
            tracing::debug!(reason, "too many Events wait: one is lost");
        }
    }
}

fn event(t: Notice, reporter: &str, instance: &str) -> Event {
    let now = Timestamp::now();
    let note = if t.note.len() > NOTE_BYTES { format!("{}…", cut(&t.note, NOTE_BYTES)) } else { t.note };
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

/// The beginning of a text, with at most so many bytes and no letter cut in two.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|n| text.is_char_boundary(*n)).unwrap_or_default();
    &text[..end]
}

/// The sentences that were sent, and the room for more.
#[derive(Default)]
struct Memory(HashMap<String, Object>);

struct Object {
    sent: HashMap<String, Instant>,
    room: f64,
    at: Instant,
}

impl Memory {
    fn admits(&mut self, t: &Notice, now: Instant) -> bool {
        self.0.retain(|_, o| now.duration_since(o.at) < REPEAT_AFTER);
        let key = t.at.uid.clone().or_else(|| t.at.name.clone()).unwrap_or_default();
        let object = self.0.entry(key).or_insert_with(|| Object { sent: HashMap::new(), room: BURST, at: now });
        object.sent.retain(|_, at| now.duration_since(*at) < REPEAT_AFTER);
        let sentence = format!("{} {}", t.reason, t.note);
        if object.sent.contains_key(&sentence) {
            return false;
        }
        let more = now.duration_since(object.at).as_secs_f64() / REFILL_EVERY.as_secs_f64();
        object.room = (object.room + more).min(BURST);
        object.at = now;
        if object.room < 1.0 {
            return false;
        }
        object.room -= 1.0;
        object.sent.insert(sentence, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(object: &str, note: &str) -> Notice {
        let at = ObjectReference { uid: Some(object.into()), ..ObjectReference::default() };
        Notice { at, kind: Kind::Normal, reason: "Scaled", note: note.into() }
    }

    #[test]
    fn the_same_sentence_is_sent_once_in_a_while_and_no_object_floods() {
        let mut memory = Memory::default();
        let start = Instant::now();
        assert!(memory.admits(&notice("a", "one"), start));
        assert!(!memory.admits(&notice("a", "one"), start + REPEAT_AFTER / 2));
        assert!(memory.admits(&notice("b", "one"), start + REPEAT_AFTER / 2));
        assert!(memory.admits(&notice("a", "one"), start + REPEAT_AFTER * 2));
        let many = (0..1000).filter(|n| memory.admits(&notice("c", &n.to_string()), start + REPEAT_AFTER * 2)).count();
        assert_eq!(many, 20);
        assert!(memory.admits(&notice("c", "later"), start + REPEAT_AFTER * 2 + REFILL_EVERY));
    }

    #[test]
    fn a_long_note_is_cut_between_letters() {
        let cut = event(notice("a", &"é".repeat(2000)), "controller", "pod").note.unwrap_or_default();
        assert!(cut.len() < 1024 && cut.ends_with('…'), "{}", cut.len());
    }
}
