//! The SSH server of a hostile guest: it accepts every login, and passes each subsystem channel and each forwarding
//! channel to its caller.

use russh::server::{Auth, ChannelOpenHandle, Handle, Handler, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId};

/// The server of one connection.
pub(crate) struct Server<F> {
    answer: F,
    channel: Option<Channel<Msg>>,
}

impl<F: FnMut(Channel<Msg>, Handle) + Send> Server<F> {
    /// Makes a server that passes channels to `answer`, which must not block.
    pub(crate) fn new(answer: F) -> Self {
        Self {
            answer,
            channel: None,
        }
    }
}

impl<F: FnMut(Channel<Msg>, Handle) + Send> Handler for Server<F> {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: VerifiedPublicKey<'_>,
    ) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        _: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if let Some(channel) = self.channel.take() {
            (self.answer)(channel, session.handle());
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        (self.answer)(channel, session.handle());
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        (self.answer)(channel, session.handle());
        Ok(())
    }
}
