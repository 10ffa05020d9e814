//! The files of the workspace and of the guest.

#[path = "../../../images/init/tests/common/acl.rs"]
mod access;

use serde_json::json;

use self::access::{ACL, acl};
use crate::common::Place;

#[tokio::test(flavor = "multi_thread")]
async fn the_workspace_is_the_same_on_both_sides() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new("minimal");
    let every: Vec<u8> = (0..4096).map(|n| (n % 256) as u8).collect();
    std::fs::write(place.workspace.join("from-host"), &every).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", place.workspace.join("escape")).unwrap();
    std::fs::write(place.dir.path().join("secret"), "host secret").unwrap();
    std::os::unix::fs::symlink("../secret", place.workspace.join("up")).unwrap();
    let session = place.serve().await;
    let host_sum = session.stdout("md5sum <from-host").await;
    assert_eq!(
        session
            .stdout("cp from-host from-guest && md5sum <from-guest")
            .await,
        host_sum
    );
    assert_eq!(
        std::fs::read(place.workspace.join("from-guest")).unwrap(),
        every
    );
    assert_eq!(
        session.stdout("stat -c '%U %G' from-host from-guest").await,
        "sandbox sandbox\nsandbox sandbox\n"
    );
    let ours = std::fs::metadata(place.workspace.join("from-host"))
        .unwrap()
        .uid();
    assert_eq!(
        std::fs::metadata(place.workspace.join("from-guest"))
            .unwrap()
            .uid(),
        ours
    );
    assert_eq!(
        session
            .root("touch by-root && mkdir -p a/b && chown 33:33 by-root; stat -c %U by-root")
            .await["stdout"],
        "sandbox\n"
    );
    assert_eq!(
        std::fs::metadata(place.workspace.join("by-root"))
            .unwrap()
            .uid(),
        ours
    );
    // Files written before are older: the guest's clock is not behind.
    std::fs::write(place.workspace.join("before"), "x").unwrap();
    assert_eq!(
        session
            .stdout("touch /tmp/after; test before -nt /tmp/after || echo older")
            .await,
        "older\n"
    );
    // A link is resolved in the guest, never on the host.
    assert_eq!(session.stdout("cat escape").await, "snowglobe\n");
    assert_ne!(session.exec("cat up").await["exit_code"], 0);
    assert_ne!(
        session.root("cat /workspace/up /workspace/../secret").await["exit_code"],
        0
    );
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_and_written() {
    let place = Place::new("minimal");
    let session = place.serve().await;
    let written = session
        .call(
            "write",
            json!({"path": "a/b/hello.txt", "content": "one\ntwo\nthree\n"}),
        )
        .await;
    assert_eq!(written["bytes"], 14);
    assert_eq!(
        std::fs::read_to_string(place.workspace.join("a/b/hello.txt")).unwrap(),
        "one\ntwo\nthree\n"
    );
    let read = session
        .call(
            "read",
            json!({"path": "/workspace/a/b/hello.txt", "offset": 2, "limit": 1}),
        )
        .await;
    assert!(read["content"].as_str().unwrap().contains("two"), "{read}");
    assert_eq!(
        (read["total_lines"].as_u64(), read["next_offset"].as_u64()),
        (Some(3), Some(3))
    );
    session
        .call(
            "write",
            json!({"path": "bin", "content": "AAEC/w==", "encoding": "base64", "mode": "0755"}),
        )
        .await;
    assert_eq!(
        std::fs::read(place.workspace.join("bin")).unwrap(),
        [0, 1, 2, 255]
    );
    assert_eq!(session.stdout("stat -c %a bin").await, "755\n");
    session
        .call(
            "write",
            json!({"path": "bin", "content": "x", "append": true}),
        )
        .await;
    assert_eq!(session.stdout("stat -c '%a %s' bin").await, "755 5\n");
    // Root reads the file; the kernel does not follow another user's link in /tmp.
    session
        .exec("ln -s /workspace/a/b/hello.txt /tmp/link; ln -s loop /tmp/loop")
        .await;
    let linked = session.call("read", json!({"path": "/tmp/link"})).await;
    assert_eq!(linked["path"], "/workspace/a/b/hello.txt", "{linked}");
    let looped = session.error("read", json!({"path": "/tmp/loop"})).await;
    assert!(looped.contains("symbolic links"), "{looped}");
    let missing = session.error("read", json!({"path": "nothing-here"})).await;
    assert!(missing.contains("nothing-here"), "{missing}");
    let refused = session
        .error("write", json!({"path": "/proc/nope/x", "content": ""}))
        .await;
    assert!(refused.contains("/proc/nope"), "{refused}");
    session.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_file_of_the_workspace_keeps_its_mode_links_and_attributes() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    const NOTE: &str = "user.note";
    let place = Place::new("minimal");
    let at = |name: &str| place.workspace.join(name);
    let attribute = |name: &str, attribute: &str| {
        let mut value = vec![0; 100];
        let length = rustix::fs::getxattr(at(name), attribute, value.as_mut_slice()).unwrap();
        value.truncate(length);
        value
    };
    let give = |name: &str, attribute: &str, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(at(name), attribute, value, flags).unwrap();
    };
    for name in ["plain", "linked", "listed", "noted", "script"] {
        std::fs::write(at(name), "one old\r\ntwo\n").unwrap();
    }
    std::fs::hard_link(at("linked"), at("other name")).unwrap();
    std::fs::set_permissions(at("script"), PermissionsExt::from_mode(0o755)).unwrap();
    give("noted", NOTE, b"kept");
    give("listed", ACL, &acl());
    let decomposed = "re\u{301}sume\u{301} 3\u{202f}PM.txt";
    std::fs::write(at(decomposed), "old\n").unwrap();
    let long = "ä".repeat(116) + ".rs";
    std::fs::write(at(&long), "old\n").unwrap();

    let session = place.serve().await;
    for name in ["plain", "linked", "listed", "noted", "script"] {
        let edit =
            json!({"path": name, "old_string": "one old\ntwo", "new_string": "one new\ntwo"});
        let result = session.call("edit", edit).await;
        let in_place = result.to_string().contains("in place");
        assert_eq!(in_place, ["linked", "listed"].contains(&name), "{result}");
        assert_eq!(
            std::fs::read_to_string(at(name)).unwrap(),
            "one new\r\ntwo\n",
            "{name}"
        );
    }
    assert_eq!(
        std::fs::read_to_string(at("other name")).unwrap(),
        "one new\r\ntwo\n"
    );
    assert_eq!(at("linked").metadata().unwrap().nlink(), 2);
    assert_eq!(at("script").metadata().unwrap().mode() & 0o777, 0o755);
    assert_eq!(attribute("noted", NOTE), b"kept");
    assert_eq!(attribute("listed", ACL), acl());
    // Also a write.
    for name in ["linked", "listed", "noted"] {
        session
            .call("write", json!({"path": name, "content": "all new\n"}))
            .await;
    }
    assert_eq!(
        std::fs::read_to_string(at("other name")).unwrap(),
        "all new\n"
    );
    assert_eq!(attribute("noted", NOTE), b"kept");
    assert_eq!(attribute("listed", ACL), acl());

    // Under the spellings that a model types.
    for (typed, real) in [
        ("r\u{e9}sum\u{e9} 3 PM.txt", decomposed),
        (&long, &long),
        ("~/../../workspace/plain", "plain"),
        ("file:///workspace/plain", "plain"),
    ] {
        let edit = json!({"path": typed, "old_string": "new", "new_string": "newer"});
        let edit = match real {
            "plain" => edit,
            _ => json!({"path": typed, "old_string": "old", "new_string": "newer"}),
        };
        session.call("edit", edit).await;
        let now = std::fs::read_to_string(at(real)).unwrap();
        assert!(now.contains("newer"), "{typed}: {now}");
    }
    let many = std::fs::read_dir(&place.workspace).unwrap().count();
    assert_eq!(
        many, 8,
        "a file was made under another spelling of its name"
    );

    // Two calls append to one file at once, while a program has it open.
    std::fs::write(at("log"), "").unwrap();
    let add = |who: &'static str| {
        let session = &session;
        async move {
            for _ in 0..20 {
                let line = json!({"path": "log", "content": format!("{who}\n"), "append": true});
                session.call("write", line).await;
            }
        }
    };
    let held = session.exec("exec 3>>log; for n in $(seq 20); do echo three >&3; done");
    let ((), (), held) = tokio::join!(add("one"), add("two"), held);
    assert_eq!(held["exit_code"], 0, "{held}");
    let log = std::fs::read_to_string(at("log")).unwrap();
    for who in ["one", "two", "three"] {
        assert_eq!(log.lines().filter(|line| *line == who).count(), 20, "{who}");
    }
    session.close().await;
}
