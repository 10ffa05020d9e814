//! Certificate authorities that the host has the guest trust, in the bundles that programs read.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::wire::network::AUTHORITIES;

/// Where the systems of images keep their bundle.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where a system looks when it makes its bundle anew, one certificate a file.
const LOCAL: &str = "/usr/local/share/ca-certificates";

/// Where it has links to these files. The packages of Java make their own bundle of what is linked here.
const LINKS: &str = "/etc/ssl/certs";

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Adds authorities to every bundle below `root` that lacks them, and writes one bundle of all of them for the programs
/// that are told where it is.
pub(super) fn install(root: &Path, authorities: &str) -> io::Result<()> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let (mut whole, mut lacking) = (String::new(), authorities.to_owned());
    for bundle in BUNDLES {
        let path = at(bundle);
        // What is no text is left alone.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let missing = missing(&text, authorities);
        if !missing.is_empty() {
            let mut file = fs::File::options().append(true).open(&path)?;
            file.write_all(format!("\n{missing}").as_bytes())?;
        }
        if whole.is_empty() {
            whole = format!("{text}\n{missing}");
            lacking = missing;
        }
    }
    if whole.is_empty() {
        authorities.clone_into(&mut whole);
    }
    if at(LOCAL).is_dir() && at(LINKS).is_dir() {
        certificates(&lacking).try_for_each(|one| link(root, one))?;
    }
    let path = at(AUTHORITIES);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, whole)
}

/// Writes one certificate, and links it.
fn link(root: &Path, certificate: &str) -> io::Result<()> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let mut hash = DefaultHasher::new();
    certificate.hash(&mut hash);
    let name = format!("snowglobe-{:016x}", hash.finish());
    let file = format!("{LOCAL}/{name}.crt");
    fs::write(at(&file), format!("{BEGIN}{certificate}{END}\n"))?;
    match symlink(&file, at(&format!("{LINKS}/{name}.pem"))) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The certificates of `wanted` that a bundle lacks.
fn missing(bundle: &str, wanted: &str) -> String {
    let known: HashSet<&str> = certificates(bundle).collect();
    let mut missing = String::new();
    for certificate in certificates(wanted).filter(|one| !known.contains(one)) {
        missing += &format!("{BEGIN}{certificate}{END}\n");
    }
    missing
}

/// What is between the marks of each certificate.
fn certificates(text: &str) -> impl Iterator<Item = &str> {
    text.split(BEGIN)
        .skip(1)
        .filter_map(|rest| rest.split_once(END).map(|(one, _)| one))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(letter: char) -> String {
        format!("{BEGIN}\n{}\n{END}\n", letter.to_string().repeat(64))
    }

    #[test]
    fn each_bundle_has_each_authority_once() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        let (a, b, c) = (certificate('a'), certificate('b'), certificate('c'));
        for path in [BUNDLES[0], BUNDLES[3]] {
            fs::create_dir_all(at(path).parent().unwrap()).unwrap();
            fs::write(at(path), format!("# a comment\n{a}{b}")).unwrap();
        }
        for _ in 0..2 {
            install(root.path(), &format!("{b}{c}")).unwrap();
        }
        for path in [BUNDLES[0], BUNDLES[3], AUTHORITIES] {
            let text = fs::read_to_string(at(path)).unwrap();
            for one in [&a, &b, &c] {
                assert_eq!(text.matches(one.trim_end()).count(), 1, "{path}: {text}");
            }
        }
        assert!(!at(BUNDLES[1]).exists());
    }

    #[test]
    fn a_system_has_each_missing_authority_in_a_file_with_a_link() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(at(LOCAL)).unwrap();
        fs::create_dir_all(at(LINKS)).unwrap();
        let (a, b, c) = (certificate('a'), certificate('b'), certificate('c'));
        fs::write(at(BUNDLES[0]), &a).unwrap();
        for _ in 0..2 {
            install(root.path(), &format!("{a}{b}{c}")).unwrap();
        }
        let mut linked = Vec::new();
        for entry in fs::read_dir(at(LINKS)).unwrap().flatten() {
            if let Ok(target) = fs::read_link(entry.path()) {
                linked.push(fs::read_to_string(at(target.to_str().unwrap())).unwrap());
            }
        }
        linked.sort();
        assert_eq!(linked, [b, c]);
        assert_eq!(fs::read_dir(at(LOCAL)).unwrap().count(), 2);
    }

    #[test]
    fn an_image_without_a_bundle_gets_one_for_those_that_ask() {
        let root = tempfile::tempdir().unwrap();
        install(root.path(), &certificate('a')).unwrap();
        let text =
            fs::read_to_string(root.path().join(AUTHORITIES.trim_start_matches('/'))).unwrap();
        assert_eq!(text, certificate('a'));
    }
}
