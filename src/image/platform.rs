//! Chooses the variant of an image that fits the processor. Pure, except for the detection of the host's processor.

use oci_client::manifest::{ImageIndexEntry, OciImageIndex, Platform};

use crate::image::digest::{Digest, DigestError};

/// The annotation of index entries that are attestations of images, not images.
const ATTESTATION: &str = "vnd.docker.reference.type";

/// The architecture of this machine, as images name it.
pub(crate) fn architecture() -> &'static str {
    normalized(std::env::consts::ARCH)
}

/// The name of an architecture in images.
pub(crate) fn normalized(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The processor that runs an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    architecture: &'static str,
    level: Level,
}

/// The level of an architecture that a variant stands for: `v3` is (3, 0), `v8.2` is (8, 2).
type Level = (u32, u32);

impl Processor {
    /// The processor of this host.
    pub(crate) fn host() -> Self {
        Self {
            architecture: architecture(),
            level: host_level(),
        }
    }

    /// The processor that a guest sees which QEMU (7.2 or newer) translates: it has AVX2, but no AVX-512.
    pub(crate) fn translated() -> Self {
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

    /// The level that an image needs; `None` if it can't run on this processor.
    fn level_of(&self, platform: &Platform) -> Option<Level> {
        let (os, architecture) = (platform.os.to_string(), platform.architecture.to_string());
        // No feature of the operating system is known here, so none can be promised.
        let needs_features = platform.os_features.iter().flatten().next().is_some();
        if os != "linux" || normalized(&architecture) != self.architecture || needs_features {
            return None;
        }
        let level = match platform.variant.as_deref().unwrap_or_default() {
            "" => baseline(self.architecture),
            variant => level(variant)?,
        };
        (level <= self.level).then_some(level)
    }

    /// The level that an image of this platform needs; `None` if it can't run on this processor.
    pub(crate) fn rank(&self, os: &str, architecture: &str, variant: &str) -> Option<Level> {
        let platform =
            serde_json::json!({"os": os, "architecture": architecture, "variant": variant});
        self.level_of(&serde_json::from_value(platform).ok()?)
    }
}

/// The level that every processor of an architecture has.
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

/// Whether an entry of an index is an image, not a signature or an attestation.
fn is_image(entry: &ImageIndexEntry) -> bool {
    let platform = entry.platform.as_ref();
    let is_attestation =
        |notes: &std::collections::BTreeMap<String, String>| notes.contains_key(ATTESTATION);
    platform.is_none_or(|platform| platform.os.to_string() != "unknown")
        && !entry.annotations.as_ref().is_some_and(is_attestation)
}

/// The images of an index that run on a processor, each with the level it needs. An image without a platform counts
/// as runnable, with the lowest level.
pub(crate) fn runnable<'a>(
    index: &'a OciImageIndex,
    processor: Processor,
) -> Vec<(Level, &'a ImageIndexEntry)> {
    let images = index.manifests.iter().filter(|entry| is_image(entry));
    let rank = |entry: &'a ImageIndexEntry| match &entry.platform {
        Some(platform) => Some((processor.level_of(platform)?, entry)),
        None => Some(((0, 0), entry)),
    };
    images.filter_map(rank).collect()
}

/// The entries with the highest level, in their order.
pub(crate) fn best<T: Copy>(ranked: &[(Level, T)]) -> Vec<T> {
    let most = ranked.iter().map(|(level, _)| *level).max();
    let best = ranked.iter().filter(|(level, _)| Some(*level) == most);
    best.map(|(_, one)| *one).collect()
}

/// The image of an index for a processor: the first of those with the highest level that it runs.
pub(crate) fn choose(index: &OciImageIndex, processor: Processor) -> Result<Digest, String> {
    let mut runnable = runnable(index, processor);
    let images = index
        .manifests
        .iter()
        .filter(|entry| is_image(entry))
        .count();
    // An image without a platform is only taken if it is the only image.
    runnable.retain(|(_, entry)| entry.platform.is_some() || images == 1);
    match best(&runnable).first() {
        Some(entry) => entry
            .digest
            .parse()
            .map_err(|error: DigestError| error.to_string()),
        None => Err(none_runs(index, processor)),
    }
}

fn none_runs(index: &OciImageIndex, processor: Processor) -> String {
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
        "it has no image for linux/{} up to variant v{level}, which this machine runs; there are: {there}",
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
    fn the_highest_level_that_the_processor_runs_is_chosen_in_any_order() {
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
    fn other_names_of_architectures_are_understood() {
        let (amd, arm) = (processor("amd64", (2, 0)), processor("arm64", (8, 0)));
        assert_eq!(chosen(vec![entry(1, "linux", "x86_64", "v1")], amd), Ok(1));
        assert_eq!(chosen(vec![entry(1, "linux", "aarch64", "")], arm), Ok(1));
        assert!(chosen(vec![entry(1, "linux", "arm64", "v8.2")], arm).is_err());
        assert!(chosen(vec![entry(1, "linux", "amd64", "fast")], amd).is_err());
        assert!(chosen(vec![entry(1, "windows", "amd64", "")], amd).is_err());
        let error = chosen(vec![entry(1, "linux", "amd64", "v4")], amd).unwrap_err();
        assert!(
            error.contains("up to variant v2") && error.contains("there are: linux/amd64/v4"),
            "{error}"
        );
        // Of two equal ones the first.
        let twice = vec![
            entry(1, "linux", "amd64", "v1"),
            entry(2, "linux", "amd64", ""),
        ];
        assert_eq!(chosen(twice, amd), Ok(1));
        // An image that needs a feature of the system.
        let mut special = entry(1, "linux", "amd64", "v2");
        special["platform"]["os.features"] = json!(["special"]);
        assert_eq!(
            chosen(vec![special, entry(2, "linux", "amd64", "")], amd),
            Ok(2)
        );
        let mut attestation = entry(1, "linux", "amd64", "v2");
        attestation["annotations"] = json!({ATTESTATION: "attestation-manifest"});
        assert_eq!(
            chosen(vec![attestation, entry(2, "linux", "amd64", "")], amd),
            Ok(2)
        );
    }

    #[test]
    fn an_image_without_platform_is_chosen_if_it_is_the_only_one() {
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
    fn host_and_translated_guest_have_a_level() {
        let levels = [Processor::host().level, Processor::translated().level];
        for (major, _) in levels {
            assert!((1..=9).contains(&major), "{levels:?}");
        }
    }

    proptest! {
        #[test]
        fn the_choice_runs_and_no_other_that_runs_has_a_higher_level(
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
