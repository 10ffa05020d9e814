use std::path::PathBuf;

use clap::{Args, FromArgMatches};
use proptest::prelude::*;

use super::defaults::DEFAULT_IMAGE;
use super::keys::{Key, Kind};
use super::*;

/// A project's directory beside the data directory and the user's file.
fn sources(dir: &tempfile::TempDir) -> Sources {
    let cwd = dir.path().join("project");
    std::fs::create_dir_all(&cwd).unwrap();
    Sources {
        cwd,
        flags: Raw {
            data_dir: Some(dir.path().join("data")),
            ..Raw::default()
        },
        ..Sources::default()
    }
}

fn user_file(dir: &tempfile::TempDir, text: &str) -> Option<PathBuf> {
    let path = dir.path().join("config/config.toml");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    Some(path)
}

fn project_file(dir: &tempfile::TempDir, text: &str) {
    std::fs::write(sources(dir).cwd.join(PROJECT_FILE), text).unwrap();
}

#[test]
fn a_users_file_that_cannot_be_read_is_not_absent() {
    let dir = tempfile::tempdir().unwrap();
    let mut from = sources(&dir);
    from.user_file = Some(dir.path().join("config/config.toml"));
    assert!(Config::load(from).is_ok(), "there is none");
    for odd in [dir.path().to_owned(), "/dev/null/config.toml".into()] {
        let mut from = sources(&dir);
        from.user_file = Some(odd.clone());
        let error = Config::load(from).unwrap_err();
        assert!(matches!(error, ConfigError::Unreadable { path, .. } if path == odd));
    }
}

#[test]
fn later_layers_win() {
    let dir = tempfile::tempdir().unwrap();
    project_file(&dir, "image = 'project'\ncpus = 2\nmemory_mib = 250");
    let mut from = sources(&dir);
    from.user_file = user_file(
        &dir,
        "image = 'user'\ncpus = 1\nmemory_mib = 300\nnofile = 100\n[env]\nA = 'user'",
    );
    from.env = vec![
        ("SNOWGLOBE_IMAGE".into(), "env".into()),
        ("SNOWGLOBE_CPUS".into(), "3".into()),
    ];
    from.flags.image = Some("flag".into());
    let config = Config::load(from).unwrap();
    assert_eq!(
        (
            config.sandbox.image.as_str(),
            config.sandbox.cpus,
            config.sandbox.memory_mib,
            config.sandbox.nofile
        ),
        ("flag", 3, 250, 100)
    );
    assert_eq!(config.sandbox.env, [("A".to_owned(), "user".to_owned())]);
}

#[test]
fn an_unknown_key_names_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    project_file(&dir, "memory_mb = 1");
    let error = Config::load(sources(&dir)).unwrap_err().to_string();
    assert!(
        error.contains("`memory_mb`; did you mean `memory_mib`?"),
        "{error}"
    );
    let empty = tempfile::tempdir().unwrap();
    let mut from = sources(&empty);
    from.env = vec![("SNOWGLOBE_IMGE".into(), "x".into())];
    let error = Config::load(from).unwrap_err().to_string();
    assert!(error.contains("did you mean `image`?"), "{error}");
}

#[test]
fn a_project_may_not_name_host_paths() {
    for key in [
        "workspace = '/etc'",
        "qemu = '/tmp/evil'",
        "data_dir = '/x'",
        "[registries.'docker.io']\nmirrors = ['evil.example']",
    ] {
        let dir = tempfile::tempdir().unwrap();
        project_file(&dir, key);
        let error = Config::load(sources(&dir)).unwrap_err().to_string();
        assert!(error.contains("can't be set by a project"), "{error}");
    }
}

#[test]
fn a_project_may_name_an_image_but_no_file_of_the_host() {
    for (image, good) in [
        ("python:3.12", true),
        ("tar:/root/backup.tar", false),
        ("oci:/x", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        project_file(&dir, &format!("image = '{image}'"));
        match Config::load(sources(&dir)) {
            Ok(config) => assert!(good && config.ignored.is_some()),
            Err(error) => assert!(
                !good && error.to_string().contains("file of the host"),
                "{error}"
            ),
        }
    }
}

#[test]
fn a_project_s_wishes_beyond_the_bounds_count_once_they_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let text = "image = 'registry.example/exfil:tag'\nexec_timeout_s = 7";
    project_file(&dir, text);
    let load = || Config::load(sources(&dir)).unwrap();
    let config = load();
    assert_eq!(
        (
            config.sandbox.image.as_str(),
            config.sandbox.exec_timeout.as_secs()
        ),
        (DEFAULT_IMAGE, 120)
    );
    let said = config.ignored.unwrap().to_string();
    assert!(
        said.contains("registry.example/exfil:tag") && said.contains("snowglobe allow"),
        "{said}"
    );

    let file = project::find(&sources(&dir).cwd, None).unwrap().unwrap();
    let consent = Consent::new(&dir.path().join("data"));
    consent.give(&file).unwrap();
    let config = load();
    assert_eq!(
        (
            config.sandbox.image.as_str(),
            config.sandbox.exec_timeout.as_secs()
        ),
        ("registry.example/exfil:tag", 7)
    );
    assert_eq!(config.ignored, None);

    project_file(&dir, &format!("{text}\ncpus = 64"));
    assert!(load().ignored.is_some());
    // What the user sets is not the project's to ask for.
    let mut from = sources(&dir);
    from.flags.image = Some("mine".into());
    from.flags.cpus = Some(1);
    let config = Config::load(from).unwrap();
    assert_eq!(
        (config.ignored, config.sandbox.exec_timeout.as_secs()),
        (None, 7)
    );
}

#[test]
fn a_project_above_does_not_widen_what_is_shared() {
    let dir = tempfile::tempdir().unwrap();
    project_file(&dir, "exec_timeout_s = 7");
    let mut from = sources(&dir);
    from.cwd = from.cwd.join("inner");
    std::fs::create_dir(&from.cwd).unwrap();
    let inner = from.cwd.canonicalize().unwrap();
    let config = Config::load(from).unwrap();
    assert_eq!(
        (
            config.sandbox.project_dir,
            config.sandbox.exec_timeout.as_secs()
        ),
        (inner, 7)
    );
}

#[test]
fn what_a_file_says_is_not_in_its_errors() {
    let dir = tempfile::tempdir().unwrap();
    project_file(&dir, "cpus = 1\nroot:$6$hash:19000");
    let error = Config::load(sources(&dir)).unwrap_err().to_string();
    assert!(
        error.contains("line 2: ") && !error.contains("hash"),
        "{error}"
    );
}

#[test]
fn registries_are_the_users_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let mut from = sources(&dir);
    from.user_file = user_file(
        &dir,
        "[registries.'docker.io']\nmirrors = ['localhost:5000']\n[registries.'r:1']\nhttp = true",
    );
    let config = Config::load(from).unwrap();
    assert_eq!(
        config.host.registries.0["docker.io"].mirrors,
        ["localhost:5000"]
    );
    assert_eq!(config.host.registries.0["r:1"].http, Some(true));
    let mut from = sources(&dir);
    from.user_file = user_file(&dir, "[registries.x]\nmirror = 'y'");
    assert!(
        Config::load(from)
            .unwrap_err()
            .to_string()
            .contains("unknown field `mirror`")
    );
}

#[test]
fn values_out_of_range_say_what_was_expected() {
    let dir = tempfile::tempdir().unwrap();
    let mut from = sources(&dir);
    from.flags.cpus = Some(0);
    let error = Config::load(from).unwrap_err().to_string();
    assert!(error.contains("expected 1 to 64"), "{error}");
}

#[test]
fn what_is_no_project_is_configured_but_not_shared() {
    let dir = tempfile::tempdir().unwrap();
    let at = |cwd: &str, named: bool| {
        let mut from = sources(&dir);
        from.cwd = cwd.into();
        from.flags.workspace = named.then(|| cwd.into());
        let config = Config::load(from).unwrap();
        config.check_workspace().map_err(|error| error.to_string())
    };
    assert!(at("/", true).unwrap_err().contains("own files"));
    assert!(at("/etc", false).unwrap_err().contains("--workspace"));
    assert_eq!(at("/etc", true), Ok(()));
    let project = sources(&dir).cwd;
    assert_eq!(at(project.to_str().unwrap(), false), Ok(()));
}

#[test]
fn a_project_may_protect_more_of_the_workspace_and_not_less() {
    let loaded = |user: &str, project: &str| {
        let dir = tempfile::tempdir().unwrap();
        project_file(&dir, project);
        let mut from = sources(&dir);
        from.user_file = user_file(&dir, user);
        from.flags.hide = vec!["*.pem".into()];
        let config = Config::load(from).map_err(|error| error.to_string())?;
        Ok::<_, String>((config.sandbox.protection, config.ignored))
    };
    let user = "hide = ['.env']\n[protect]\nvscode = 'allow'\nmcp = 'allow'";
    let (protection, ignored) = loaded(
        user,
        "hide = ['secrets/', '.env']\nworkspace_read_only = true\n[protect]\nvscode = 'deny'",
    )
    .unwrap();
    assert_eq!(ignored, None);
    assert_eq!(protection.hide, [".env", "secrets/", "*.pem"]);
    assert!(protection.read_only);
    let rules: Vec<_> = protection
        .rules
        .iter()
        .map(|(id, it)| (id.as_str(), it.as_str()))
        .collect();
    assert_eq!(rules, [("mcp", "allow"), ("vscode", "deny")]);
    let (protection, ignored) = loaded(user, "[protect]\ngit-hooks = 'allow'").unwrap();
    assert!(ignored.unwrap().asks[0].starts_with("protect.git-hooks = \"allow\""));
    assert_eq!(protection.rules.len(), 2);
    for (project, said) in [
        ("hide = ['a', '[b']", "line 1: "),
        ("hide = ['!a']", "a pattern can't be negated"),
        ("[protect]\nvs-code = 'deny'", "did you mean `vscode`?"),
        ("[protect]\nvscode = 'denied'", "line 2: "),
        ("protect = true", "expected a table"),
    ] {
        let error = loaded(user, project).unwrap_err();
        assert!(error.contains(said), "{error}");
    }
}

/// What a number's key becomes if it is set by one source.
fn number(key: &Key, set: impl FnOnce(&tempfile::TempDir, &mut Sources)) -> Option<u64> {
    let dir = tempfile::tempdir().unwrap();
    let mut from = sources(&dir);
    set(&dir, &mut from);
    let config = Config::load(from).ok()?;
    value_of(&config.settings, key.name)?.as_u64()
}

fn by_flag(key: &Key, text: &str) -> Option<u64> {
    let flag = format!("--{}={text}", key.name.replace('_', "-"));
    let command = Raw::augment_args(clap::Command::new("test"));
    let matches = command.try_get_matches_from(["test", &flag]).ok()?;
    let flags = Raw::from_arg_matches(&matches).ok()?;
    number(key, |_, from| from.flags = flags.under(from.flags.clone()))
}

fn by_variable(key: &Key, text: &str) -> Option<u64> {
    let variable = format!("SNOWGLOBE_{}", key.name.to_uppercase());
    number(key, |_, from| from.env = vec![(variable, text.to_owned())])
}

/// In a file, with other lines around it.
fn by_file(key: &Key, value: &str) -> Option<u64> {
    let text = format!(
        "git_identity = true\n{} = {value} # why\nimage = 'x'\n",
        key.name
    );
    number(key, |dir, from| from.user_file = user_file(dir, &text))
}

fn a_quantity() -> impl Strategy<Value = String> {
    let unit = prop::sample::select(vec![
        "", "s", "m", "h", "m30s", "h 5m", "ms", "d", "K", "M", "G", "GiB", " gb", "T", "b",
        " bytes", "x", "é",
    ]);
    prop_oneof![
        8 => (0u64..5000, "(\\.[0-9]{1,3})?", unit)
            .prop_map(|(number, part, unit)| format!("{number}{part}{unit}")),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => "[-+ 0-9a-zA-Z.']{1,8}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_quantity_means_the_same_in_a_flag_a_variable_and_a_file(
        key in prop::sample::select(keys::KEYS), text in a_quantity(),
    ) {
        prop_assume!(matches!(key.kind, Kind::Number(..)));
        let flag = by_flag(&key, &text);
        prop_assert_eq!(by_variable(&key, &text), flag);
        prop_assert_eq!(by_file(&key, &toml::Value::from(text.as_str()).to_string()), flag);
        prop_assert_eq!(by_file(&key, &format!("\"\"\"\n{text}\"\"\"")), flag);
        if text.parse::<u32>().is_ok_and(|number| number.to_string() == text) {
            prop_assert_eq!(by_file(&key, &text), flag);
        }
    }
}

#[test]
fn quantities_of_a_project_count_as_numbers() {
    let dir = tempfile::tempdir().unwrap();
    project_file(&dir, "exec_timeout_s = '1h30m'\nmemory_mib = '1GiB'");
    let config = Config::load(sources(&dir)).unwrap();
    let spec = &config.sandbox;
    assert_eq!((spec.exec_timeout.as_secs(), spec.memory_mib), (5400, 1024));
    for (line, expected) in [
        (
            "boot_timeout_s = 'soon'",
            "line 2: `boot_timeout_s`: expected a time",
        ),
        ("memory_mib = '2X'", "line 2: `memory_mib`: expected a size"),
        (
            "disk_gib = '1.5G'",
            "line 2: `disk_gib`: expected a whole number of GiB",
        ),
        ("cpus = '65'", "line 2: `cpus`: expected 1 to 64"),
        ("cpus = true", "line 2: invalid type"),
    ] {
        project_file(&dir, &format!("exec_timeout_s = '1m'\n{line}"));
        let error = Config::load(sources(&dir)).unwrap_err().to_string();
        assert!(error.contains(expected), "{line}: {error}");
    }
}

/// The settings of the network that these layers give.
fn network(
    user: &str,
    env: &[(&str, &str)],
    flags: &[&str],
) -> Result<crate::network::settings::Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut from = sources(&dir);
    from.user_file = user_file(&dir, user);
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    from.env = env.collect();
    let command = Raw::augment_args(clap::Command::new("test"));
    let words = ["test"].iter().chain(flags);
    let matches = command
        .try_get_matches_from(words)
        .map_err(|error| error.to_string())?;
    from.flags = Raw::from_arg_matches(&matches)
        .unwrap()
        .under(from.flags.clone());
    let config = Config::load(from).map_err(|error| error.to_string())?;
    Ok(config.sandbox.network)
}

#[test]
fn rules_of_the_network_come_from_files_variables_and_flags() {
    let user =
        "[network]\nallow = ['packages']\n[network.hosts]\n'db.local:5432' = '127.0.0.1:5432'";
    let env = [
        (
            "SNOWGLOBE_ALLOW",
            "a.example.org, GET https://b.example.org/x/**",
        ),
        ("SNOWGLOBE_DENY", "upload.pypi.org"),
    ];
    let settings = network(user, &env, &["--allow", "github", "--allow", "packages"]).unwrap();
    let rules: Vec<_> = settings.allow.iter().map(|by| by.rule.as_str()).collect();
    assert_eq!(
        rules,
        [
            "packages",
            "a.example.org",
            "GET https://b.example.org/x/**",
            "github"
        ]
    );
    let origin = |rule: &str| settings.origin_of(rule).unwrap().origin.clone();
    assert!(origin("packages (pypi.org)").ends_with("config.toml"));
    assert_eq!(origin("upload.pypi.org"), "SNOWGLOBE_DENY");
    assert_eq!(origin("github (github.com)"), "--allow");
    assert_eq!(settings.mode.as_str(), "list", "something is allowed");
    assert_eq!(settings.hosts["db.local:5432"], "127.0.0.1:5432");
    let bounds = network("[network.bounds]\nper_second = 5\ngib = 2", &[], &[]);
    let bounds = bounds.unwrap().bounds;
    assert_eq!(
        (bounds.connections, bounds.per_second, bounds.gib),
        (1024, 5, Some(2))
    );
    assert_eq!(
        network(user, &[], &["--network", "off"])
            .unwrap()
            .mode
            .as_str(),
        "off"
    );
    assert_eq!(
        network(user, &[("SNOWGLOBE_NETWORK", "open")], &[])
            .unwrap()
            .mode
            .as_str(),
        "open"
    );
    assert_eq!(
        network("", &[], &[]).unwrap(),
        crate::network::settings::Settings::default()
    );
}

#[test]
fn what_is_wrong_about_the_network_is_named_at_once() {
    for (user, expected) in [
        (
            "cpus = 1\n[network]\nallow = [\n'pypi.org',\n'pakages']",
            "line 3: understand the rule `pakages`",
        ),
        (
            "[network]\nallwo = []",
            "[network]: unknown key `allwo`; did you mean `allow`?",
        ),
        (
            "[network]\nmode = 'opne'",
            "`opne` is not `off`, `list` or `open`",
        ),
        ("network = 'open'", "expected a table"),
        ("[netwrok]\nmode = 'open'", "did you mean `network`?"),
        (
            "[network.secrets.A]\nfrom = { comand = 'x' }\nhosts = ['x.org']\nheader = 'X-Key'",
            "did you mean `command`?",
        ),
        (
            "[network.secrets.A]\nfrom = { env = 'A', file = '/a' }\nhosts = ['x.org']\nheader = 'X-Key'",
            "line 2: ",
        ),
        (
            "[network.secrets.A]\nfrom = { env = 'A' }\nhosts = ['x.org']\nheadr = 'X-Key'",
            "did you mean `header`?",
        ),
        (
            "[network.bounds]\nconnections = 0",
            "`connections`: expected 1 to 65536",
        ),
        (
            "[network.bounds]\nconections = 5",
            "did you mean `connections`?",
        ),
        (
            "[network.hosts]\n'db.local:0' = '127.0.0.1'",
            "`db.local:0` of `network.hosts`: port 0",
        ),
        (
            "[network.secrets.A]\nfrom = { env = 'A' }\nhosts = []\nheader = 'X-Key'",
            "it has no `hosts`",
        ),
    ] {
        let error = network(user, &[], &[]).unwrap_err();
        assert!(error.contains(expected), "{user}: {error}");
    }
    for (name, value, expected) in [
        (
            "SNOWGLOBE_ALLOW",
            "pypi.org,pakages",
            "use the environment variable SNOWGLOBE_ALLOW: understand the rule `pakages`",
        ),
        ("SNOWGLOBE_NETWORK", "opne", "`opne` is not"),
        ("SNOWGLOBE_NETWRK", "open", "did you mean `network`?"),
    ] {
        let error = network("", &[(name, value)], &[]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for (flags, expected) in [
        (["--network", "opne"], "open"),
        (["--deny", "pakages"], "did you mean `packages`?"),
    ] {
        let error = network("", &[], &flags).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_project_asks_for_the_network_and_a_person_allows_it() {
    let dir = tempfile::tempdir().unwrap();
    project_file(
        &dir,
        "[network]\nallow = ['packages', 'exfil.example']\ndeny = ['upload.pypi.org']",
    );
    let load = |user: &str| {
        let mut from = sources(&dir);
        from.user_file = user_file(&dir, user);
        Config::load(from).unwrap()
    };
    let config = load("[network]\nallow = ['packages']");
    let said = config.ignored.unwrap().to_string();
    assert!(
        said.contains("`exfil.example`") && !said.contains("`packages`"),
        "{said}"
    );
    assert_eq!(config.sandbox.network.to_string(), "list: packages");
    assert_eq!(
        load("[network]\nallow = ['packages', 'exfil.example']").ignored,
        None
    );
    let file = project::find(&sources(&dir).cwd, None).unwrap().unwrap();
    Consent::new(&dir.path().join("data")).give(&file).unwrap();
    let config = load("");
    assert_eq!(config.ignored, None);
    assert_eq!(
        config.sandbox.network.to_string(),
        "list: packages, exfil.example, but not upload.pypi.org"
    );
    assert!(
        config.sandbox.network.deny[0]
            .origin
            .ends_with(PROJECT_FILE)
    );
    for key in [
        "hosts]\n'a.local' = '127.0.0.1'",
        "secrets.A]\nfrom = { env = 'A' }\nhosts = ['x.org']\nheader = 'X-Key'",
    ] {
        project_file(&dir, &format!("[network.{key}"));
        let error = Config::load(sources(&dir)).unwrap_err().to_string();
        assert!(error.contains("can't be set by a project"), "{error}");
    }
    project_file(&dir, "[network]\ntrust_host_ca = true");
    assert!(Config::load(sources(&dir)).is_err());
}
