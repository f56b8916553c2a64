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

const IN_NAMESPACE: &str = " in namespace ";
/// The database takes names of so many bytes.
const NAME_BYTES: usize = 128;

/// The name of a controller, with the namespace whose Deployments it scales.
pub(super) fn name_in(name: &str, namespace: Option<&str>) -> String {
    let Some(namespace) = namespace else { return name.to_owned() };
    let place = format!("{IN_NAMESPACE}{namespace}");
    let mut room = NAME_BYTES.saturating_sub(place.len()).min(name.len());
    while !name.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{place}", &name[..room])
}

/// Whether a leader of that name keeps a controller of this namespace from scaling. A leader of an earlier version does
/// not say its namespace, and must not hold up the rolling update that replaces it.
fn is_rival(leader: &str, namespace: Option<&str>) -> bool {
    let theirs = leader.rsplit_once(IN_NAMESPACE).map(|(_, theirs)| theirs);
    namespace.is_some() && theirs.is_some() && theirs != namespace
}

/// A controller that wants to lead.
pub(super) struct Candidate {
    pub id: Uuid,
    pub name: String,
    pub namespace: Option<String>,
    pub lease: Duration,
    /// Its own terms go here.
    pub terms: watch::Sender<Option<LeaderTerm>>,
    /// The name of a leader in another namespace goes here.
    pub rivals: watch::Sender<Option<String>>,
}

/// Takes the leadership when it is free and keeps it until `end`, then gives it up.
pub(super) async fn lead(store: Store, candidate: Candidate, end: CancellationToken) {
    let Candidate { id, name, namespace, lease, terms: term, rivals } = candidate;
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
                rivals.send_replace(Some(leader).filter(|leader| is_rival(leader, namespace.as_deref())));
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

    #[test]
    fn a_leader_of_another_namespace_is_a_rival_and_one_of_an_earlier_version_is_none() {
        let name = name_in("rowlock-controller-7d9-x2x", Some("shop"));
        assert_eq!(name, "rowlock-controller-7d9-x2x in namespace shop");
        assert!(is_rival(&name, Some("mail")));
        assert!(!is_rival(&name, Some("shop")) && !is_rival(&name, None));
        assert!(!is_rival("rowlock-controller-7d9-x2x", Some("mail")), "a rolling update must not get stuck");
        assert_eq!(name_in("laptop:1", None), "laptop:1");
    }

    #[test]
    fn a_long_name_is_cut_and_not_its_namespace() {
        let name = name_in(&"ü".repeat(200), Some("shop"));
        assert!(name.len() <= NAME_BYTES && name.ends_with(" in namespace shop"));
    }
}
