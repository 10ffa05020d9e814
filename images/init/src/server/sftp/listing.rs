//! Listings of directories.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use russh_sftp::protocol::File as NamedFile;

use super::attributes::attributes;

/// How many entries one reply has; at the longest names they still fit a packet.
const BATCH: usize = 100;

/// A directory that is being listed, and the names of users and groups.
pub(super) struct Listing {
    entries: Box<dyn Iterator<Item = io::Result<(String, Metadata)>> + Send>,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Listing {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let listed = fs::read_dir(path)?.map(|entry| {
            let entry = entry?;
            Ok((
                entry.file_name().to_string_lossy().into_owned(),
                entry.metadata()?,
            ))
        });
        let dot = |name: &str| Ok((name.to_owned(), fs::metadata(path.join(name))?));
        let entries = Box::new([dot("."), dot("..")].into_iter().chain(listed));
        Ok(Self {
            entries,
            users: names("/etc/passwd"),
            groups: names("/etc/group"),
        })
    }

    /// The next entries. Fails with `UnexpectedEof` after the last one.
    pub(super) fn batch(&mut self) -> io::Result<Vec<NamedFile>> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match self.entries.next() {
                None if batch.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                None => break,
                Some(Ok((filename, metadata))) => {
                    let longname = self.long_name(&filename, &metadata);
                    batch.push(NamedFile {
                        filename,
                        longname,
                        attrs: attributes(&metadata),
                    });
                }
                // Removed since the directory was read.
                Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                Some(Err(error)) => return Err(error),
            }
        }
        Ok(batch)
    }

    /// The line that `ls -l` would print. Clients show it, and some parse it.
    fn long_name(&self, filename: &str, metadata: &Metadata) -> String {
        let owner = |names: &HashMap<u32, String>, id: u32| {
            names.get(&id).cloned().unwrap_or_else(|| id.to_string())
        };
        format!(
            "{} {:4} {:8} {:8} {:8} {} {filename}",
            mode_letters(metadata.mode()),
            metadata.nlink(),
            owner(&self.users, metadata.uid()),
            owner(&self.groups, metadata.gid()),
            metadata.size(),
            date(metadata.mtime(), now()),
        )
    }
}

/// The names by id in a file like `/etc/passwd` or `/etc/group`.
fn names(path: &str) -> HashMap<u32, String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // If several names share an id, the first one wins.
    text.lines().rev().filter_map(parse).collect()
}

fn mode_letters(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o010_000 => 'p',
        0o020_000 => 'c',
        0o040_000 => 'd',
        0o060_000 => 'b',
        0o120_000 => 'l',
        0o140_000 => 's',
        _ => '-',
    };
    let mut letters = vec![kind];
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        letters.push(if bits & 4 != 0 { 'r' } else { '-' });
        letters.push(if bits & 2 != 0 { 'w' } else { '-' });
        letters.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    letters.into_iter().collect()
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A time as in `ls -l`, in UTC: with the hour if within the last half year, else with the year.
fn date(time: i64, now: i64) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    const DAY: i64 = 86_400;
    let leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    // SFTP times end in 2106. The bound keeps the loop short for damaged inodes, too.
    let time = time.clamp(0, u32::MAX.into());
    let (mut year, mut days) = (1970, time / DAY);
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let mut month = 0;
    for length in [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
    ] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let mut text = format!("{} {:2} ", MONTHS[month], days + 1);
    text += &if (now - 182 * DAY..=now + DAY).contains(&time) {
        format!("{:02}:{:02}", time % DAY / 3600, time % 3600 / 60)
    } else {
        format!("{year:5}")
    };
    text
}
