//! Any layers, unpacked as in a building guest, give a result and touch no file outside the root.

use std::path::Path;

use crate::tree;

pub(crate) fn play(bytes: &[u8]) {
    let Some((whiteouts, rest)) = bytes.split_first() else {
        return;
    };
    let Some(archives) = tree::archives(rest) else {
        return;
    };
    let dir = tree::directory();
    for part in ["root", "outside"] {
        std::fs::create_dir(dir.path().join(part)).unwrap();
    }
    std::fs::write(dir.path().join("outside/a"), "secret").unwrap();
    let root = dir.path().join("root");
    for archive in &archives {
        let _ = snowglobe_init::layers::apply(&root, archive.as_slice(), whiteouts % 2 == 0);
    }
    let _ = snowglobe_init::layers::finish(&root);
    check_outside(dir.path());
}

fn check_outside(dir: &Path) {
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(dir), ["outside", "root"]);
    assert_eq!(names(&dir.join("outside")), ["a"]);
    assert_eq!(std::fs::read(dir.join("outside/a")).unwrap(), b"secret");
}
