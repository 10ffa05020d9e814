//! Telling clients what changed: `resources/subscribe` and its notifications up to 2025-11-25, `subscriptions/listen`
//! from 2026-07-28.
//!
//! Resources are looked at once a second, only while somebody subscribed to them; nothing is booted for it, and a
//! sandbox that is looked at is as idle as before. So what happens on the host, in the guest, and through other
//! clients is noticed alike. A subscription outlives its sandbox: while there is none, only the workspace is looked
//! at, and the next sandbox is compared with the last one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use rmcp::model::{ResourceUpdatedNotificationParam, SubscriptionFilter};
use rmcp::service::{Peer, SubscriptionContext, SubscriptionSendError};
use rmcp::{ErrorData, RoleServer};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mcp::resources::address::{Address, Subject};
use crate::mcp::resources::{list_stamp, stamp};
use crate::mcp::sandboxes::Desk;

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);

/// How many resources one client may subscribe to.
const MOST: usize = 256;

/// The name under which the list itself is watched.
const LIST: &str = "";

/// What a client with a session subscribed to. Dropped, it watches nothing any more.
#[derive(Default)]
pub(crate) struct Watches(Mutex<HashMap<String, DropGuard>>);

impl Watches {
    fn table(&self) -> MutexGuard<'_, HashMap<String, DropGuard>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of changes at `uri` from now on. Subscribing twice is subscribing once.
    pub(crate) async fn subscribe(
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
    pub(crate) fn unsubscribe(&self, uri: &str) {
        self.table().remove(uri);
    }

    /// Tells of changes of the list from now on: who has never asked for it needs no news of it.
    pub(crate) async fn watch_list(&self, desk: &Arc<Desk>, peer: Peer<RoleServer>) {
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

/// What a look at a resource shows.
enum Look {
    /// How it stands with it.
    Stamp(String),
    /// Nothing, as long as there is no sandbox.
    Nothing,
    /// That the client has left.
    Left,
}

/// The last stamp of a resource.
#[derive(Default)]
struct Last(Option<String>);

impl Last {
    /// Whether a look shows something new.
    fn is_news(&mut self, look: &Look) -> bool {
        let Look::Stamp(stamp) = look else {
            return false;
        };
        self.0.replace(stamp.clone()).as_ref() != Some(stamp)
    }
}

async fn tell(desk: Weak<Desk>, uri: String, first: Look, peer: Peer<RoleServer>) {
    let mut last = Last::default();
    let mut look = first;
    last.is_news(&look);
    while !matches!(look, Look::Left) {
        tokio::time::sleep(EVERY).await;
        look = now(&desk, &uri).await;
        if !last.is_news(&look) {
            continue;
        }
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
}

/// How it stands with what is at `uri`.
async fn now(desk: &Weak<Desk>, uri: &str) -> Look {
    let Some(desk) = desk.upgrade() else {
        return Look::Left;
    };
    let address = Address::parse(uri).ok();
    let named = address
        .as_ref()
        .and_then(|address| address.sandbox.as_deref());
    let sandbox = desk.seen(named);
    // The files are there whatever becomes of sandboxes.
    if let (Some(Subject::Workspace(path)), None) =
        (address.as_ref().map(|address| &address.subject), &sandbox)
    {
        return Look::Stamp(format!("{:?}", desk.config().sandbox.workspace.stamp(path)));
    }
    drop(desk);
    match (address, sandbox) {
        (_, None) => Look::Nothing,
        (None, sandbox) => Look::Stamp(list_stamp(sandbox.as_ref())),
        (Some(address), Some(sandbox)) => Look::Stamp(stamp(&sandbox, &address.subject).await),
    }
}

/// The part of what a client wants to hear of that it can hear of.
pub(crate) fn accepted(desk: &Desk, requested: &SubscriptionFilter) -> SubscriptionFilter {
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
///
/// The library answers before it comes here, so a change between the answer and the first look can't be known: each
/// resource is told of once, and then when it changes.
pub(crate) async fn listen(desk: &Arc<Desk>, context: &SubscriptionContext) {
    let accepted = context.accepted();
    let mut watched: Vec<(String, Last)> = Vec::new();
    if accepted.resources_list_changed == Some(true) {
        watched.push((LIST.to_owned(), Last::default()));
    }
    for uri in accepted.resource_subscriptions.iter().flatten() {
        watched.push((uri.clone(), Last::default()));
    }
    let desk = Arc::downgrade(desk);
    loop {
        for (uri, last) in &mut watched {
            if !last.is_news(&now(&desk, uri).await) {
                continue;
            }
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
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_seen_for_a_while_is_compared_with_what_was_seen_last() {
        let stamp = |text: &str| Look::Stamp(text.to_owned());
        let mut last = Last::default();
        assert!(last.is_news(&stamp("a")), "there is something now");
        assert!(!last.is_news(&stamp("a")));
        assert!(!last.is_news(&Look::Nothing));
        assert!(!last.is_news(&stamp("a")));
        assert!(last.is_news(&stamp("b")));
    }
}
