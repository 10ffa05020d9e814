//! Any bytes from the link or the runner are a message or an error; a message that was read and written again means the
//! same.

use serde::{Serialize, de::DeserializeOwned};
use snowglobe_init::boot::BootConfig;
use snowglobe_init::headers;
use snowglobe_init::wire::{DirEntry, FoundLine, Report, Request, WireError};
use snowglobe_runner::{Event, VmRequest, VmSpec};

/// The message in the bytes, if there is one.
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
        // Every time limit of a command must be a valid wait.
        let _ = snowglobe::guest::patience(&request);
    }
    read::<Report>(bytes);
    read::<WireError>(bytes);
    read::<DirEntry>(bytes);
    read::<FoundLine>(bytes);
    read::<BootConfig>(bytes);
    read::<VmSpec>(bytes);
    read::<VmRequest>(bytes);
    read::<Event>(bytes);
    for record in headers::pax(bytes) {
        let Ok((key, value)) = record else { break };
        assert!(key.len() + value.len() < bytes.len());
    }
    let _ = headers::number(bytes);
}
