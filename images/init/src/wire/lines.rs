//! Lists as JSON lines: one value a line. Listings and search results are sent in this form.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value as one line, with its line end.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// The values of all lines.
pub fn decode<T: DeserializeOwned>(lines: &[u8]) -> Result<Vec<T>, serde_json::Error> {
    lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(serde_json::from_slice)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::FoundLine;

    fn found() -> impl Strategy<Value = FoundLine> {
        let parts = (
            any::<String>(),
            any::<u64>(),
            any::<String>(),
            any::<bool>(),
        );
        parts.prop_map(|(path, line, text, context)| FoundLine {
            path,
            line,
            text,
            context,
        })
    }

    proptest! {
        #[test]
        fn values_are_read_back(values in prop::collection::vec(found(), 0..5)) {
            let lines: Vec<Vec<u8>> = values.iter().map(|value| encode(value).unwrap()).collect();
            for line in &lines {
                prop_assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            }
            prop_assert_eq!(decode::<FoundLine>(&lines.concat()).unwrap(), values);
        }

        #[test]
        fn any_bytes_are_values_or_an_error(bytes: Vec<u8>) {
            let _ = decode::<FoundLine>(&bytes);
        }
    }

    #[test]
    fn a_cut_line_is_an_error() {
        assert!(decode::<u64>(b"1\n2").is_ok());
        assert!(decode::<FoundLine>(b"{\"path\":\"a\",\"li").is_err());
    }
}
