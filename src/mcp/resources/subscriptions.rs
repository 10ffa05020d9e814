//! Notifies clients of changes: by `resources/subscribe` up to protocol 2025-11-25, by `subscriptions/listen` from
//! 2026-07-28 on.
//!
//! The change stamp of a resource is compared once a second while a client subscribes to it. So changes by the host, the
//! guest and other clients are noticed alike. Nothing is booted for it, and it does not keep a sandbox from being idle. A
//! subscription outlives its sandbox: while there is none, only files of a shared workspace are observed, and the stamps
//! of the next sandbox are compared with those of the last one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, SubscriptionContext, SubscriptionSendError};
use rmcp::{ErrorData, RoleServer};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::address::{Address, Subject};
use super::stamp::{list_stamp, stamp};
use crate::mcp::selector::Selector;

/// How often stamps are compared.
const INTERVAL: Duration = Duration::from_secs(1);

/// How many resources one client may subscribe to.
const MAX_SUBSCRIPTIONS: usize = 256;

/// Stands for the list itself among the addresses.
const LIST: &str = "";

/// The subscriptions of a client with a session. Dropping them ends them.
#[derive(Default)]
pub(crate) struct Subscriptions(Mutex<HashMap<String, DropGuard>>);

impl Subscriptions {
    fn table(&self) -> MutexGuard<'_, HashMap<String, DropGuard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies of changes at `uri` from now on. A second subscription replaces the first.
    pub(crate) async fn subscribe(
        &self,
        uri: &str,
        selector: &Arc<Selector>,
        peer: Peer<RoleServer>,
    ) -> Result<(), ErrorData> {
        Address::parse(uri)
            .map_err(|error| ErrorData::resource_not_found(error.to_string(), None))?;
        if self.table().len() >= MAX_SUBSCRIPTIONS {
            return Err(ErrorData::invalid_params(
                format!(
                    "one client may subscribe to {MAX_SUBSCRIPTIONS} resources: unsubscribe from some first"
                ),
                None,
            ));
        }
        self.watch(uri, selector, peer).await;
        Ok(())
    }

    /// Ends the subscription to `uri`.
    pub(crate) fn unsubscribe(&self, uri: &str) {
        self.table().remove(uri);
    }

    /// Notifies of changes of the list from now on. Only a client that has asked for the list needs them.
    pub(crate) async fn watch_list(&self, selector: &Arc<Selector>, peer: Peer<RoleServer>) {
        let watched = self.table().contains_key(LIST);
        if !watched {
            self.watch(LIST, selector, peer).await;
        }
    }

    async fn watch(&self, uri: &str, selector: &Arc<Selector>, peer: Peer<RoleServer>) {
        let ended = CancellationToken::new();
        let selector = Arc::downgrade(selector);
        // The first stamp is taken before the answer, so a change right after the answer is noticed.
        let first = observe(&selector, uri).await;
        let notifying = notify(selector, uri.to_owned(), first, peer);
        tokio::spawn(ended.clone().run_until_cancelled_owned(notifying));
        self.table().insert(uri.to_owned(), ended.drop_guard());
    }
}

/// One observation of a resource.
enum Observation {
    /// Its change stamp.
    Stamp(String),
    /// There is no sandbox now.
    NoSandbox,
    /// The client has left.
    ClientLeft,
}

/// The last known stamp of a resource.
#[derive(Default)]
struct LastStamp(Option<String>);

impl LastStamp {
    /// Whether an observation shows a change.
    fn changed(&mut self, observation: &Observation) -> bool {
        let Observation::Stamp(stamp) = observation else {
            return false;
        };
        self.0.replace(stamp.clone()).as_ref() != Some(stamp)
    }
}

async fn notify(selector: Weak<Selector>, uri: String, first: Observation, peer: Peer<RoleServer>) {
    let mut last = LastStamp::default();
    let mut observed = first;
    last.changed(&observed);
    while !matches!(observed, Observation::ClientLeft) {
        tokio::time::sleep(INTERVAL).await;
        observed = observe(&selector, &uri).await;
        if !last.changed(&observed) {
            continue;
        }
        let sent = match uri.as_str() {
            LIST => peer.notify_resource_list_changed().await,
            _ => {
                let about = ResourceUpdatedNotificationParam::new(uri.clone());
                peer.notify_resource_updated(about).await
            }
        };
        if sent.is_err() {
            break;
        }
    }
}

/// Observes the resource at `uri`.
async fn observe(selector: &Weak<Selector>, uri: &str) -> Observation {
    let Some(selector) = selector.upgrade() else {
        return Observation::ClientLeft;
    };
    let address = Address::parse(uri).ok();
    let named = address
        .as_ref()
        .and_then(|address| address.sandbox.as_deref());
    let sandbox = selector.peek(named);
    // Files of a shared workspace exist without a sandbox, too.
    if let (Some(Subject::Workspace(path)), None) =
        (address.as_ref().map(|address| &address.subject), &sandbox)
    {
        let workspace = selector.config().sandbox.workspace.clone();
        drop(selector);
        return Observation::Stamp(format!("{:?}", workspace.stamp(path).await));
    }
    drop(selector);
    match (address, sandbox) {
        (_, None) => Observation::NoSandbox,
        (None, sandbox) => Observation::Stamp(list_stamp(sandbox.as_ref()).await),
        (Some(address), Some(sandbox)) => {
            Observation::Stamp(stamp(&sandbox, &address.subject).await)
        }
    }
}

/// The part of a requested filter that this client can have.
pub(crate) fn accepted_filter(
    selector: &Selector,
    requested: &SubscriptionFilter,
) -> SubscriptionFilter {
    let mut accepted = SubscriptionFilter::new();
    // In a pool, a client without a session has no list of its own.
    accepted.resources_list_changed = requested
        .resources_list_changed
        .filter(|_| !selector.has_fleet());
    accepted.resource_subscriptions = requested.resource_subscriptions.as_ref().map(|uris| {
        let reachable = |uri: &&String| {
            Address::parse(uri)
                .is_ok_and(|address| !selector.has_fleet() || address.sandbox.is_some())
        };
        uris.iter()
            .filter(reachable)
            .take(MAX_SUBSCRIPTIONS)
            .cloned()
            .collect()
    });
    accepted
}

/// Notifies of changes until the client or the server ends the stream.
///
/// The library answers before it calls this, so a change between the answer and the first stamp would be missed. Hence
/// each resource is notified once at the start, and then when it changes.
pub(crate) async fn listen(selector: &Arc<Selector>, context: &SubscriptionContext) {
    let accepted = context.accepted();
    let mut watched: Vec<(String, LastStamp)> = Vec::new();
    if accepted.resources_list_changed == Some(true) {
        watched.push((LIST.to_owned(), LastStamp::default()));
    }
    for uri in accepted.resource_subscriptions.iter().flatten() {
        watched.push((uri.clone(), LastStamp::default()));
    }
    let selector = Arc::downgrade(selector);
    loop {
        for (uri, last) in &mut watched {
            if !last.changed(&observe(&selector, uri).await) {
                continue;
            }
            let sent = match uri.as_str() {
                LIST => context.sink().notify_resource_list_changed().await,
                uri => context.sink().notify_resource_updated(uri).await,
            };
            match sent {
                Ok(()) => {}
                Err(SubscriptionSendError::NotificationNotAccepted(_)) => {}
                Err(_) => return,
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_compared_with_the_last_known_one() {
        let stamp = |text: &str| Observation::Stamp(text.to_owned());
        let mut last = LastStamp::default();
        assert!(
            last.changed(&stamp("a")),
            "the first stamp counts as a change"
        );
        assert!(!last.changed(&stamp("a")));
        assert!(!last.changed(&Observation::NoSandbox));
        assert!(!last.changed(&stamp("a")));
        assert!(last.changed(&stamp("b")));
    }
}
