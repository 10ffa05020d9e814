#[path = "../../../tests/common/acl.rs"]
mod access;

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use self::access::{ACL, acl};
use super::attributes::attribute;
use super::*;

fn set_attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn value(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    attribute(&File::open(path).unwrap(), name.as_bytes())
}

#[test]
fn what_a_file_has_besides_its_content_stays() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = dir.path().join("f");
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o4750)).unwrap();
    set_attribute(&file, "user.note", b"kept");
    assert_eq!(replace(&file, b"new", None), Ok(None));
    assert_eq!(fs::read(&file).unwrap(), b"new");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o4750);
    assert_eq!(value(&file, "user.note").unwrap(), b"kept");
    set_attribute(&file, ACL, &acl());
    assert_eq!(replace(&file, b"newer", None), Ok(None));
    assert_eq!(value(&file, ACL).unwrap(), acl());
}

#[test]
fn a_directorys_default_acl_is_for_new_files_only() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let file = dir.path().join("f");
    fs::write(&file, "old").unwrap();
    set_attribute(dir.path(), "system.posix_acl_default", &acl());
    assert_eq!(replace(&file, b"new", None), Ok(None));
    assert!(value(&file, ACL).is_err());
}

#[test]
fn hard_links_stay_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (dir.path().join("f"), dir.path().join("g"));
    fs::write(&file, "old and longer").unwrap();
    fs::hard_link(&file, &other).unwrap();
    let note = replace(&file, b"new", Some(0o640)).unwrap().unwrap();
    assert!(note.contains("2 hard links"), "{note}");
    assert_eq!(fs::read(&other).unwrap(), b"new");
    assert_eq!(fs::metadata(&other).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn the_longest_names_can_be_written() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["n".repeat(255), "\u{20ac}".repeat(85)] {
        let file = dir.path().join(&name);
        for content in ["one", "two"] {
            assert_eq!(replace(&file, content.as_bytes(), None), Ok(None));
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
    }
    let refused = replace(&dir.path().join("n".repeat(256)), b"", None).unwrap_err();
    assert!(refused.message.contains("name too long"), "{refused}");
}

#[test]
fn additions_at_once_are_all_there_and_the_inode_stays() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let file = &file;
            scope.spawn(move || {
                for _ in 0..100 {
                    append(file, format!("{writer} line\n").as_bytes(), None).unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 400);
    assert!(text.lines().all(|line| line.ends_with(" line")));
    let before = fs::metadata(&file).unwrap().ino();
    append(&file, b"x", Some(0o600)).unwrap();
    let after = fs::metadata(&file).unwrap();
    assert_eq!((after.ino(), after.mode() & 0o7777), (before, 0o600));
}

/// A full disk of 1 MiB.
#[test]
fn what_does_not_fit_leaves_the_old_content() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts a file system: run it as root"
    );
    let dir = tempfile::tempdir().unwrap();
    let options = c"size=1m";
    rustix::mount::mount(
        "tmpfs",
        dir.path(),
        "tmpfs",
        rustix::mount::MountFlags::empty(),
        options,
    )
    .unwrap();
    let (file, other) = (dir.path().join("f"), dir.path().join("g"));
    fs::write(&file, "old").unwrap();
    let long = vec![b'x'; 2 << 20];
    let by_renaming = replace(&file, &long, None).unwrap_err();
    let by_append = append(&file, &long, None).unwrap_err();
    fs::hard_link(&file, &other).unwrap();
    let by_writing = replace(&file, &long, None).unwrap_err();
    let content = fs::read(&file).unwrap();
    let names = fs::read_dir(dir.path()).unwrap().count();
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(by_renaming.kind, ErrorKind::NoSpace);
    assert_eq!(by_append.kind(), io::ErrorKind::StorageFull);
    assert_eq!(by_writing.kind, ErrorKind::NoSpace);
    assert!(by_writing.message.contains("as it was"), "{by_writing}");
    assert_eq!((content.as_slice(), names), (b"old".as_slice(), 2));
}

#[test]
fn what_others_own_or_closed_directories_hold_is_written_in_place() {
    use crate::system::user_thread::{Credentials, become_user};
    assert!(
        rustix::process::geteuid().is_root(),
        "this test changes credentials: run it as root"
    );
    let dir = tempfile::tempdir().unwrap();
    let sticky = dir.path().join("sticky");
    fs::create_dir(&sticky).unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&sticky, Permissions::from_mode(0o1777)).unwrap();
    let (closed, shared) = (dir.path().join("app.conf"), sticky.join("f"));
    for file in [&closed, &shared] {
        fs::write(file, "old").unwrap();
        fs::set_permissions(file, Permissions::from_mode(0o666)).unwrap();
    }
    let own = dir.path().join("own");
    fs::write(&own, "old").unwrap();
    std::os::unix::fs::chown(&own, Some(1000), Some(1000)).unwrap();
    let sealed = dir.path().join("sealed");
    fs::write(&sealed, "old").unwrap();
    let files = [closed, shared, own, sealed];
    let theirs = files.clone();
    let results = std::thread::spawn(move || {
        let user = Credentials {
            uid: 1000,
            gid: 1000,
            groups: vec![],
        };
        become_user(&user).unwrap();
        theirs.map(|file| replace(&file, b"new", None))
    });
    let [closed, shared, own, sealed] = results.join().unwrap();
    for (result, says) in [
        (closed, "another user"),
        (shared, "another user"),
        (own, "its directory can't be written"),
    ] {
        let note = result.unwrap().unwrap();
        assert!(note.contains(says), "{note}");
    }
    assert_eq!(sealed.unwrap_err().kind, ErrorKind::PermissionDenied);
    for file in &files[..3] {
        assert_eq!(fs::read(file).unwrap(), b"new");
    }
    assert_eq!(fs::metadata(&files[1]).unwrap().uid(), 0);
}
