//! `snowglobe data`: what lies on the disk, for which directory, and how to have the room back. Looking changes nothing.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::json::AsJson;
use super::{Done, load, prune, stock};
use crate::blocking::blocking_here;
use crate::config::Raw;
use crate::inventory::Part;
use crate::shown;
use crate::text::size;

/// Show what lies on the disk, for which directory, and how to have the room back.
#[derive(Debug, Args)]
pub(super) struct Data {
    #[command(flatten)]
    json: AsJson,
    #[command(flatten)]
    config: Box<Raw>,
}

impl Data {
    pub(super) async fn run(self) -> Done {
        let config = load(*self.config)?;
        let found = blocking_here(|| stock::look(&config))?;
        if self.json.print(&found)? {
            return Ok(ExitCode::SUCCESS);
        }
        let mut out = shown::out();
        let mut line =
            |bytes: u64, what: &str| writeln!(out, "{:>12}  {}", size(bytes), shown::line(what));
        line(
            found.images.bytes,
            "images: snowglobe image rm, image prune",
        )?;
        for image in &found.images.images {
            let shared = match image.bytes == image.own_bytes {
                true => String::new(),
                false => format!(", {} of it its own", size(image.own_bytes)),
            };
            line(image.bytes, &format!("  {}{shared}", image.name))?;
        }
        let all: u64 = found.sandboxes.iter().map(|sandbox| sandbox.bytes).sum();
        line(all, "sandboxes: snowglobe rm NAME, snapshot delete")?;
        for sandbox in &found.sandboxes {
            line(sandbox.bytes, &format!("  {}", stock::described(sandbox)))?;
        }
        let all: u64 = found.conversations.iter().map(|of| of.bytes).sum();
        if all > 0 {
            line(all, "the agent's conversations: snowglobe rm --sessions")?;
        }
        for of in &found.conversations {
            line(of.bytes, &format!("  {}", stock::conversations(of)))?;
        }
        let parts: [(&str, &Part); 7] = [
            (
                "logs of sandboxes without data: snowglobe prune",
                &found.stale_logs,
            ),
            (
                "SSH hosts of sandboxes without data: snowglobe prune",
                &found.stale_ssh,
            ),
            ("what can be made again: snowglobe prune", &found.cache),
            ("files that were allowed: snowglobe allow", &found.consents),
            ("the token of serve --http", &found.token),
            (
                "the key by which your ssh logs in to sandboxes",
                &found.ssh_key,
            ),
            ("directories, and files of other programs", &found.other),
        ];
        for (what, part) in parts.iter().filter(|(_, part)| part.bytes > 0) {
            line(part.bytes, what)?;
        }
        line(
            found.bytes,
            &format!("in all, in {} and {}", found.data_dir, found.cache_dir),
        )?;
        let gone: u64 = prune::items(&config, &found)
            .iter()
            .map(|item| item.bytes)
            .sum();
        if gone > 0 {
            say!(
                "`snowglobe prune` gives back {}, which nothing needs",
                size(gone)
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
