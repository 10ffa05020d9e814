//! Transports: how messages come from clients and go to them.
//!
//! A pair of streams ([`stdio`]: standard input and output, a unix socket) or HTTP ([`http`]), which has the streamable
//! transport and the older one ([`sse`]). All of them serve the same [`Server`](crate::mcp::server::Server).

mod accept;
pub(crate) mod bind;
mod body;
mod connection;
mod connections;
mod envelope;
pub(crate) mod http;
mod lines;
mod malformed;
mod origin;
mod peers;
mod post;
mod reply;
mod sse;
pub(crate) mod stdio;
