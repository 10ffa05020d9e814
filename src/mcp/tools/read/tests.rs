use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::sandbox::DirEntry;

fn read(content: ReadContent, data: impl Into<Bytes>) -> FileRead {
    FileRead {
        path: "/workspace/it".to_owned(),
        size: 1234,
        content,
        data: data.into(),
        notes: Vec::new(),
    }
}

fn lines(data: &'static str, total_lines: Option<u64>, next_offset: Option<u64>) -> FileRead {
    let content = ReadContent::Text {
        total_lines,
        next_offset,
        cut: false,
    };
    read(content, data)
}

/// The text form and the structured one.
async fn both(read: FileRead, offset: u64, limit: u64) -> (String, serde_json::Value) {
    let done = result(read, offset, limit).await.unwrap();
    let text = done.content[0].as_text().unwrap().text.clone();
    (text, done.structured_content.unwrap_or_default())
}

async fn text_of(read: FileRead, offset: u64) -> String {
    both(read, offset, 10).await.0
}

#[tokio::test]
async fn lines_are_numbered_from_the_offset_and_both_forms_say_the_same() {
    let (text, structured) = both(lines("a\n\nb", Some(12), Some(12)), 9, 3).await;
    assert_eq!(
        text,
        "     9\ta\n    10\t\n    11\tb\n[lines 9 to 11 of 12; go on with offset 12]"
    );
    assert_eq!(
        structured,
        json!({"path": "/workspace/it", "kind": "text", "size": 1234,
               "content": "     9\ta\n    10\t\n    11\tb\n", "total_lines": 12, "next_offset": 12,
               "notes": ["lines 9 to 11 of 12; go on with offset 12"]})
    );
}

#[tokio::test]
async fn what_is_not_known_is_left_out_and_said() {
    let (text, structured) = both(lines("a\n", None, Some(2)), 1, 1).await;
    assert_eq!(structured.get("total_lines"), None);
    assert_eq!(
        text,
        "     1\ta\n[lines 1 to 1 of a file of 1,234 bytes, whose lines were not all counted; go on with offset 2]"
    );
    let ends = async |data| text_of(lines(data, Some(2), None), 1).await;
    assert!(
        ends("a\r\nb\r\n")
            .await
            .ends_with("\n[these lines end in CRLF]")
    );
    assert!(ends("a\r\nb\n").await.contains("others in LF"));
    assert!(
        ends("a\rb\n")
            .await
            .starts_with("     1\ta\rb\n[some have lone CRs")
    );
}

#[test]
fn what_does_not_fit_is_for_the_next_page() {
    let line = "é".repeat(700);
    let numbered = numbered(&vec![line.as_str(); 100].join("\n"), 5);
    let given = numbered.text.lines().count() as u64;
    assert!(numbered.text.len() <= MAX_TEXT + 1500 && given > 20);
    assert_eq!(numbered.next, Some(5 + given));
    assert!(!numbered.cut);

    let long = format!("a{}\nb", "é".repeat(MAX_TEXT));
    let numbered = super::numbered(&long, 1);
    assert!(numbered.cut && numbered.text.len() <= MAX_TEXT + 8);
    assert_eq!(numbered.next, Some(2));
}

#[tokio::test]
async fn nothing_is_said_to_be_nothing() {
    assert_eq!(text_of(lines("", Some(0), None), 1).await, "[empty file]");
    assert_eq!(
        text_of(lines("", Some(3), None), 9).await,
        "[there is nothing at offset 9: 3 lines in all]"
    );
}

#[tokio::test]
async fn an_image_is_an_image_and_no_structured_content() {
    let image = || ReadContent::Image {
        media_type: "image/png".to_owned(),
    };
    let png = picture::tests::png(3, 2);
    let shown = result(read(image(), png.clone()), 1, 10).await.unwrap();
    let said = |result: &CallToolResult| result.content[0].as_text().unwrap().text.clone();
    assert_eq!(said(&shown), "[image/png, 3x2 pixels, 1,234 bytes]");
    let block = shown.content[1].as_image().unwrap();
    assert_eq!(
        (block.data.as_str(), block.mime_type.as_str()),
        (STANDARD.encode(&png).as_str(), "image/png")
    );
    assert_eq!(shown.structured_content, None);
    let bad = result(read(image(), "\u{89}PNG\r\n\u{1a}\nno"), 1, 10)
        .await
        .unwrap();
    assert_eq!(bad.content.len(), 1);
    assert!(
        said(&bad).starts_with("[not shown, 1,234 bytes: "),
        "{bad:?}"
    );
    let binary = ReadContent::Binary {
        description: "ELF executable".to_owned(),
    };
    let binary = result(read(binary, ""), 1, 10).await.unwrap();
    assert!(said(&binary).starts_with("[ELF executable, 1,234 bytes;"));
    assert_eq!(binary.structured_content, None);
}

#[tokio::test]
async fn directories_are_listed_in_pages() {
    let entry = |name: &str, kind: &str, mode, target| {
        let entry = DirEntry {
            name: name.to_owned(),
            kind: kind.to_owned(),
            size: 7,
            mode,
            target,
        };
        serde_json::to_string(&entry).unwrap()
    };
    let data = [
        entry("a", "symlink", 0o777, Some("b".to_owned())),
        entry("b", "file", 0o640, None),
        entry("c", "dir", 0o755, None),
    ]
    .join("\n");
    let directory = || ReadContent::Directory { entries: 3 };
    let (_, structured) = both(read(directory(), data.clone()), 1, 10).await;
    assert_eq!(
        structured["content"],
        "lrwxrwxrwx          7  a -> b\n-rw-r-----          7  b\ndrwxr-xr-x          7  c/\n"
    );
    assert_eq!(structured.get("next_offset"), None);
    let (text, structured) = both(read(directory(), data), 2, 1).await;
    assert_eq!(structured["next_offset"], 3);
    assert_eq!(
        text,
        "-rw-r-----          7  b\n[entries 2 to 2 of 3; go on with offset 3]"
    );
}
