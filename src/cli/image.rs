//! `snowglobe image`: root disks by name.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Done, load, progress};
use crate::config::{Config, Raw};
use crate::image::{ImageInfo, ImageName, ImageStore, Recipe, human_bytes};
use crate::sandbox::{VmUnpacker, image_store};

/// Import, build, list and remove images.
#[derive(Debug, Args)]
pub(super) struct Image {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    config: Box<Raw>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make an image of a root file system in a tar archive (plain, gzip, zstd or xz)
    Import {
        /// What to call it
        name: String,
        /// The archive
        archive: PathBuf,
    },
    /// Build an image from a recipe that comes with Snowglobe
    Build {
        /// debian (the default image) or minimal
        recipe: String,
        /// Build it even if it is there
        #[arg(long)]
        force: bool,
    },
    /// List images
    #[command(alias = "list")]
    Ls {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove images
    #[command(alias = "remove")]
    Rm {
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Image {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let store = image_store(&config)?;
        match self.action {
            Action::Import { name, archive } => import(&config, &store, &name, &archive).await?,
            Action::Build { recipe, force } => build(&config, &store, &recipe, force).await?,
            Action::Ls { json } => list(&store, json)?,
            Action::Rm { names } => {
                for name in names {
                    let name: ImageName = name.parse()?;
                    store.remove(&name)?;
                    eprintln!("snowglobe: removed {name}");
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn import(
    config: &Config,
    store: &ImageStore,
    name: &str,
    archive: &std::path::Path,
) -> anyhow::Result<()> {
    let name: ImageName = name.parse()?;
    let (steps, shown) = progress::show();
    let unpacker = VmUnpacker::new(config);
    let done = tokio::select! {
        done = store.import(&name, archive, &unpacker, &steps) => Some(done),
        () = super::serve::terminated() => None,
    };
    shown.finish();
    report(done)
}

async fn build(
    config: &Config,
    store: &ImageStore,
    recipe: &str,
    force: bool,
) -> anyhow::Result<()> {
    let name: ImageName = recipe.parse()?;
    let recipe = Recipe::find(&name)?;
    let (steps, shown) = progress::show();
    let unpacker = VmUnpacker::new(config);
    let built = async {
        if force {
            store.build_recipe(recipe, &unpacker, &steps).await
        } else {
            store.ensure(&name, &unpacker, &steps).await
        }
    };
    let done = tokio::select! {
        done = built => Some(done),
        () = super::serve::terminated() => None,
    };
    shown.finish();
    report(done)
}

fn report(done: Option<Result<ImageInfo, crate::image::ImageError>>) -> anyhow::Result<()> {
    let Some(done) = done else {
        anyhow::bail!("finish the image: interrupted; nothing was left behind")
    };
    let image = done?;
    eprintln!(
        "snowglobe: image {} is ready ({} on disk)",
        image.name,
        human_bytes(image.record.bytes)
    );
    Ok(())
}

fn list(store: &ImageStore, json: bool) -> anyhow::Result<()> {
    use std::io::Write;
    let images = store.list()?;
    let mut out = std::io::stdout().lock();
    if json {
        let rows: Vec<_> = images
            .iter()
            .map(|image| serde_json::json!({"name": image.name, "disk": image.record, "users": image.users}))
            .collect();
        writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        return Ok(());
    }
    if images.is_empty() {
        eprintln!("snowglobe: no images yet; `snowglobe image build debian` makes the default one");
        return Ok(());
    }
    writeln!(out, "{:<24} {:>10}  {:<20}  FROM", "NAME", "SIZE", "MADE")?;
    for image in images {
        let made = image
            .record
            .created
            .strftime("%Y-%m-%d %H:%M UTC")
            .to_string();
        writeln!(
            out,
            "{:<24} {:>10}  {made:<20}  {}",
            image.name.to_string(),
            human_bytes(image.record.bytes),
            image.record.source
        )?;
    }
    Ok(())
}
