//! Prints images: all in a table, or one with all its properties.

use std::io::Write;

use crate::image::{ImageInfo, ImageKey, ImageStore};
use crate::shown;
use crate::text::{moment, size};

fn layers(image: &ImageInfo) -> u64 {
    image
        .record
        .content
        .layers
        .iter()
        .map(|layer| layer.bytes)
        .sum()
}

fn json(image: &ImageInfo) -> serde_json::Value {
    serde_json::json!({
        "name": image.record.key,
        "created": image.record.created,
        "last_used": image.last_used,
        "source": image.record.source,
        "digest": image.record.content.manifest,
        "config": image.record.content.run,
        "layers": image.record.content.layers,
        "layer_bytes": layers(image),
        "disk": image.disk,
        "users": image.users,
    })
}

pub(super) fn inspect(store: &ImageStore, key: &ImageKey) -> anyhow::Result<()> {
    let image = store.require(key)?;
    writeln!(shown::out(), "{}", shown::json(&json(&image))?)?;
    Ok(())
}

pub(super) fn list(store: &ImageStore, as_json: bool) -> anyhow::Result<()> {
    let images = store.list()?;
    let mut out = shown::out();
    if as_json {
        let rows: Vec<_> = images.iter().map(json).collect();
        writeln!(out, "{}", shown::json(&rows)?)?;
        return Ok(());
    }
    if images.is_empty() {
        say!("no images yet; `snowglobe image build debian` makes the default one");
        return Ok(());
    }
    let width = images
        .iter()
        .map(|image| shown::line(image.record.key.as_str()).chars().count())
        .max()
        .unwrap_or(0)
        .max(12);
    writeln!(
        out,
        "{:<width$}  {:>12}  {:>12}  {:<20}  FROM",
        "NAME", "DISK", "LAYERS", "LAST USED"
    )?;
    for image in &images {
        writeln!(
            out,
            "{:<width$}  {:>12}  {:>12}  {:<20}  {}{}",
            shown::line(image.record.key.as_str()),
            size(image.disk.bytes),
            size(layers(image)),
            moment(image.last_used),
            shown::line(&image.record.source.to_string()),
            if image.users.is_empty() {
                ""
            } else {
                ", running"
            },
        )?;
    }
    let usage = store.usage()?;
    say!(
        "{} in all: disks {}, layers {} (those that images share are counted once)",
        size(usage.total()),
        size(usage.disks),
        size(usage.blobs)
    );
    Ok(())
}
