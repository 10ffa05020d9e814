//! Whether this host can do what the settings of the network ask of it.

use super::proxy::Proxies;
use super::rules::{Host, Mode};
use super::settings::Settings;
use crate::key::Environment;

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It works.
    Works(String),
    /// Something does not: what, and what helps.
    Lacks(String, String),
}

/// Looks at the rules, the host's proxy and the secrets; runs the commands that print them.
pub(crate) async fn findings(settings: &Settings, environment: &Environment) -> Vec<Finding> {
    let mut found = Vec::new();
    if settings.mode == Mode::Off {
        found.push(Finding::Works(
            "off: sandboxes reach nothing; `snowglobe network allow` opens it by name".to_owned(),
        ));
    } else {
        found.push(through(settings, &Proxies::from_env()));
    }
    for (name, secret) in &settings.secrets {
        let read = secret.named(name).from.read(environment).await;
        found.push(match read {
            Ok(_) => Finding::Works(format!("the secret {name} can be read")),
            Err(why) => Finding::Lacks(
                format!("the secret {name} can't be read: {why}"),
                "requests with it fail until that is mended".to_owned(),
            ),
        });
    }
    found
}

/// What is open, and through which proxy.
fn through(settings: &Settings, proxies: &Proxies) -> Finding {
    let public = Host::parse("example.org").ok();
    let proxy = public.and_then(|host| proxies.find(&host, 443));
    match proxy.map(|proxy| proxy.host_and_port()) {
        None => Finding::Works(settings.to_string()),
        Some(Ok((host, port))) => {
            Finding::Works(format!("{settings}; through the proxy {host}:{port}"))
        }
        Some(Err(error)) => Finding::Lacks(
            crate::describe(&error),
            "set HTTPS_PROXY to a proxy that is spoken to by http:// or socks5h://".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::settings::{Secret, SecretSource, Stated};

    #[tokio::test]
    async fn a_secret_that_can_t_be_read_is_found() {
        let secret = |from| Secret {
            from,
            hosts: vec!["x.org".into()],
            header: "X-Key".into(),
        };
        let mut settings = Settings::default();
        for (name, from) in [
            ("A", SecretSource::Env("SET".into())),
            ("B", SecretSource::Env("UNSET".into())),
            ("C", SecretSource::Command("exit 3".into())),
        ] {
            settings.secrets.insert(name.into(), secret(from));
        }
        let environment = |name: &str| (name == "SET").then(|| "hunter2".to_owned());
        let found = findings(&settings, &environment).await;
        let works = |at: usize| matches!(&found[at], Finding::Works(_));
        assert!(works(0) && works(1) && !works(2) && !works(3), "{found:?}");
        assert!(!format!("{found:?}").contains("hunter2"));
    }

    #[test]
    fn a_proxy_is_named() {
        let settings = Settings {
            mode: Mode::List,
            allow: vec![Stated {
                rule: "packages".into(),
                origin: "x".into(),
            }],
            ..Settings::default()
        };
        let direct = through(&settings, &Proxies::new("", "", ""));
        assert_eq!(direct, Finding::Works("list: packages".into()));
        let by = through(&settings, &Proxies::new("", "http://proxy.test:3128", ""));
        assert_eq!(
            by,
            Finding::Works("list: packages; through the proxy proxy.test:3128".into())
        );
        let wrong = through(&settings, &Proxies::new("", "socks4://proxy.test", ""));
        assert!(matches!(wrong, Finding::Lacks(..)));
    }
}
