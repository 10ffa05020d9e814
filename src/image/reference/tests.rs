use proptest::prelude::*;

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn references_as_people_write_them() {
    let digest = format!("@sha256:{HEX}");
    let cases = [
        ("python:3.12-slim", "docker.io/library/python:3.12-slim"),
        ("docker://alpine:3", "docker.io/library/alpine:3"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("owner/image", "docker.io/owner/image:latest"),
        ("ghcr.io/o/i:tag", "ghcr.io/o/i:tag"),
        ("GHCR.io/o/i", "ghcr.io/o/i:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
        ("[::1]:5000/x:1", "[::1]:5000/x:1"),
        ("a__b/c--d.e_f:X", "docker.io/a__b/c--d.e_f:X"),
        (
            &format!("x{digest}"),
            &format!("docker.io/library/x{digest}"),
        ),
        (
            &format!("x:1{digest}"),
            &format!("docker.io/library/x:1{digest}"),
        ),
    ];
    for (text, canonical) in cases {
        let reference: ImageRef = text.parse().unwrap();
        assert_eq!(reference.canonical(), canonical, "{text}");
        assert!(matches!(reference, ImageRef::Registry(_)), "{text}");
    }
    let name: ImageRef = "debian".parse().unwrap();
    assert_eq!(name, ImageRef::Name("debian".parse().unwrap()));
    let hub = RegistryRef::of_hub(&"debian".parse().unwrap()).unwrap();
    assert_eq!(hub.to_string(), "docker.io/library/debian:latest");
    assert_eq!(RegistryRef::of_hub(&"de.-bian".parse().unwrap()), None);
}

#[test]
fn a_reference_that_is_too_long_in_full_is_refused() {
    let beside = "docker.io/library/:latest".len();
    let longest: RegistryRef = "x".repeat(LONGEST - beside).parse().unwrap();
    assert_eq!(longest.to_string().parse(), Ok(longest));
    for length in [LONGEST - beside + 1, LONGEST, LONGEST + 1] {
        let error = "x".repeat(length).parse::<RegistryRef>().unwrap_err();
        assert!(error.to_string().contains("at most 1024"), "{error}");
    }
}

#[test]
fn files_and_layouts_are_told_by_their_prefix() {
    let layout = |dir: &str, name: Option<&str>| ImageRef::OciLayout {
        dir: dir.into(),
        name: name.map(str::to_owned),
    };
    let cases = [
        ("oci:some/dir", layout("some/dir", None)),
        ("oci:some/dir:v1", layout("some/dir", Some("v1"))),
        ("oci:/a:b/c", layout("/a:b/c", None)),
        (
            "docker-archive:/x.tar",
            ImageRef::DockerArchive("/x.tar".into()),
        ),
        ("tar:a:b.tar", ImageRef::Tar("a:b.tar".into())),
    ];
    for (text, expected) in cases {
        let reference: ImageRef = text.parse().unwrap();
        assert_eq!(reference, expected);
        assert!(reference.host_path().is_some());
    }
    assert!(ImageRef::Tar("x".into()).canonical().starts_with("tar:/"));
}

#[test]
fn an_error_says_which_part_is_wrong() {
    let cases = [
        ("", "the reference must not be empty"),
        (" x", "spaces around"),
        ("x:", "the tag \"\""),
        ("x:-1", "the tag \"-1\""),
        ("x@sha256:12", "the digest \"sha256:12\""),
        ("x@md5:12", "the digest \"md5:12\" must be sha256:"),
        (
            "owner/Image",
            "the repository's part \"Image\" must be lowercase",
        ),
        ("ghcr.io/a//b", "the repository's part \"\""),
        ("ghcr.io/", "the repository must not be empty"),
        ("ghcr.io:0/a", "the registry \"ghcr.io:0\""),
        ("ghcr.io:99999/a", "port from 1 to 65535"),
        ("-x.io/a", "the registry \"-x.io\""),
        (
            "docker://tar:80/a",
            "the registry \"tar:80\" would be taken for the name of a file",
        ),
        ("OCI:80/a", "the registry \"oci:80\" would be"),
        (
            "Docker-Archive:80/a",
            "the registry \"docker-archive:80\" would be",
        ),
        ("[::g]/a", "the registry"),
        ("https://ghcr.io/a", "the scheme \"https\" is no part"),
        ("a_/b", "the repository's part \"a_\""),
        (
            "Owner/image",
            "the repository's part \"Owner\" must be lowercase",
        ),
        ("a b", "the repository's part \"a b\""),
        ("oci:", "oci: must be followed"),
        ("oci:x:", "oci: must be followed"),
        ("tar:", "tar: must be followed by a file"),
    ];
    for (text, said) in cases {
        let error = text.parse::<ImageRef>().unwrap_err().to_string();
        assert!(error.contains(said), "{text:?}: {error}");
        assert!(error.contains(&format!("{text:?}")), "{error}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_reference_or_an_error(text in "\\PC{0,200}") {
        if let Ok(reference) = text.parse::<ImageRef>() {
            let canonical = reference.canonical();
            prop_assert_eq!(canonical.parse::<ImageRef>().unwrap().canonical(), canonical);
        }
    }

    #[test]
    fn what_looks_like_a_reference_keeps_its_meaning(
        text in "(docker://)?([a-zA-Z0-9.-]{1,12}(:[0-9]{1,6})?/)?[a-z0-9._-]{1,9}(/[a-z0-9_]{1,5}){0,2}(:[A-Za-z0-9_.-]{0,9})?(@sha256:[0-9a-f]{63,64})?"
    ) {
        if let Ok(ImageRef::Registry(reference)) = text.parse::<ImageRef>() {
            let again: RegistryRef = reference.to_string().parse().unwrap();
            prop_assert_eq!(&again, &reference);
            let named = reference.tag().is_some() || reference.digest().is_some();
            prop_assert!(named && !reference.repository().is_empty());
            prop_assert!(!reference.repository().split('/').any(|part| part == ".." || part.is_empty()));
            prop_assert!(is_host(reference.registry()));
        }
    }
}
