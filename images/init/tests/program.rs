//! The program as it is linked: what `.ci/rustc` is for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::let_underscore_must_use,
    reason = "a test fails by panicking"
)]

/// The number of so many bytes at `at`: an ELF file of 64 bits, little endian.
fn number(elf: &[u8], at: usize, bytes: usize) -> usize {
    let mut number = [0; 8];
    number[..bytes].copy_from_slice(&elf[at..at + bytes]);
    u64::from_le_bytes(number) as usize
}

#[test]
fn it_is_static_and_at_a_fixed_address() {
    const EXECUTABLE: usize = 2;
    const INTERPRETER: usize = 3;
    let elf = std::fs::read(env!("CARGO_BIN_EXE_snowglobe-init")).unwrap();
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01");
    assert_eq!(number(&elf, 16, 2), EXECUTABLE, "not a shared object");
    let (table, size, count) = (
        number(&elf, 32, 8),
        number(&elf, 54, 2),
        number(&elf, 56, 2),
    );
    let kinds: Vec<usize> = (0..count)
        .map(|index| number(&elf, table + index * size, 4))
        .collect();
    assert!(!kinds.is_empty());
    assert!(!kinds.contains(&INTERPRETER), "{kinds:?}");
}
