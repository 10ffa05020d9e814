//! Changes to the user's file that keep its comments and its order.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use snowglobe_runner::protection::Effect;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::error::ConfigError;
use super::keys::SetBy;
use super::{layers, network, protect};
use crate::files;
use crate::network::settings::Change;

/// Adds rules of the network to the user's file, and removes them from its other list; makes the file if there is none.
/// Gives the file's text before and after. Fails if the file can't be understood, and then changes nothing.
pub(crate) fn save_rules(path: &Path, change: &Change) -> Result<(String, String), ConfigError> {
    edit(path, |text| with_rules(text, change))
}

/// Sets the effects of rules that protect the workspace, in the same way.
pub(crate) fn save_effects(
    path: &Path,
    effects: &BTreeMap<String, Effect>,
) -> Result<(String, String), ConfigError> {
    edit(path, |text| with_effects(text, effects))
}

fn edit(
    path: &Path,
    with_change: impl FnOnce(&str) -> Result<String, String>,
) -> Result<(String, String), ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let before = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(unreadable(source)),
    };
    layers::parse(path, &before, SetBy::User)?;
    let after = with_change(&before).map_err(|message| ConfigError::Malformed {
        path: path.to_owned(),
        message,
    })?;
    layers::parse(path, &after, SetBy::User)?;
    if after != before {
        write(path, &after).map_err(|source| ConfigError::Unwritten {
            path: path.to_owned(),
            source,
        })?;
    }
    Ok((before, after))
}

/// Replaces the file; where it is a link, what it leads to. Its permissions stay.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let target: PathBuf = match path.canonicalize() {
        Ok(target) => target,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            path.to_owned()
        }
        Err(error) => return Err(error),
    };
    let permissions = target.metadata().ok().map(|meta| meta.permissions());
    files::replace(&target, text.as_bytes())?;
    permissions.map_or(Ok(()), |permissions| {
        std::fs::set_permissions(&target, permissions)
    })
}

/// A file's text with a change of the network's rules. What is allowed where the network is off opens it.
fn with_rules(text: &str, change: &Change) -> Result<String, String> {
    let mut document = parsed(text)?;
    let network = table(&mut document, network::TABLE)?;
    for (rules, to, from) in [
        (&change.allow, "allow", "deny"),
        (&change.deny, "deny", "allow"),
    ] {
        if let Some(list) = network.get_mut(from).and_then(Item::as_array_mut) {
            list.retain(|value| !value.as_str().is_some_and(|one| is_among(rules, one)));
            // The space after a comma that went with the one before.
            if let Some(first) = list.get_mut(0)
                && first.decor().prefix().and_then(|prefix| prefix.as_str()) == Some(" ")
            {
                first.decor_mut().set_prefix("");
            }
        }
        if rules.is_empty() {
            continue;
        }
        let list = network
            .entry(to)
            .or_insert_with(|| Item::Value(Value::Array(Array::new())));
        let list = list
            .as_array_mut()
            .ok_or_else(|| format!("`network.{to}`: expected a list"))?;
        for rule in rules {
            add(list, rule.trim());
        }
    }
    let mode = network.get_mut("mode").and_then(Item::as_value_mut);
    if let Some(mode) = mode.filter(|mode| !change.allow.is_empty() && mode.as_str() == Some("off"))
    {
        replace(mode, "list");
    }
    Ok(document.to_string())
}

/// Replaces a value; the space and the comments around it stay.
fn replace(value: &mut Value, text: &str) {
    let decor = value.decor().clone();
    *value = Value::from(text);
    *value.decor_mut() = decor;
}

fn parsed(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|_| "it is no TOML".to_owned())
}

/// A table of the file, which is made if there is none.
fn table<'a>(document: &'a mut DocumentMut, name: &str) -> Result<&'a mut dyn TableLike, String> {
    if !document.contains_key(name) {
        let mut table = Table::new();
        // Else the comment at the end of the file would come after the table.
        let end = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing("");
        let apart = match end.is_empty() && document.is_empty() {
            true => "",
            false => "\n",
        };
        table.decor_mut().set_prefix(format!("{end}{apart}"));
        document.insert(name, Item::Table(table));
    }
    let table = document.get_mut(name);
    let table = table.and_then(Item::as_table_like_mut);
    table.ok_or_else(|| format!("`{name}`: expected a table"))
}

/// A file's text with other effects of rules.
fn with_effects(text: &str, effects: &BTreeMap<String, Effect>) -> Result<String, String> {
    let mut document = parsed(text)?;
    let protect = table(&mut document, protect::PROTECT)?;
    for (rule, effect) in effects {
        let effect = effect.as_str();
        match protect.get_mut(rule).and_then(Item::as_value_mut) {
            Some(value) if value.as_str() == Some(effect) => {}
            Some(value) => replace(value, effect),
            None => drop(protect.insert(rule, Item::Value(Value::from(effect)))),
        }
    }
    Ok(document.to_string())
}

fn is_among(rules: &[String], one: &str) -> bool {
    rules.iter().any(|rule| rule.trim() == one.trim())
}

/// Adds a rule to a list, on a line of its own where the others are so.
fn add(list: &mut Array, rule: &str) {
    if list
        .iter()
        .any(|one| one.as_str().map(str::trim) == Some(rule))
    {
        return;
    }
    let like = list.iter().last().map(|last| last.decor().clone());
    list.push(rule);
    let prefix = like.as_ref().and_then(|decor| decor.prefix()?.as_str());
    let on_its_own = prefix.filter(|prefix| prefix.contains('\n'));
    if let (Some(prefix), Some(last)) = (on_its_own, list.get_mut(list.len() - 1)) {
        // Without a comment that stands before the other one.
        let indent = prefix.rsplit('\n').next().unwrap_or_default();
        last.decor_mut().set_prefix(format!("\n{indent}"));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use proptest::prelude::*;

    use super::*;

    fn change(allow: &[&str], deny: &[&str]) -> Change {
        let texts = |list: &[&str]| list.iter().map(|rule| (*rule).to_owned()).collect();
        Change {
            allow: texts(allow),
            deny: texts(deny),
        }
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# mine\ncpus = 2 # two\n\n[network]\nmode = \"off\" # closed\nallow = [\n    # python\n    \"pypi.org\",\n]\n\
                    deny = [\"a.org\", \"b.org\"] # never\n\n[env]\nA = \"b\"\n";
        let after = with_rules(text, &change(&["a.org", "pypi.org"], &["c.org"])).unwrap();
        assert_eq!(
            after,
            "# mine\ncpus = 2 # two\n\n[network]\nmode = \"list\" # closed\nallow = [\n    # python\n    \"pypi.org\",\n    \
             \"a.org\",\n]\ndeny = [\"b.org\", \"c.org\"] # never\n\n[env]\nA = \"b\"\n"
        );
        assert_eq!(
            with_rules("", &change(&["packages"], &[])).unwrap(),
            "[network]\nallow = [\"packages\"]\n"
        );
        let inline = "network = { allow = ['x.org'] } # short\n";
        let after = with_rules(inline, &change(&["y.org"], &[])).unwrap();
        assert!(
            after.contains("'x.org', \"y.org\"") && after.ends_with("# short\n"),
            "{after}"
        );
    }

    #[test]
    fn an_effect_is_set_where_it_stands() {
        let set = |text: &str, list: &[(&str, Effect)]| {
            let effects = list.iter().map(|(id, effect)| ((*id).to_owned(), *effect));
            with_effects(text, &effects.collect()).unwrap()
        };
        let text = "cpus = 2\n\n[protect] # mine\nvim = \"ask\" # sometimes\n";
        assert_eq!(
            set(text, &[("vim", Effect::Deny), ("mcp", Effect::Allow)]),
            "cpus = 2\n\n[protect] # mine\nvim = \"deny\" # sometimes\nmcp = \"allow\"\n"
        );
        assert_eq!(set(text, &[("vim", Effect::Ask)]), text);
        assert_eq!(
            set("", &[("vim", Effect::Ask)]),
            "[protect]\nvim = \"ask\"\n"
        );
        let inline = "protect = { vim = 'ask' }\n";
        assert_eq!(
            set(inline, &[("vim", Effect::Allow)]),
            "protect = { vim = \"allow\" }\n"
        );
    }

    #[test]
    fn the_file_behind_a_link_is_changed_and_a_wrong_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (
            dir.path().join("dotfiles.toml"),
            dir.path().join("new/config.toml"),
        );
        std::fs::write(&real, "cpus = 2\n").unwrap();
        std::fs::set_permissions(&real, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::create_dir(dir.path().join("new")).unwrap();
        symlink(&real, &link).unwrap();
        save_rules(&link, &change(&["packages"], &[])).unwrap();
        assert!(link.is_symlink() && std::fs::read_to_string(&real).unwrap().contains("packages"));
        assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        std::fs::write(&real, "cpsu = 2\n").unwrap();
        assert!(save_rules(&link, &change(&["packages"], &[])).is_err());
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "cpsu = 2\n");
        let fresh = dir.path().join("a/b/config.toml");
        save_rules(&fresh, &change(&[], &["x.org"])).unwrap();
        assert_eq!(
            std::fs::read_to_string(fresh).unwrap(),
            "[network]\ndeny = [\"x.org\"]\n"
        );
    }

    proptest! {
        /// Any sequence of changes leaves a file that is understood, and the last change of a rule counts.
        #[test]
        fn changes_add_up(changes in prop::collection::vec(("[a-d]\\.org", any::<bool>()), 1..12)) {
            let mut text = "# first\n[network] # here\nallow = []\n".to_owned();
            for (rule, allow) in &changes {
                let list = [rule.as_str()];
                let one = if *allow { change(&list, &[]) } else { change(&[], &list) };
                text = with_rules(&text, &one).unwrap();
                let raw = layers::parse(Path::new("x"), &text, SetBy::User).unwrap();
                let (on, off) = (&raw.network.allow, &raw.network.deny);
                let (has, lacks) = if *allow { (on, off) } else { (off, on) };
                prop_assert!(has.contains(rule) && !lacks.contains(rule));
                prop_assert!(text.starts_with("# first\n[network] # here\n"));
            }
        }
    }
}
