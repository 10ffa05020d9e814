//! `snowglobe image`: manages images by name or reference.

mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::ending::Interrupted;
use super::json::AsJson;
use super::{Done, each, load, progress};
use crate::config::{HostConfig, Raw};
use crate::image::{
    Built, ImageError, ImageInfo, ImageKey, ImageName, ImageRef, ImageStore, Pruned, Recipe,
    SaveTarget,
};
use crate::machine::VmUnpacker;
use crate::progress::Progress;
use crate::sandbox::image_store;
use crate::text::{moment, size};

/// Pull, import, build, list, save and remove images.
#[derive(Debug, Args)]
pub(super) struct Image {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Pull images from their registries, also to update those that are here
    Pull {
        /// python:3.12-slim, ghcr.io/owner/image@sha256:…, oci:DIR, docker-archive:FILE, tar:FILE
        #[arg(required = true)]
        references: Vec<String>,
    },
    /// Push an image to a registry
    Push {
        /// Which image
        image: String,
        /// The target, HOST/REPOSITORY:TAG
        to: String,
    },
    /// Make an image from a file: the tar archive of a root (plain, gzip, zstd or xz), or a saved image
    Import {
        /// The name of the new image
        name: String,
        /// The file; oci:DIR, docker-archive:FILE and tar:FILE name its format
        archive: String,
        /// Replace an image of that name, or one that Snowglobe builds
        #[arg(long)]
        force: bool,
    },
    /// Build an image from a recipe that comes with Snowglobe
    Build {
        /// debian (the default image), minimal or dev
        recipe: String,
        /// Build it even if it exists, also in place of an imported image
        #[arg(long)]
        force: bool,
        /// Take the root from a file that the recipe made earlier: `bash images/debian/recipe FILE`
        #[arg(long, value_name = "FILE")]
        archive: Option<PathBuf>,
    },
    /// List images with their sizes and when they were last used
    #[command(alias = "list")]
    Ls,
    /// Print everything about an image, as JSON
    Inspect {
        /// Which image
        image: String,
    },
    /// Save an image for use elsewhere
    Save {
        /// Which image
        image: String,
        /// oci:DIR[:NAME], or a file for `docker load`
        target: String,
    },
    /// Remove images
    #[command(alias = "remove")]
    Rm {
        /// Which images
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove what no image needs: layers without an image, incomplete downloads
    Prune {
        /// Also every pulled image that nothing uses
        #[arg(long)]
        all: bool,
    },
}

impl Image {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let as_json = self.json;
        match &self.action {
            Action::Ls => {
                show::list(&ImageStore::look(&config.host.dirs.data), as_json)?;
                return Ok(ExitCode::SUCCESS);
            }
            Action::Inspect { image } => {
                let store = ImageStore::look(&config.host.dirs.data);
                show::inspect(&store, &key(&store, image)?)?;
                return Ok(ExitCode::SUCCESS);
            }
            _ => {}
        }
        let store = image_store(&config.host)?;
        match self.action {
            Action::Pull { references } => {
                let mut pulled = Vec::new();
                for reference in references {
                    pulled.push(pull(&config.host, &store, &reference).await?);
                }
                as_json.print(&pulled)?;
            }
            Action::Push { image, to } => {
                as_json.print(&push(&config.host, &store, &image, &to).await?)?;
            }
            Action::Import {
                name,
                archive,
                force,
            } => {
                let image = import(&config.host, &store, &name, &archive, force).await?;
                as_json.print(&show::json(&image))?;
            }
            Action::Build {
                recipe,
                force,
                archive,
            } => {
                let built = build(&config.host, &store, &recipe, force, archive.as_deref());
                as_json.print(&built.await?)?;
            }
            // Only looked at, above.
            Action::Ls | Action::Inspect { .. } => {}
            Action::Save { image, target } => {
                save(&store, &image, &target).await?;
                as_json.print(&json!({"image": image, "target": target}))?;
            }
            Action::Rm { images } => remove(&store, &images, as_json)?,
            Action::Prune { all } => {
                let pruned = prune(&store, all)?;
                as_json.print(&show::swept(&pruned))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn key(store: &ImageStore, text: &str) -> Result<ImageKey, ImageError> {
    Ok(store.resolve(&text.parse()?)?)
}

/// Does the work with its progress shown, until a signal ends the program.
async fn with_progress<T>(
    work: impl AsyncFnOnce(&Progress) -> Result<T, ImageError>,
) -> anyhow::Result<T> {
    let (steps, shown) = progress::show();
    let done = tokio::select! {
        done = work(&steps) => Ok(done?),
        // What was downloaded is kept, and the next run continues from there.
        signal = super::signals::terminated() => Err(Interrupted(signal).into()),
    };
    shown.finish();
    done
}

async fn pull(host: &HostConfig, store: &ImageStore, reference: &str) -> anyhow::Result<Value> {
    let reference: ImageRef = reference.parse()?;
    let before = store.find(&store.resolve(&reference)?)?;
    let unpacker = VmUnpacker::new(host);
    let image = with_progress(async |steps| {
        store
            .pull(&reference, &host.registries, &unpacker, steps)
            .await
    })
    .await?;
    if before.is_some_and(|before| before.record == image.record) {
        say!("{} is up to date", image.record.key);
    } else {
        finish(host, store, &image)?;
    }
    Ok(show::json(&image))
}

async fn push(
    host: &HostConfig,
    store: &ImageStore,
    image: &str,
    to: &str,
) -> anyhow::Result<Value> {
    let to = match to.parse()? {
        ImageRef::Registry(to) => to,
        other => anyhow::bail!(
            "push to {:?}: a registry is needed, HOST/REPOSITORY:TAG",
            other.canonical()
        ),
    };
    let key = key(store, image)?;
    let image = store.require(&key)?;
    with_progress(async |steps| {
        // Its blobs stay, whatever becomes of its record meanwhile.
        let _kept = store.keep_blobs().await?;
        let content = &image.record.content;
        let push = host.registries.push(content, store.blobs(), &to, steps);
        Ok(push.await?)
    })
    .await?;
    let digest = &image.record.content.manifest;
    say!("pushed {key} as {to} ({digest})");
    Ok(json!({"image": key, "to": to.to_string(), "digest": digest}))
}

async fn import(
    host: &HostConfig,
    store: &ImageStore,
    name: &str,
    archive: &str,
    force: bool,
) -> anyhow::Result<ImageInfo> {
    let name: ImageName = name.parse()?;
    let reference: Option<ImageRef> = archive.parse().ok();
    let path = reference.as_ref().and_then(ImageRef::host_path);
    let from = match path {
        Some(path) => (path, reference.as_ref()),
        None => (Path::new(archive), None),
    };
    let unpacker = VmUnpacker::new(host);
    let image = with_progress(async |steps| {
        let import = store.import_from(&name, from, force, &unpacker, steps);
        import.await
    });
    let image = image.await?;
    finish(host, store, &image)?;
    Ok(image)
}

async fn build(
    host: &HostConfig,
    store: &ImageStore,
    recipe: &str,
    force: bool,
    archive: Option<&Path>,
) -> anyhow::Result<Value> {
    let recipe = Recipe::find(&recipe.parse()?)?;
    let unpacker = VmUnpacker::new(host);
    let image = with_progress(async |steps| {
        let built = store.build_recipe(recipe, archive, force, &unpacker, steps);
        built.await
    });
    let image = match image.await? {
        Built::Now(image) => {
            finish(host, store, &image)?;
            image
        }
        Built::Before(image) => {
            say!(
                "nothing was built: this recipe built the image {} already, at {} ({} on disk); --force builds it again",
                image.record.key,
                moment(image.record.created),
                size(image.disk.bytes)
            );
            image
        }
    };
    Ok(show::json(&image))
}

fn finish(host: &HostConfig, store: &ImageStore, image: &ImageInfo) -> anyhow::Result<()> {
    say!(
        "image {} is ready ({} on disk)",
        image.record.key,
        size(image.disk.bytes)
    );
    for gone in store
        .make_room(host.image_store_bytes, &image.record.key)?
        .images
    {
        say!("removed {gone} to make room (image_store_gib)");
    }
    Ok(())
}

async fn save(store: &ImageStore, image: &str, target: &str) -> anyhow::Result<()> {
    let key = key(store, image)?;
    let target = match target.parse() {
        Ok(ImageRef::OciLayout { dir, name }) => {
            let name = name.unwrap_or_else(|| "latest".into());
            SaveTarget::Layout { dir, name }
        }
        Ok(ImageRef::DockerArchive(file)) => SaveTarget::Archive(file),
        _ => SaveTarget::Archive(target.into()),
    };
    with_progress(async |steps| store.save(&key, target, steps).await).await
}

fn remove(store: &ImageStore, images: &[String], as_json: AsJson) -> anyhow::Result<()> {
    let (mut keys, mut disks) = (Vec::new(), Vec::new());
    let removed = each(images, |image| {
        let key = key(store, image)?;
        let gone = store.remove(&key)?;
        say!("removed {image}");
        gone.iter().for_each(|disk| say!("removed {disk}"));
        keys.push(key);
        disks.extend(gone);
        Ok(())
    });
    let mut swept = store.prune(false)?;
    say_swept(&swept);
    swept.bytes += disks.iter().map(|disk| disk.bytes).sum::<u64>();
    swept.images.splice(..0, keys);
    swept.disks.splice(..0, disks);
    as_json.print(&show::swept(&swept))?;
    removed
}

/// Names what a sweep has taken.
fn say_swept(swept: &Pruned) {
    for image in &swept.images {
        say!("removed {image}");
    }
    for disk in &swept.disks {
        say!("removed {disk}, which nothing needs");
    }
    for (digest, bytes) in &swept.blobs.whole {
        say!(
            "removed the layer sha256:{}… ({}), which no image needs",
            digest.short(),
            size(*bytes)
        );
    }
    if swept.blobs.partial > 0 {
        say!(
            "removed incomplete downloads ({})",
            size(swept.blobs.partial)
        );
    }
}

fn prune(store: &ImageStore, all: bool) -> anyhow::Result<Pruned> {
    let pruned = store.prune(all)?;
    say_swept(&pruned);
    if pruned.fetching {
        say!("another snowglobe process fetches an image now, so layers were kept");
    }
    say!("freed {}", size(pruned.bytes));
    Ok(pruned)
}
