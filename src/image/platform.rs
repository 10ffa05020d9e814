//! Of several images for different machines, the one for this machine. Pure, but for looking at the processor.

use oci_client::manifest::{ImageIndexEntry, OciImageIndex, Platform};

use crate::image::store::blobs::Digest;

/// The annotation by which builders mark what describes an image and is none.
const DESCRIBES: &str = "vnd.docker.reference.type";

/// This machine's architecture by the name that images use.
pub fn architecture() -> &'static str {
    normal(std::env::consts::ARCH)
}

/// An architecture by the name that images should use.
pub(crate) fn normal(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// What images may ask of the processor that runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    architecture: &'static str,
    level: Level,
}

/// A variant of an architecture: `v3` is (3, 0), `v8.2` is (8, 2).
type Level = (u32, u32);

impl Processor {
    /// The one of this host.
    pub fn host() -> Self {
        Self {
            architecture: architecture(),
            level: host_level(),
        }
    }

    /// The one that QEMU shows a guest which it translates, from version 7.2 on: with AVX2, without AVX-512.
    pub fn translated() -> Self {
        let architecture = architecture();
        let level = match architecture {
            "amd64" => (3, 0),
            other => baseline(other),
        };
        Self {
            architecture,
            level,
        }
    }

    /// How much of this processor an image makes use of; nothing where it can't run.
    fn runs(&self, platform: &Platform) -> Option<Level> {
        let (os, architecture) = (platform.os.to_string(), platform.architecture.to_string());
        // Each is one that the system must have, and none is known.
        let asks_more = platform.os_features.iter().flatten().next().is_some();
        if os != "linux" || normal(&architecture) != self.architecture || asks_more {
            return None;
        }
        let level = match platform.variant.as_deref().unwrap_or_default() {
            "" => baseline(self.architecture),
            variant => level(variant)?,
        };
        (level <= self.level).then_some(level)
    }

    /// Whether an image of that configuration's platform runs here, and how well it is made for it.
    pub(crate) fn rank(&self, os: &str, architecture: &str, variant: &str) -> Option<Level> {
        let platform =
            serde_json::json!({"os": os, "architecture": architecture, "variant": variant});
        self.runs(&serde_json::from_value(platform).ok()?)
    }
}

/// What every processor of an architecture has.
fn baseline(architecture: &str) -> Level {
    match architecture {
        "arm64" => (8, 0),
        _ => (1, 0),
    }
}

fn level(variant: &str) -> Option<Level> {
    let number = variant.strip_prefix('v')?;
    let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The levels of the x86-64 psABI, as far as programs can ask for them.
#[cfg(target_arch = "x86_64")]
fn host_level() -> Level {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    let v2 = has!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3");
    let v3 = v2
        && has!(
            "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe"
        );
    let v4 = v3 && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    (1 + u32::from(v2) + u32::from(v3) + u32::from(v4), 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn host_level() -> Level {
    baseline(architecture())
}

/// Whether an entry of an index is an image, and not a signature or an attestation of one.
fn is_image(entry: &ImageIndexEntry) -> bool {
    let known = entry.platform.as_ref();
    let describes =
        |notes: &std::collections::BTreeMap<String, String>| notes.contains_key(DESCRIBES);
    known.is_none_or(|platform| platform.os.to_string() != "unknown")
        && !entry.annotations.as_ref().is_some_and(describes)
}

/// The images of an index that run on a processor, with how well each is made for it. One that says nothing of its
/// platform is taken to run, and to be made for none.
pub(crate) fn fitting<'a>(
    index: &'a OciImageIndex,
    processor: Processor,
) -> Vec<(Level, &'a ImageIndexEntry)> {
    let images = index.manifests.iter().filter(|entry| is_image(entry));
    let rank = |entry: &'a ImageIndexEntry| match &entry.platform {
        Some(platform) => Some((processor.runs(platform)?, entry)),
        None => Some(((0, 0), entry)),
    };
    images.filter_map(rank).collect()
}

/// Those of a list that nothing in it is better than, in their order.
pub(crate) fn best<T: Copy>(ranked: &[(Level, T)]) -> Vec<T> {
    let most = ranked.iter().map(|(level, _)| *level).max();
    let best = ranked.iter().filter(|(level, _)| Some(*level) == most);
    best.map(|(_, one)| *one).collect()
}

/// Of an index, the image for a processor: the first of those that make most of it.
pub fn choose(index: &OciImageIndex, processor: Processor) -> Result<Digest, String> {
    let mut fitting = fitting(index, processor);
    let images = index
        .manifests
        .iter()
        .filter(|entry| is_image(entry))
        .count();
    // Only where there is no choice.
    fitting.retain(|(_, entry)| entry.platform.is_some() || images == 1);
    match best(&fitting).first() {
        Some(entry) => entry.digest.parse(),
        None => Err(none_fits(index, processor)),
    }
}

fn none_fits(index: &OciImageIndex, processor: Processor) -> String {
    let name = |platform: &Platform| {
        let variant = platform.variant.as_ref();
        let variant = variant.map(|variant| format!("/{variant}"));
        format!(
            "{}/{}{}",
            platform.os,
            platform.architecture,
            variant.unwrap_or_default()
        )
    };
    let there: Vec<String> = index
        .manifests
        .iter()
        .filter(|entry| is_image(entry))
        .filter_map(|entry| entry.platform.as_ref())
        .map(name)
        .collect();
    let there = match there.is_empty() {
        true => "none at all".to_owned(),
        false => there.join(", "),
    };
    let (level, _) = processor.level;
    format!(
        "it has no image for linux/{}, which runs variants up to v{level} here; there are: {there}",
        processor.architecture
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn processor(architecture: &'static str, level: Level) -> Processor {
        Processor {
            architecture,
            level,
        }
    }

    fn entry(digest: u8, os: &str, architecture: &str, variant: &str) -> Value {
        let mut entry = json!({"mediaType": "x", "size": 1, "digest": Digest::of(&[digest]),
            "platform": {"os": os, "architecture": architecture}});
        if !variant.is_empty() {
            entry["platform"]["variant"] = variant.into();
        }
        entry
    }

    fn index(entries: Vec<Value>) -> OciImageIndex {
        serde_json::from_value(json!({"schemaVersion": 2, "manifests": entries})).unwrap()
    }

    fn chosen(entries: Vec<Value>, on: Processor) -> Result<u8, String> {
        let digest = choose(&index(entries), on)?;
        Ok((0..=255).find(|n| Digest::of(&[*n]) == digest).unwrap())
    }

    #[test]
    fn the_best_that_the_processor_runs_is_chosen_wherever_it_stands() {
        let all = || {
            vec![
                entry(3, "linux", "amd64", "v3"),
                entry(1, "linux", "amd64", ""),
                entry(4, "linux", "amd64", "v4"),
                entry(2, "linux", "amd64", "v2"),
                entry(8, "linux", "arm64", "v8"),
                entry(9, "linux", "arm64", "v9"),
                entry(7, "linux", "arm", "v7"),
                entry(0, "unknown", "unknown", ""),
            ]
        };
        for level in 1..=4 {
            assert_eq!(
                chosen(all(), processor("amd64", (level, 0))),
                Ok(level as u8)
            );
        }
        assert_eq!(chosen(all(), processor("arm64", (8, 0))), Ok(8));
        let error = chosen(all(), processor("s390x", (1, 0))).unwrap_err();
        assert!(
            error.contains("linux/amd64/v3, linux/amd64, ") && !error.contains("unknown"),
            "{error}"
        );
    }

    #[test]
    fn what_is_said_in_other_words_is_understood() {
        let (amd, arm) = (processor("amd64", (2, 0)), processor("arm64", (8, 0)));
        assert_eq!(chosen(vec![entry(1, "linux", "x86_64", "v1")], amd), Ok(1));
        assert_eq!(chosen(vec![entry(1, "linux", "aarch64", "")], arm), Ok(1));
        assert!(chosen(vec![entry(1, "linux", "arm64", "v8.2")], arm).is_err());
        assert!(chosen(vec![entry(1, "linux", "amd64", "fast")], amd).is_err());
        assert!(chosen(vec![entry(1, "windows", "amd64", "")], amd).is_err());
        let error = chosen(vec![entry(1, "linux", "amd64", "v4")], amd).unwrap_err();
        assert!(
            error.contains("up to v2 here; there are: linux/amd64/v4"),
            "{error}"
        );
        // Of two that are the same the first.
        let twice = vec![
            entry(1, "linux", "amd64", "v1"),
            entry(2, "linux", "amd64", ""),
        ];
        assert_eq!(chosen(twice, amd), Ok(1));
        // What needs more than any system is known to have.
        let mut special = entry(1, "linux", "amd64", "v2");
        special["platform"]["os.features"] = json!(["special"]);
        assert_eq!(
            chosen(vec![special, entry(2, "linux", "amd64", "")], amd),
            Ok(2)
        );
        let mut attestation = entry(1, "linux", "amd64", "v2");
        attestation["annotations"] = json!({DESCRIBES: "attestation-manifest"});
        assert_eq!(
            chosen(vec![attestation, entry(2, "linux", "amd64", "")], amd),
            Ok(2)
        );
    }

    #[test]
    fn an_image_of_no_platform_is_taken_where_there_is_no_other() {
        let on = processor("amd64", (1, 0));
        let bare = |digest| json!({"mediaType": "x", "size": 1, "digest": Digest::of(&[digest])});
        assert_eq!(chosen(vec![bare(1)], on), Ok(1));
        assert_eq!(
            chosen(vec![bare(1), entry(2, "linux", "amd64", "")], on),
            Ok(2)
        );
        assert!(chosen(vec![bare(1), bare(2)], on).is_err());
        assert!(chosen(vec![], on).unwrap_err().contains("none at all"));
    }

    #[test]
    fn this_host_has_a_level_that_a_translated_guest_is_no_better_than_by_much() {
        let levels = [Processor::host().level, Processor::translated().level];
        for (major, _) in levels {
            assert!((1..=9).contains(&major), "{levels:?}");
        }
    }

    proptest! {
        #[test]
        fn the_choice_runs_and_none_that_runs_is_better(
            variants in prop::collection::vec((0u32..6, prop::sample::select(vec!["linux", "windows", "unknown"])), 0..8),
            level in 1u32..=4,
        ) {
            let on = processor("amd64", (level, 0));
            let entries = variants.iter().enumerate().map(|(at, (variant, os))| {
                let variant = if *variant == 0 { String::new() } else { format!("v{variant}") };
                entry(at as u8, os, "amd64", &variant)
            });
            let rank = |(variant, os): &(u32, &str)| {
                let rank = (*variant).max(1);
                (*os == "linux" && rank <= level).then_some(rank)
            };
            let most = variants.iter().filter_map(rank).max();
            let first = variants.iter().position(|one| rank(one).is_some() && rank(one) == most);
            prop_assert_eq!(chosen(entries.collect(), on).ok(), first.map(|at| at as u8));
        }
    }
}
