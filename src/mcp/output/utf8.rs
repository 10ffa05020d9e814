//! Cutting UTF-8 between characters. Pure.

/// The bytes without an incomplete character at their end.
pub(crate) fn whole_at_end(bytes: &[u8]) -> &[u8] {
    for back in 1..=bytes.len().min(3) {
        let start = bytes.len() - back;
        let wants = match bytes[start] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if wants > back { &bytes[..start] } else { bytes };
    }
    bytes
}

/// The bytes without an incomplete character at their start.
pub(crate) fn whole_at_start(bytes: &[u8]) -> &[u8] {
    let rest = bytes
        .iter()
        .take(3)
        .take_while(|byte| (0x80..=0xbf).contains(*byte))
        .count();
    &bytes[rest..]
}
