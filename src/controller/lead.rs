//! The leadership: a row in Postgres with a lease and the number of the leader's term.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::store::{Led, Store};

/// A term in which this controller leads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LeaderTerm {
    /// Every write of a leader names this number, and is refused when the term is over.
    pub epoch: i64,
    /// The lease lasts at least until then. The time is on this process's monotonic clock, from before the question
    /// was sent, so it is never later than the database's.
    until: Instant,
}

impl LeaderTerm {
    /// Whether a write is worth trying. A write after the end of the term is refused in any case.
    pub(super) fn lasts(&self) -> bool {
        Instant::now() < self.until
    }
}

const OF_RELEASE: &str = " of release ";
const IN_NAMESPACE: &str = " in namespace ";
/// The database takes names of so many bytes.
const NAME_BYTES: usize = 128;

/// Whose Deployments a controller scales: those of a namespace, but not what Helm made for another release. It is the
/// end of the controller's name, so that others can read it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scope {
    pub namespace: Option<String>,
    pub release: Option<String>,
}

impl Scope {
    /// The name with this scope behind it.
    pub(super) fn named(&self, name: &str) -> String {
        let Some(namespace) = &self.namespace else { return name.to_owned() };
        let release = self.release.as_ref().map_or_else(String::new, |release| format!("{OF_RELEASE}{release}"));
        let place = format!("{release}{IN_NAMESPACE}{namespace}");
        let mut room = NAME_BYTES.saturating_sub(place.len()).min(name.len());
        while !name.is_char_boundary(room) {
            room -= 1;
        }
        format!("{}{place}", &name[..room])
    }

    fn of(name: &str) -> Scope {
        let (before, namespace) = name.rsplit_once(IN_NAMESPACE).unzip();
        let release = before.and_then(|before| before.rsplit_once(OF_RELEASE)).map(|(_, release)| release.to_owned());
        Scope { namespace: namespace.map(str::to_owned), release }
    }

    /// Whether a leader of that name scales nothing of this scope. A leader of an earlier version does not say its
    /// scope, and must not hold up the rolling update that replaces it; one of no release scales all releases.
    fn is_left_out_by(&self, leader: &str) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        let theirs = Scope::of(leader);
        differ(&self.namespace, &theirs.namespace) || differ(&self.release, &theirs.release)
    }
}

/// A controller that wants to lead.
pub(super) struct Candidate {
    pub id: Uuid,
    pub name: String,
    pub scope: Scope,
    pub lease: Duration,
    /// Its own terms go here.
    pub terms: watch::Sender<Option<LeaderTerm>>,
    /// The name of a leader that scales nothing of this scope goes here.
    pub rivals: watch::Sender<Option<String>>,
}

/// Takes the leadership when it is free and keeps it until `end`, then gives it up.
pub(super) async fn lead(store: Store, candidate: Candidate, end: CancellationToken) {
    let Candidate { id, name, scope, lease, terms: term, rivals } = candidate;
    let mut has_asked = false;
    loop {
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = store.lead(id, &name, lease) => answer,
            () = end.cancelled() => break,
        };
        has_asked |= answer.is_ok();
        let wait = match answer {
            Ok(Led { epoch: Some(epoch), .. }) => {
                let before = term.send_replace(Some(LeaderTerm { epoch, until: asked + lease }));
                if before.is_none_or(|t| t.epoch != epoch) {
                    tracing::info!(epoch, "leading");
                }
                rivals.send_replace(None);
                lease / 5
            }
            Ok(Led { epoch: None, leader, left }) => {
                if term.send_replace(None).is_some() {
                    tracing::warn!(leader, "another controller leads now");
                }
                rivals.send_replace(Some(leader).filter(|leader| scope.is_left_out_by(leader)));
                // Not before it can be free, and often enough to be there soon after.
                left.clamp(Duration::from_millis(20), (lease / 15).max(Duration::from_millis(50)))
            }
            // Who starts waits for a database that is away, and for nothing that somebody has to mend first.
            Err(error) if !has_asked && !error.is_transient() => {
                store.give_up(error);
                break;
            }
            Err(error) => {
                tracing::warn!(%error, "the leadership cannot be asked for");
                term.send_if_modified(|t| t.take_if(|t| !t.lasts()).is_some());
                Duration::from_millis(500).min(lease / 5)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => break,
        }
    }
    if let Some(term) = term.send_replace(None)
        && let Err(error) = store.resign(term.epoch).await
    {
        tracing::debug!(%error, "the leadership was not given up; its lease ends by itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(namespace: Option<&str>, release: Option<&str>) -> Scope {
        Scope { namespace: namespace.map(str::to_owned), release: release.map(str::to_owned) }
    }

    #[test]
    fn a_leader_of_another_scope_is_a_rival_and_one_of_an_earlier_version_is_none() {
        let shop = scope(Some("shop"), Some("a"));
        let name = shop.named("rowlock-controller-7d9-x2x");
        assert_eq!(name, "rowlock-controller-7d9-x2x of release a in namespace shop");
        assert_eq!(Scope::of(&name), shop);
        for left_out in [scope(Some("mail"), Some("a")), scope(Some("shop"), Some("b")), scope(Some("mail"), None)] {
            assert!(left_out.is_left_out_by(&name), "{left_out:?}");
        }
        for led in [shop.clone(), scope(Some("shop"), None), scope(None, None)] {
            assert!(!led.is_left_out_by(&name), "{led:?}");
        }
        assert!(!shop.is_left_out_by("rowlock-controller-7d9-x2x"), "a rolling update must not get stuck");
        assert!(!shop.is_left_out_by("rowlock-controller-7d9-x2x in namespace shop"), "nor by one of no release");
        assert_eq!(scope(None, Some("a")).named("laptop:1"), "laptop:1");
    }

    #[test]
    fn a_long_name_is_cut_and_not_its_scope() {
        let name = scope(Some("shop"), Some("a")).named(&"ü".repeat(200));
        assert!(name.len() <= NAME_BYTES && name.ends_with(" of release a in namespace shop"));
    }
}
