//! Any text is a reference or an error; the printed form of a reference is read as the same reference.

use snowglobe::image::ImageRef;

pub(crate) fn play(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let reference = match text.parse::<ImageRef>() {
        Ok(reference) => reference,
        Err(error) => {
            crate::check_message(&error, text.len());
            return;
        }
    };
    if reference.host_path().is_some() {
        return;
    }
    let canonical = reference.canonical();
    let again: ImageRef = canonical
        .parse()
        .expect("what it says of itself is a reference");
    assert_eq!(again.canonical(), canonical);
    if let ImageRef::Registry(reference) = reference {
        let mut parts = reference.repository().split('/');
        assert!(parts.all(|part| !part.is_empty() && part != "." && part != ".."));
        assert!(reference.tag().is_some() || reference.digest().is_some());
        assert!(!reference.registry().contains(['/', '@', ' ']));
    }
}
