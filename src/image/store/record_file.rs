//! Reads and writes records as files.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files::replace;
use crate::image::file_error::file_error;
use crate::image::store::record::FORMAT;
use crate::image::store::store_error::StoreError;
use crate::presence;

/// Reads a record; `None` if there is none, or one of an older version.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    let Some(text) = presence::read(path).map_err(file_error("read", path))? else {
        return Ok(None);
    };
    let damaged = |problem| StoreError::DamagedRecord {
        path: path.to_owned(),
        problem,
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("it is no JSON ({e})")))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(older) if (1..FORMAT.into()).contains(&older) => return Ok(None),
        Some(current) if current == u64::from(FORMAT) => {}
        _ => return Err(damaged("another version of Snowglobe wrote it".into())),
    }
    serde_json::from_value(value)
        .map(Some)
        .map_err(|e| damaged(format!("it is no such record ({e})")))
}

/// Writes a record as a whole.
pub(crate) fn write(path: &Path, record: &impl Serialize) -> Result<(), StoreError> {
    let error = |source| file_error("write", path)(source);
    let mut text = serde_json::to_vec_pretty(record).map_err(|e| error(e.into()))?;
    text.push(b'\n');
    Ok(replace(path, &text).map_err(error)?)
}
