//! Whatever comes over the link, or from the runner, is a message or an error; and a message means the same once it is
//! written again.

use serde::{Serialize, de::DeserializeOwned};
use snowglobe_init::boot::BootConfig;
use snowglobe_init::headers;
use snowglobe_init::wire::{DirEntry, FoundLine, Report, Request, WireError};
use snowglobe_runner::{Command, Event, VmSpec};

/// The message that the bytes are, if they are one.
fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let message = serde_json::from_slice::<T>(bytes).ok()?;
    let written = serde_json::to_value(&message).expect("it can be written");
    let again: T = serde_json::from_value(written.clone()).expect("what is written can be read");
    assert_eq!(
        serde_json::to_value(&again).expect("it can be written"),
        written
    );
    Some(message)
}

pub(crate) fn play(bytes: &[u8]) {
    if let Some(Request::Exec(request)) = read(bytes) {
        // However long a command may take, that can be waited for.
        let _ = snowglobe::guest::patience(&request);
    }
    read::<Report>(bytes);
    read::<WireError>(bytes);
    read::<DirEntry>(bytes);
    read::<FoundLine>(bytes);
    read::<BootConfig>(bytes);
    read::<VmSpec>(bytes);
    read::<Command>(bytes);
    read::<Event>(bytes);
    for record in headers::pax(bytes) {
        let Ok((key, value)) = record else { break };
        assert!(key.len() + value.len() < bytes.len());
    }
    let _ = headers::number(bytes);
}
