//! How the engine waits for something to do, and for how long at most. An idle worker that hears sleeps until it is
//! woken by name, so that an idle fleet costs the database next to nothing.

use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::{Engine, no_panic};
use crate::{
    Error,
    listen::Listener,
    worker::{drain, launcher::Launcher, options::Shutdown},
};

/// While idle and asked to end when the queues are empty, how often to look.
const EMPTY_POLL: Duration = Duration::from_millis(100);
/// How often a worker looks that is woken when a job comes. The keeper wakes again whom a wake did not reach.
const SLEEP_POLL: Duration = Duration::from_secs(30);

impl<L: Launcher> Engine<'_, L> {
    /// Whether nothing but a NOTIFY need end the next pause.
    pub(super) fn may_sleep(&self, draining: bool, listener: &Listener) -> bool {
        let idle = self.running.is_empty() && !draining && self.free_places() > 0;
        idle && listener.connected() && !self.options.stop_when_empty
    }

    /// Waits until there is something to do.
    pub(super) async fn wait(
        &mut self,
        pause: Duration,
        draining: bool,
        (wake, listener): (&Notify, &Listener),
        shutdown: &Shutdown,
    ) -> Result<(), Error> {
        let until = tokio::time::Instant::now() + pause;
        self.woken = false;
        loop {
            tokio::select! {
                Some(ended) = self.tasks.join_next() => self.end(ended),
                Some(cleaned) = self.cleanups.join_next() => no_panic(cleaned),
                () = wake.notified(), if !draining => {
                    // What woke it took its subscription, unless that was the loss of LISTEN.
                    self.woken = listener.connected();
                    self.caller.session.set_subscribed(self.caller.session.is_subscribed() && !self.woken);
                }
                () = tokio::time::sleep_until(until) => {}
                () = shutdown.drain.cancelled(), if self.draining.is_none() => {}
                () = shutdown.hurry.cancelled(), if !shutdown.hurry.is_cancelled() => {}
                Ok(()) = self.beats.changed() => {
                    self.apply_heartbeat()?;
                    // Nothing new for one who sleeps.
                    if self.caller.session.is_subscribed() && self.beats.borrow().draining.is_none() {
                        continue;
                    }
                }
            }
            break;
        }
        while let Some(ended) = self.tasks.try_join_next() {
            self.end(ended);
        }
        self.apply_heartbeat()
    }

    /// How long nothing may happen; meanwhile draining jobs get the stop request that is due.
    pub(super) fn pause(&self, idle: bool, shutdown: &Shutdown) -> Duration {
        let Some(since) = self.draining else {
            return match idle {
                true if self.options.stop_when_empty => EMPTY_POLL,
                // Woken in vain: what it was woken for may lie before its hints, and the next look finds it.
                true if self.caller.session.is_subscribed() && !self.woken => self.options.poll.max(SLEEP_POLL),
                _ => self.options.poll,
            };
        };
        match drain::stop_request(since, self.options.grace, shutdown.hurry.is_cancelled(), Instant::now()) {
            Ok(request) => {
                self.stop_all(request);
                self.options.poll
            }
            Err(wait) => wait,
        }
    }
}
