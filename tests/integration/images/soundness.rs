//! An image store stays usable if its process is killed at any moment.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::home::Home;
use super::layout::{self, Packed, digest, noise};
use super::registry::{Registry, Wish};

/// The number of moments at which a pull is killed; an import and a build are killed at half as many.
const POINTS: u32 = 24;

/// Checks the store's invariants: blobs match the digests in their names, and each image has its blobs and its disk.
pub(crate) fn assert_sound(home: &Home) {
    for hex in home.files("blobs/sha256") {
        let bytes = std::fs::read(home.path(format!("data/images/blobs/sha256/{hex}"))).unwrap();
        assert_eq!(
            digest(&bytes)[7..],
            hex,
            "a blob's content does not match its name"
        );
    }
    for file in home.files("names") {
        let text = std::fs::read(home.path(format!("data/images/names/{file}"))).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let disk = record["disk"].as_str().unwrap();
        assert!(
            home.path(format!("data/images/disks/{disk}.raw")).is_file(),
            "{file} has no disk"
        );
        for layer in record["content"]["layers"].as_array().unwrap() {
            let hex = &layer["digest"].as_str().unwrap()[7..];
            assert!(
                home.path(format!("data/images/blobs/sha256/{hex}"))
                    .is_file(),
                "{file} lacks {hex}"
            );
        }
    }
}

/// Checks that a killed process leaves no running VM.
pub(crate) fn assert_nothing_runs(home: &Home) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_dir(home.path("runtime")).unwrap().count() > 0 {
        assert!(Instant::now() < deadline, "a killed VM left files behind");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A command that adds an image, and a check that the image is complete.
struct Way<'a> {
    arguments: &'a [&'a str],
    image: &'a str,
    look: &'a str,
    seen: &'a str,
}

/// Kills the command that adds an image, once at each of `points` moments.
fn kill_at_any_moment(home: &Home, way: &Way<'_>, points: u32) {
    let begin = || {
        home.command(way.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    // The moments are spread over a window, which follows the duration of the command: it begins with that of the first
    // one, and the later ones may be faster or slower.
    let began = Instant::now();
    assert!(begin().wait().unwrap().success());
    let mut window = began.elapsed();
    home.works(&["image", "rm", way.image]);
    let mut killed = 0;
    for point in 0..points {
        let mut child = begin();
        // Multiples of the golden ratio: however many there are, they are spread evenly.
        let share = (f64::from(point + 1) * 0.618_034).fract();
        std::thread::sleep(window.mul_f64(share));
        let _ = child.kill();
        let ended = child.wait().unwrap().success();
        killed += u32::from(!ended);
        window = window.mul_f64(if ended { 0.75 } else { 1.1 });
        assert_sound(home);
        // Whatever files are left, others can use the store, and a retry works at once.
        home.works(&["image", "ls"]);
        if point % 6 == 5 {
            home.works(way.arguments);
            let seen = home.works(&["exec", "--rm", "--image", way.image, "--", way.look]);
            assert_eq!(seen, way.seen);
            home.works(&["image", "rm", way.image]);
            for part in ["names", "disks", "blobs/sha256", "partial", "building"] {
                assert!(
                    home.files(part).is_empty(),
                    "{part}: {:?}",
                    home.files(part)
                );
            }
        } else if point % 6 == 2 {
            // Only some rounds start with an empty store.
            let _ = home.run(&["image", "prune"]);
            assert_sound(home);
        }
    }
    assert!(killed * 4 >= points, "only {killed} were killed in time");
    assert_nothing_runs(home);
}

/// `make chaos` asks for more.
fn points() -> u32 {
    std::env::var("SNOWGLOBE_CHAOS_ROUNDS")
        .map_or(POINTS, |rounds| rounds.parse().expect("a whole number"))
}

/// An image of five layers, in a layout.
fn five_layers(home: &Home) -> String {
    let dir = home.path("layout");
    let mut layers = vec![(layout::busybox(), Packed::Gzip)];
    for n in 0..4u64 {
        let content = noise(3_000_000, n);
        layers.push((
            layout::files(&[(&format!("data/{n}"), 0o644, &content)]),
            Packed::Gzip,
        ));
    }
    layout::write(&dir, &layers, serde_json::json!({"Env": ["PATH=/bin"]}));
    format!("oci:{}:latest", dir.display())
}

#[test]
fn killed_at_any_moment_of_a_pull_the_store_stays_sound() {
    let home = Home::new();
    let registry = Registry::start(&Wish::default());
    registry.fill(&five_layers(&home), "app:1", None);
    let image = format!("{}/app:1", registry.host);
    let way = Way {
        arguments: &["image", "pull", &image],
        image: &image,
        look: "ls /data",
        seen: "0\n1\n2\n3\n",
    };
    kill_at_any_moment(&home, &way, points());
}

#[test]
fn killed_at_any_moment_of_an_import_the_store_stays_sound() {
    let home = Home::new();
    let layout = five_layers(&home);
    let way = Way {
        // By force, since a killed one may have finished.
        arguments: &["image", "import", "--force", "app", &layout],
        image: "app",
        look: "ls /data",
        seen: "0\n1\n2\n3\n",
    };
    kill_at_any_moment(&home, &way, points() / 2);
}

#[test]
fn killed_at_any_moment_of_a_build_the_store_stays_sound() {
    let home = Home::new();
    let archive = super::full::minimal();
    let way = Way {
        arguments: &["image", "build", "minimal", "--archive", &archive],
        image: "minimal",
        look: "echo $HOME",
        seen: "/home/sandbox\n",
    };
    kill_at_any_moment(&home, &way, points() / 2);
}

#[test]
fn a_running_image_is_not_removed_and_the_other_images_make_room() {
    let home = Home::new();
    let registry = Registry::start(&Wish::default());
    let mut images = Vec::new();
    for n in 0..3u64 {
        let dir = home.path(format!("layout-{n}"));
        let content = noise(2_000_000, n);
        let layers = [
            (layout::busybox(), Packed::Gzip),
            (layout::files(&[("data", 0o644, &content)]), Packed::Gzip),
        ];
        layout::write(&dir, &layers, serde_json::json!({"Env": ["PATH=/bin"]}));
        registry.fill(
            &format!("oci:{}:latest", dir.display()),
            &format!("app:{n}"),
            None,
        );
        images.push(format!("{}/app:{n}", registry.host));
        home.works(&["image", "pull", &images[n as usize]]);
    }
    let mut running = home
        .command(&[
            "exec",
            "--rm",
            "--image",
            &images[0],
            "--",
            "echo up; sleep 60",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(running.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    assert_eq!(line, "up\n");
    let said = home.fails(&["image", "rm", &images[0]]);
    assert!(said.contains("it is used by the sandbox"), "{said}");
    let (code, said) = home.run(&["image", "prune", "--all"]);
    assert!(
        code == 0 && said.contains(&format!("removed {}", images[1])) && said.contains(&images[2]),
        "{said}"
    );
    let left = home.works(&["image", "ls"]);
    assert!(
        left.contains(&images[0]) && !left.contains(&images[1]),
        "{left}"
    );
    running.kill().unwrap();
    running.wait().unwrap();
}
