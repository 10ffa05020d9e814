//! Ports of the guest: on which programs listen, and which are open on this machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use snowglobe_init::streams::OpenError;
use snowglobe_init::wire::network::Listener;

use super::{Sandbox, SandboxError};
use crate::network::ports::{OpenPort, Port, Reach};
use crate::timeline::Event;

/// The longest name of a program that is taken from the guest, in characters.
const MAX_NAME: usize = 40;

impl Sandbox {
    /// The ports on which the guest's programs listen, by number, as the guest tells it; none if no machine runs.
    pub async fn listeners(&self) -> Result<BTreeMap<u16, Option<String>>, SandboxError> {
        let Some(live) = self.published.running() else {
            return Ok(BTreeMap::new());
        };
        let told = match live.machine.streams() {
            Some(streams) => streams.listeners().await.map_err(SandboxError::Ports)?,
            None => Vec::new(),
        };
        let short = |name: String| name.chars().take(MAX_NAME).collect();
        let one = |Listener { port, by }: Listener| (port, by.map(short));
        Ok(told.into_iter().map(one).collect())
    }

    /// Every port on which a program listens, and every one that is open on this machine.
    pub async fn ports(&self) -> Result<Vec<Port>, SandboxError> {
        let mut listeners = self.listeners().await?;
        let open = self.network.ports.list();
        let mut ports: Vec<Port> = open
            .into_iter()
            .map(|open| {
                let program = listeners.remove(&open.port);
                Port {
                    port: open.port,
                    listening: program.is_some(),
                    program: program.flatten(),
                    address: Some(open.address),
                }
            })
            .collect();
        ports.extend(listeners.into_iter().map(|(port, program)| Port {
            port,
            listening: true,
            program,
            address: None,
        }));
        ports.sort_by_key(|port| port.port);
        Ok(ports)
    }

    /// Opens a port of the guest on this machine: at `address`, else on the loopback interface with the same number if it is
    /// free. It stays open over a reboot, until it is closed or the sandbox stops.
    pub async fn open_port(
        self: &Arc<Self>,
        port: u16,
        address: Option<SocketAddr>,
    ) -> Result<OpenPort, SandboxError> {
        let sandbox = Arc::downgrade(self);
        let reach: Reach = Arc::new(move |port| {
            let live = sandbox.upgrade().and_then(|it| it.published.running());
            Box::pin(async move {
                let live = live.ok_or(OpenError::Ended)?;
                let streams = live.machine.streams().ok_or(OpenError::Ended)?;
                streams.reach(port).await
            })
        });
        let open = self.network.ports.open(port, address, reach).await?;
        self.timeline.add(Event::Port {
            port,
            address: Some(open.address.to_string()),
        });
        Ok(open)
    }

    /// Closes a port and its connections. Gives whether it was open.
    pub fn close_port(&self, port: u16) -> bool {
        let was_open = self.network.ports.close(port);
        if was_open {
            let address = None;
            self.timeline.add(Event::Port { port, address });
        }
        was_open
    }
}
