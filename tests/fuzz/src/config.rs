//! Any text in a project's file is a configuration or an error; settings that apply without consent stay within the
//! user's bounds.

use std::fs;

use snowglobe::config::{Config, Raw, Sources};

use crate::tree;

pub(crate) fn play(bytes: &[u8]) {
    let dir = tree::directory();
    let project = dir.path().join("project");
    fs::create_dir_all(project.join(".git")).expect("there is room");
    fs::write(project.join("snowglobe.toml"), bytes).expect("there is room");
    let data = dir.path().join("data");
    let env = [
        ("SNOWGLOBE_DATA_DIR", &data),
        ("SNOWGLOBE_RUNTIME_DIR", &data),
    ];
    let sources = Sources {
        cwd: project.clone(),
        user_file: None,
        env: env
            .map(|(name, dir)| (name.to_owned(), dir.display().to_string()))
            .into(),
        flags: Raw {
            cpus: Some(1),
            ..Raw::default()
        },
    };
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(error) => return crate::check_message(&error, bytes.len()),
    };
    let (host, spec) = (config.host, config.sandbox);
    assert_eq!(spec.image, "debian", "no other may be fetched");
    assert_eq!((spec.cpus, spec.project_dir), (1, project));
    assert!(spec.disk_bytes <= 16 << 30 && spec.nofile <= 65_536);
    assert_eq!(
        (host.dirs.data, host.registries),
        (data, Default::default())
    );
    for ask in config.ignored.iter().flat_map(|ignored| &ignored.asks) {
        assert!(ask.len() < 4096, "{ask}");
    }
}
