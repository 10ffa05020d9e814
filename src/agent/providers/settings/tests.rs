use proptest::prelude::*;

use crate::agent::message::Usage;

use super::*;

fn nothing(_: &str) -> Option<String> {
    None
}

fn read(text: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(FILE), text).unwrap();
    Settings::read(dir.path(), &nothing).map_err(|error| error.to_string())
}

fn refused(text: &str) -> String {
    let why = read(text).map(|_| ()).unwrap_err();
    assert!(why.contains("agent.toml"), "{why}");
    why
}

#[test]
fn nothing_needs_to_be_set() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::read(dir.path(), &nothing).unwrap();
    let names: Vec<&str> = settings.providers.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["anthropic", "gemini", "ollama", "openai", "openrouter"]
    );
    assert!(settings.providers["ollama"].is_local());
    assert_eq!(settings.providers["ollama"].key, KeySource::None);
    assert!(!settings.providers["anthropic"].is_local());
}

#[test]
fn other_addresses_come_from_the_variables_that_others_use() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &'static str, value: &'static str| {
        let environment = move |asked: &str| (asked == name).then(|| value.to_owned());
        Settings::read(dir.path(), &environment).map(|settings| {
            let provider = match name.split('_').next().unwrap() {
                "GOOGLE" => "gemini".to_owned(),
                name => name.to_lowercase(),
            };
            settings.providers[&provider].url.to_string()
        })
    };
    for (name, value, is) in [
        (
            "ANTHROPIC_BASE_URL",
            "https://proxy.example/a",
            "https://proxy.example/a",
        ),
        (
            "OPENAI_BASE_URL",
            "http://127.0.0.1:9/v1",
            "http://127.0.0.1:9/v1",
        ),
    ] {
        assert_eq!(url(name, value).unwrap(), is, "{value}");
    }
    let error = url("OPENAI_BASE_URL", "file:///etc/passwd").unwrap_err();
    assert!(error.to_string().contains("OPENAI_BASE_URL"), "{error}");
}

#[test]
fn the_file_sets_providers_and_models() {
    let settings = read(
        r#"
        model = "mine/big/model:1"
        [providers.mine]
        protocol = "chat"
        url = "http://10.0.0.3:8080"
        key_command = ["pass", "show", "mine"]
        headers = { x-team = "secret-team-name" }
        [providers.anthropic]
        key_file = "keys/anthropic"
        [models."mine/big/model:1"]
        window = 100_000
        longest_answer = 5000
        images = true
        effort = "high"
        price = { input = 1, output = 2.5 }
        "#,
    )
    .unwrap();
    assert_eq!(
        settings.model.as_ref().unwrap().to_string(),
        "mine/big/model:1"
    );
    let mine = &settings.providers["mine"];
    assert!(mine.is_local());
    let words = ["pass", "show", "mine"].map(str::to_owned);
    assert_eq!(mine.key, KeySource::Command(words.to_vec()));
    assert_eq!(mine.secrets(), ["secret-team-name"]);
    let anthropic = &settings.providers["anthropic"];
    assert_eq!(anthropic.protocol, Protocol::Messages);
    assert!(
        matches!(&anthropic.key, KeySource::File(path) if path.ends_with("keys/anthropic") && path.is_absolute())
    );
    let name: ModelName = "mine/big/model:1".parse().unwrap();
    let facts = settings.facts(&name);
    assert_eq!(
        (facts.window, facts.longest_answer, facts.images),
        (100_000, 5000, true)
    );
    let usage = Usage {
        input: 3_000_000,
        cache_read: 1_000_000,
        cache_write: 1_000_000,
        output: 2_000_000,
    };
    assert_eq!(facts.price.unwrap().of(usage), 8.0);
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (text, why) in [
        (
            "modle = 'a/b'",
            "line 1: unknown key `modle`; did you mean `model`?",
        ),
        ("\nmodel = 3", "line 2: expected a string"),
        ("model = 'x'", "`model`: expected PROVIDER/MODEL"),
        ("x = ", "line 1: expected"),
        ("[x", "line 1: "),
        (
            "[providers.x]\nurl = 'http://a'",
            "providers.x: `protocol` is missing",
        ),
        (
            "[providers.x]\nprotocol = 'chat'",
            "providers.x: `url` is missing",
        ),
        (
            "[providers.x]\nprotocol = 'http'",
            "line 2: expected one of `messages`, `responses`, `chat`, `gemini`",
        ),
        ("[providers.x]\nurl = 'a.example'", "expected http://"),
        ("[providers.x]\nurl = 'ftp://a'", "expected http://"),
        (
            "[providers.openai]\nkey_evn = 'A'",
            "line 2: unknown key `key_evn`; did you mean `key_env`?",
        ),
        (
            "[providers.openai]\nkey_env = 'A'\nkey_file = 'b'",
            "providers.openai: expected one of key_env",
        ),
        (
            "[providers.openai]\nheaders = 'a'",
            "line 2: expected a map",
        ),
        (
            "[providers.openai]\nheaders = { 'a b' = 'c' }",
            "providers.openai: `headers`: expected names and texts",
        ),
        ("[models.'x/y']\nwindow = 1000", "there is no provider `x`"),
        (
            "[models.'openai/y']\nwindow = 10",
            "line 2: expected a number of tokens",
        ),
        (
            "[models.'openai/y']\nprice = { output = 1 }",
            "line 2: missing field `input`",
        ),
        (
            "[models.'openai/y']\neffort = 3",
            "line 2: expected a string",
        ),
    ] {
        let said = refused(text);
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn a_key_in_the_wrong_place_is_not_repeated() {
    for text in [
        "[providers.openai]\nkey = 'sk-secret'",
        "[providers.openai]\nkey_env = 'sk-secret'",
        "[providers.openai]\nkey_command = 'sk-secret'",
        "[providers.openai]\nkey_command = ['']\nurl = 'sk-secret'",
        "[providers.openai]\nprotocol = 'sk-secret'",
        "[providers.openai]\nkey_file = sk-secret",
        "model = 'sk-secret'",
    ] {
        let said = refused(text);
        assert!(!said.contains("sk-secret"), "{said}");
    }
    let said = refused("[providers.openai]\nkey = 'x'");
    assert!(said.contains("key_env"), "{said}");
}

proptest! {
    #[test]
    fn any_file_is_read_or_refused(text in "(\\[(providers|models)\\.[a-z'/]{1,9}\\]\n|[a-z_]{1,12} = ['0-9a-z\\[\\]{}]{0,9}\n){0,6}") {
        let _ = read(&text);
    }
}

fn facts(name: &str) -> Facts {
    let own = "[providers.mine]\nprotocol = 'chat'\nurl = 'https://mine.example'\n[providers.near]\nprotocol = 'chat'\nurl = \
               'http://10.0.0.1'";
    read(own).unwrap().facts(&name.parse().unwrap())
}

#[test]
fn the_longest_beginning_counts() {
    let window = |name| facts(name).window;
    assert_eq!(window("anthropic/claude-opus-4-1-20250805"), 200_000);
    assert_eq!(window("anthropic/claude-opus-4-6"), 1_000_000);
    assert_eq!(window("openrouter/anthropic/claude-opus-4.5"), 200_000);
    assert_eq!(window("openai/gpt-5.4-mini"), 400_000);
    assert_eq!(window("openai/gpt-4o-2024-08-06"), 128_000);
    assert_eq!(window("openai/o4-mini"), 200_000);
    assert_eq!(window("gemini/gemini-2.5-pro"), 1 << 20);
    assert_eq!(window("mine/gpt-40"), 128_000);
    assert_eq!(window("mine/no-such-model"), 128_000);
    assert_eq!(window("ollama/no-such-model"), 32_768);
    assert_eq!(window("ollama/qwen3-coder:30b"), 32_768);
    assert!(!facts("mine/no-such-model").images);
}

#[test]
fn only_those_that_sell_a_model_have_its_price() {
    let price = |name| facts(name).price.map(|price| price.output);
    assert_eq!(price("anthropic/claude-sonnet-5-5"), Some(10.0));
    assert_eq!(price("openrouter/anthropic/claude-sonnet-5.5"), Some(10.0));
    assert_eq!(price("mine/claude-sonnet-5-5"), None);
    assert_eq!(price("near/gpt-6-sol"), None);
}

#[test]
fn a_name_alone_tells_its_maker() {
    let settings = read("").unwrap();
    assert_eq!(settings.maker("claude-sonnet-4-5"), Some("anthropic"));
    assert_eq!(settings.maker("gpt-6.1-sol"), Some("openai"));
    assert_eq!(settings.maker("gemini-3.8-flash"), Some("gemini"));
    assert_eq!(settings.maker("gpt-oss:20b"), None);
    assert_eq!(settings.maker("qwen3-coder"), None);
    assert_eq!(settings.maker("anthropic/claude-sonnet-4-5"), None);
}

#[test]
fn what_is_known_is_sound() {
    let settings = read("").unwrap();
    assert!(settings.families.len() > 90);
    for name in settings.families.keys() {
        let facts = facts(&format!("anthropic/{name}"));
        assert!(
            !name.contains('.') && facts.longest_answer < facts.window,
            "{name}"
        );
        if let Some(price) = facts.price {
            let of = |cache_read, cache_write| {
                price.of(Usage {
                    input: 1_000_000,
                    cache_read,
                    cache_write,
                    output: 0,
                })
            };
            let (read, plain, write) = (of(1_000_000, 0), of(0, 0), of(0, 1_000_000));
            assert!(
                read <= plain && plain <= write && plain < price.output,
                "{name}"
            );
        }
    }
}
