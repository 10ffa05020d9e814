//! An SSH channel as its server uses it.

use std::sync::Arc;

use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};

/// A channel, split so that it is read while others write to it.
pub(crate) struct SplitChannel {
    pub(crate) reader: ChannelReadHalf,
    pub(crate) writer: Arc<ChannelWriteHalf<Msg>>,
}

impl From<Channel<Msg>> for SplitChannel {
    fn from(channel: Channel<Msg>) -> Self {
        let (reader, writer) = channel.split();
        Self {
            reader,
            writer: Arc::new(writer),
        }
    }
}

impl SplitChannel {
    /// Sends EOF and closes the channel. The peer may have closed it already, which is as good.
    pub(crate) async fn close(&self) {
        self.writer.eof().await.ok();
        self.writer.close().await.ok();
    }
}

/// Waits until the peer closes the channel, and drops what it still sends.
///
/// Sending must always watch for this: on a closed channel it waits for ever once the window is used up, since the peer
/// no longer extends the window.
pub(crate) async fn closed(reader: &mut ChannelReadHalf) {
    while !matches!(reader.wait().await, Some(ChannelMsg::Close) | None) {}
}
