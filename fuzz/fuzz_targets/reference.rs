//! Any text is a reference or an error; what a reference says of itself means the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowglobe::image::ImageRef;

fuzz_target!(|text: &str| {
    let Ok(reference) = text.parse::<ImageRef>() else {
        return;
    };
    if reference.is_host_path() {
        return;
    }
    let canonical = reference.canonical();
    let again: ImageRef = canonical.parse().expect("what it says of itself is a reference");
    assert_eq!(again.canonical(), canonical);
    if let ImageRef::Registry(reference) = reference {
        let parts = reference.repository().split('/');
        assert!(parts.clone().all(|part| !part.is_empty() && part != "." && part != ".."));
        assert!(reference.tag().is_some() || reference.digest().is_some());
        assert!(!reference.registry().contains(['/', '@', ' ']));
    }
});
