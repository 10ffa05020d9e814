//! Telling clients what changed: `resources/subscribe` and its notifications up to 2025-11-25, `subscriptions/listen`
//! from 2026-07-28.
//!
//! Resources are looked at once a second, only while somebody subscribed to them; nothing is booted for it, and a
//! sandbox that is looked at is as idle as before. So what happens on the host, in the guest, and through other
//! clients is noticed alike.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, SubscriptionContext, SubscriptionSendError};
use rmcp::{ErrorData, RoleServer};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::address::Address;
use super::desk::Desk;
use super::resources::{list_stamp, stamp};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);

/// How many resources one client may subscribe to.
const MOST: usize = 256;

/// The name under which the list itself is watched.
const LIST: &str = "";

/// What a client with a session subscribed to. Dropped, it watches nothing any more.
#[derive(Default)]
pub(super) struct Watches(Mutex<HashMap<String, DropGuard>>);

impl Watches {
    fn table(&self) -> MutexGuard<'_, HashMap<String, DropGuard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of changes at `uri` from now on. Subscribing twice is subscribing once.
    pub(super) async fn subscribe(
        &self,
        uri: &str,
        desk: &Arc<Desk>,
        peer: Peer<RoleServer>,
    ) -> Result<(), ErrorData> {
        Address::parse(uri).map_err(|why| ErrorData::resource_not_found(why, None))?;
        if self.table().len() >= MOST {
            return Err(ErrorData::invalid_params(
                format!(
                    "one client may subscribe to {MOST} resources: unsubscribe from some first"
                ),
                None,
            ));
        }
        self.watch(uri, desk, peer).await;
        Ok(())
    }

    /// Tells no more of changes at `uri`.
    pub(super) fn unsubscribe(&self, uri: &str) {
        self.table().remove(uri);
    }

    /// Tells of changes of the list from now on: who has never asked for it needs no news of it.
    pub(super) async fn watch_list(&self, desk: &Arc<Desk>, peer: Peer<RoleServer>) {
        let watched = self.table().contains_key(LIST);
        if !watched {
            self.watch(LIST, desk, peer).await;
        }
    }

    async fn watch(&self, uri: &str, desk: &Arc<Desk>, peer: Peer<RoleServer>) {
        let ended = CancellationToken::new();
        let desk = Arc::downgrade(desk);
        // What changes after the answer is told, so it is looked at before.
        let first = now(&desk, uri).await;
        let telling = tell(desk, uri.to_owned(), first, peer);
        tokio::spawn(ended.clone().run_until_cancelled_owned(telling));
        self.table().insert(uri.to_owned(), ended.drop_guard());
    }
}

async fn tell(desk: Weak<Desk>, uri: String, first: Option<String>, peer: Peer<RoleServer>) {
    let mut last = first;
    while last.is_some() {
        tokio::time::sleep(EVERY).await;
        let next = now(&desk, &uri).await;
        if next.is_some() && next != last {
            let told = match uri.as_str() {
                LIST => peer.notify_resource_list_changed().await,
                _ => {
                    let about = ResourceUpdatedNotificationParam::new(uri.clone());
                    peer.notify_resource_updated(about).await
                }
            };
            if told.is_err() {
                break;
            }
        }
        last = next;
    }
}

/// How it stands with what is at `uri`; none when the client has left.
async fn now(desk: &Weak<Desk>, uri: &str) -> Option<String> {
    let address = Address::parse(uri).ok();
    let named = address
        .as_ref()
        .and_then(|address| address.sandbox.as_deref());
    let sandbox = desk.upgrade()?.seen(named);
    Some(match (address, sandbox) {
        (None, sandbox) => list_stamp(sandbox.as_ref()),
        (Some(address), Some(sandbox)) => stamp(&sandbox, &address.subject).await,
        (Some(_), None) => String::new(),
    })
}

/// The part of what a client wants to hear of that it can hear of.
pub(super) fn accepted(desk: &Desk, requested: &SubscriptionFilter) -> SubscriptionFilter {
    let mut accepted = SubscriptionFilter::new();
    // Who has no session has no list of its own.
    accepted.resources_list_changed = requested
        .resources_list_changed
        .filter(|_| !desk.has_many());
    accepted.resource_subscriptions = requested.resource_subscriptions.as_ref().map(|uris| {
        let reachable = |uri: &&String| {
            Address::parse(uri).is_ok_and(|address| !desk.has_many() || address.sandbox.is_some())
        };
        uris.iter().filter(reachable).take(MOST).cloned().collect()
    });
    accepted
}

/// Tells of changes until the client or the server ends the stream.
pub(super) async fn listen(desk: &Arc<Desk>, context: &SubscriptionContext) {
    let accepted = context.accepted();
    let mut watched: Vec<(String, Option<String>)> = Vec::new();
    if accepted.resources_list_changed == Some(true) {
        watched.push((LIST.to_owned(), None));
    }
    for uri in accepted.resource_subscriptions.iter().flatten() {
        watched.push((uri.clone(), None));
    }
    let desk = Arc::downgrade(desk);
    for (uri, last) in &mut watched {
        *last = now(&desk, uri).await;
    }
    loop {
        tokio::time::sleep(EVERY).await;
        for (uri, last) in &mut watched {
            let next = now(&desk, uri).await;
            if next == *last {
                continue;
            }
            *last = next;
            let told = match uri.as_str() {
                LIST => context.sink().notify_resource_list_changed().await,
                uri => context.sink().notify_resource_updated(uri).await,
            };
            match told {
                Ok(()) => {}
                Err(SubscriptionSendError::NotificationNotAccepted(_)) => {}
                Err(_) => return,
            }
        }
    }
}
