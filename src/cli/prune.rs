//! `snowglobe prune`: removes what nothing needs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::confirm::Yes;
use super::json::AsJson;
use super::{Done, load, rm, stock};
use crate::agent::session::{self, Kept};
use crate::blocking::blocking_here;
use crate::config::{Config, Raw};
use crate::disk::Store;
use crate::inventory::{Inventory, Part};
use crate::names::SandboxName;
use crate::progress::Progress;
use crate::sandbox::image_store;
use crate::text::size;
use crate::{client, files, login, shown};

/// Remove what nothing needs: data of directories that are gone, unused layers and parts of images, old logs, caches.
#[derive(Debug, Args)]
pub(super) struct Prune {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

/// Something that nothing needs.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    what: String,
    pub(super) bytes: u64,
    #[serde(skip)]
    how: How,
}

/// How it is removed.
#[derive(Debug)]
enum How {
    Sandbox(SandboxName),
    Sessions,
    Layers(SandboxName),
    Images,
    Stale(Vec<SandboxName>),
    Conversations(Kept),
    Files(Vec<PathBuf>),
}

/// What nothing needs.
pub(super) fn items(config: &Config, found: &Inventory) -> Vec<Item> {
    let mut items = Vec::new();
    let mut add = |bytes: u64, what: String, how: How| {
        if bytes > 0 {
            items.push(Item { what, bytes, how });
        }
    };
    for sandbox in &found.sandboxes {
        let Ok(name) = sandbox.name.parse::<SandboxName>() else {
            continue;
        };
        match sandbox.is_orphan() {
            true => add(sandbox.bytes, stock::described(sandbox), How::Sandbox(name)),
            false => {
                let what = format!("layers of {name} that no snapshot needs");
                add(sandbox.unneeded_bytes, what, How::Layers(name));
            }
        }
    }
    let dead = found
        .sandboxes
        .iter()
        .filter(|sandbox| sandbox.dead_session);
    let dead = dead.map(|sandbox| sandbox.bytes).sum();
    add(
        dead,
        "clients' sessions that have ended".to_owned(),
        How::Sessions,
    );
    for of in found.conversations.iter().filter(|of| of.is_orphan()) {
        let how = How::Conversations(of.kept.clone());
        add(of.bytes, stock::conversations(of), how);
    }
    let images = found.images.unneeded_bytes;
    add(images, "parts that no image needs".to_owned(), How::Images);
    let (logs, ssh) = (&found.stale_logs, &found.stale_ssh);
    let what = "logs of sandboxes without data".to_owned();
    add(
        logs.bytes,
        what,
        How::Stale(named(logs, crate::logs::sandbox_of)),
    );
    let what = "SSH hosts of sandboxes without data".to_owned();
    add(ssh.bytes, what, How::Stale(named(ssh, login::sandbox_of)));
    // A machine that boots, or fills an image, opens the kernel in the cache.
    let idle =
        std::fs::read_dir(&config.host.dirs.runtime).map_or(true, |mut all| all.next().is_none());
    if idle {
        let cache = &found.cache;
        let what = "what can be made again".to_owned();
        add(cache.bytes, what, How::Files(cache.paths.clone()));
    }
    items
}

/// The sandboxes whose files a part has, by the files' names.
fn named(part: &Part, sandbox_of: fn(&str) -> Option<&str>) -> Vec<SandboxName> {
    let name = |path: &PathBuf| sandbox_of(path.file_name()?.to_str()?)?.parse().ok();
    let mut names: Vec<SandboxName> = part.paths.iter().filter_map(name).collect();
    names.dedup();
    names
}

impl Prune {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let found = blocking_here(|| stock::look(&config))?;
        let items = items(&config, &found);
        let total: u64 = items.iter().map(|item| item.bytes).sum();
        if !self.json.wanted() {
            let mut out = shown::out();
            for item in &items {
                writeln!(out, "{:>12}  {}", size(item.bytes), shown::line(&item.what))?;
            }
            out.flush()?;
        }
        if items.is_empty() {
            say!("there is nothing to remove");
        } else if self.dry_run {
            say!("{} would go", size(total));
        }
        let wanted = !items.is_empty() && !self.dry_run;
        let question = format!("Remove these {} for good?", size(total));
        let removes = wanted && self.yes.confirmed(&question, "remove them")?;
        if wanted && !removes {
            say!("nothing is removed");
            return Ok(ExitCode::FAILURE);
        }
        let mut freed = 0;
        let mut failed = false;
        if removes {
            for item in &items {
                if let Err(error) = remove(&config, &item.how).await {
                    failed = true;
                    say!(
                        "failed to {}",
                        shown::line(&crate::describe(error.as_ref()))
                    );
                }
            }
            let left = blocking_here(|| stock::look(&config))?.bytes;
            freed = found.bytes.saturating_sub(left);
            say!("freed {}", size(freed));
        }
        let done = serde_json::json!({"items": items, "bytes": total, "freed_bytes": freed});
        self.json.print(&done)?;
        Ok(match failed {
            true => ExitCode::from(super::OURS),
            false => ExitCode::SUCCESS,
        })
    }
}

async fn remove(config: &Config, how: &How) -> anyhow::Result<()> {
    let data = &config.host.dirs.data;
    match how {
        How::Sandbox(name) => rm::remove(config, name, false, true).await?,
        How::Sessions => blocking_here(|| Store::sweep_sessions(data)),
        How::Layers(name) => blocking_here(|| {
            Store::open(data, name)?.sweep();
            Ok::<_, anyhow::Error>(())
        })?,
        How::Images => {
            let pruned =
                blocking_here(|| Ok::<_, anyhow::Error>(image_store(&config.host)?.prune(false)?))?;
            if pruned.fetching {
                say!("another snowglobe process fetches an image now, so layers were kept");
            }
        }
        How::Conversations(kept) => blocking_here(|| session::remove(kept))?,
        How::Files(paths) => {
            for path in paths {
                files::remove_file(path)?;
            }
        }
        How::Stale(names) => {
            for name in names {
                let starting = client::alone(data, name, &Progress::none()).await?;
                client::remove_stale(data, name, starting)?;
            }
        }
    }
    Ok(())
}
