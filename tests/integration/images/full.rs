//! Stores without room. The tests mount small file systems, which needs root.

use std::path::Path;

use super::home::Home;
use super::layout::{self, Packed};
use super::registry::{Registry, Wish};
use super::soundness::{assert_nothing_runs, assert_sound};
use crate::common::{Small, private_dir};

const MIB: u64 = 1 << 20;

/// A layout whose one layer unpacks to slightly more than the given size, and is very small itself.
fn large(home: &Home, name: &str, bytes: u64) -> String {
    let dir = home.path(name);
    let content = vec![b'x'; usize::try_from(bytes).unwrap()];
    let layers = [
        (layout::busybox(), Packed::Zstd),
        (layout::files(&[("data", 0o644, &content)]), Packed::Zstd),
    ];
    layout::write(&dir, &layers, serde_json::json!({"Env": ["PATH=/bin"]}));
    format!("oci:{}", dir.display())
}

/// Checks that no incomplete file and no process is left.
fn assert_clean(home: &Home) {
    assert_sound(home);
    for part in ["names", "disks", "building", "uses"] {
        let left = home.files(part);
        assert!(left.is_empty(), "{part}: {left:?}");
    }
    assert_nothing_runs(home);
}

fn names_room(said: &str, dir: &Path) -> bool {
    said.contains(dir.to_str().unwrap()) && said.contains("make room") && said.contains("prune")
}

#[test]
fn an_image_without_room_fails_with_the_place_and_is_made_later() {
    let home = Home::new();
    let images = home.path("data/images");
    for dir in ["data", "data/images"] {
        private_dir(&home.path(dir));
    }
    let small = Small::mount(&images, 300 * MIB);
    let on_the_disk = large(&home, "on-the-disk", 160 * MIB);
    let on_the_way = large(&home, "on-the-way", 320 * MIB);
    for layout in [&on_the_disk, &on_the_way] {
        let said = home.fails(&["image", "import", "large", layout]);
        assert!(names_room(&said, &images), "{layout}: {said}");
        assert_clean(&home);
    }
    // If the size is known and does not fit, nothing is started.
    home.works(&["image", "prune"]);
    small.wait_for_room(299 * MIB);
    small.fill(200 * MIB);
    let minimal = minimal();
    for arguments in [
        &["image", "import", "large", &on_the_disk[..]][..],
        &["image", "import", "large", &minimal],
        &["image", "build", "minimal", "--archive", &minimal],
    ] {
        let said = home.fails(arguments);
        assert!(names_room(&said, &images), "{arguments:?}: {said}");
        assert_clean(&home);
    }
    small.empty();
    small.grow(800 * MIB);
    home.works(&["image", "import", "large", &on_the_disk]);
    let size = home.works(&[
        "exec",
        "--rm",
        "--image",
        "large",
        "--",
        "/bin/busybox wc -c </data",
    ]);
    assert_eq!(size.trim(), (160 * MIB).to_string());
    assert_sound(&home);
}

/// The root that the recipe `minimal` made.
pub(crate) fn minimal() -> String {
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../images/minimal.tar.zst");
    let made = made.canonicalize().expect("it is made by `make image`");
    made.to_str().unwrap().to_owned()
}

#[test]
fn a_full_part_of_the_store_is_named_and_no_partial_file_stays() {
    let home = Home::new();
    let registry = Registry::start(&Wish::default());
    let dir = home.path("layout");
    let layers = [
        (layout::busybox(), Packed::Gzip),
        (
            layout::files(&[("data", 0o644, &layout::noise(3_000_000, 7))]),
            Packed::Gzip,
        ),
    ];
    layout::write(&dir, &layers, serde_json::json!({"Env": ["PATH=/bin"]}));
    registry.fill(&format!("oci:{}:latest", dir.display()), "app:1", None);
    let image = format!("{}/app:1", registry.host);
    let minimal = minimal();
    home.works(&["image", "prune"]);
    // The directories of incoming blobs, new records and new disks.
    for part in ["partial", "names", "disks"] {
        let path = home.path("data/images").join(part);
        for arguments in [
            &["image", "pull", &image[..]][..],
            &["image", "import", "app", &minimal],
            &["image", "build", "minimal", "--archive", &minimal],
        ] {
            let small = Small::mount(&path, 4096);
            small.fill(0);
            let said = home.fails(arguments);
            assert!(names_room(&said, &path), "{part} {arguments:?}: {said}");
            assert_nothing_runs(&home);
            drop(small);
            home.works(&["image", "prune", "--all"]);
            assert_clean(&home);
        }
    }
    home.works(&["image", "pull", &image]);
    let size = home.works(&[
        "exec",
        "--rm",
        "--image",
        &image,
        "--",
        "/bin/busybox wc -c </data",
    ]);
    assert_eq!(size.trim(), "3000000");
}
