//! Prints images: all in a table, or one with all its properties.

use std::io::Write;

use crate::cli::json::AsJson;
use crate::image::{ImageInfo, ImageKey, ImageStore, Pruned};
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

/// All properties of an image.
pub(super) fn json(image: &ImageInfo) -> serde_json::Value {
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

/// What a sweep has taken.
pub(super) fn swept(swept: &Pruned) -> serde_json::Value {
    let disks = swept
        .disks
        .iter()
        .map(|disk| serde_json::json!({"disk": disk.disk, "bytes": disk.bytes}));
    let layers = swept.blobs.whole.iter();
    let layers =
        layers.map(|(digest, bytes)| serde_json::json!({"digest": digest, "bytes": bytes}));
    serde_json::json!({
        "images": swept.images,
        "disks": disks.collect::<Vec<_>>(),
        "layers": layers.collect::<Vec<_>>(),
        "incomplete_downloads_bytes": swept.blobs.partial,
        "freed_bytes": swept.bytes,
        "kept_layers_for_a_download": swept.fetching,
    })
}

pub(super) fn inspect(store: &ImageStore, key: &ImageKey) -> anyhow::Result<()> {
    let image = store.require(key)?;
    writeln!(shown::out(), "{}", shown::json(&json(&image))?)?;
    Ok(())
}

pub(super) fn list(store: &ImageStore, as_json: AsJson) -> anyhow::Result<()> {
    let images = store.list()?;
    if as_json.print(&images.iter().map(json).collect::<Vec<_>>())? {
        return Ok(());
    }
    if images.is_empty() {
        say!("no images yet; `snowglobe image build debian` makes the default one");
        return Ok(());
    }
    let mut out = shown::out();
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
