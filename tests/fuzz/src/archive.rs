//! Any file or layout is read as an image or gives an error; no file outside it is read.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};

use snowglobe::image::{
    Digest, ImageError, ImageName, ImageRef, ImageStore, LayerSource, Registries, UnpackError,
    Unpacked, Unpacker,
};
use snowglobe::progress::Progress;
use tempfile::TempDir;

use crate::image::{Image, Packing};
use crate::tree;

/// A file beside the image, which must not be read.
const SECRET: &[u8] = b"what lies outside";

/// Reads the layers that a VM would unpack, then fails: this target starts no VM.
struct Refuses;

impl Unpacker for Refuses {
    async fn unpack(
        &self,
        _: &Path,
        layers: &[LayerSource],
        _: &Progress,
    ) -> Result<Unpacked, UnpackError> {
        for layer in layers {
            let opened = layer.open(&Progress::none(), "");
            let _ = io::copy(&mut opened.map_err(UnpackError::new)?, &mut io::sink());
        }
        Err(UnpackError::new("it is not to be unpacked"))
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
});

/// An image store for many inputs, since making it takes longer than one input.
struct Place {
    dir: TempDir,
    store: ImageStore,
    plays: u32,
}

static PLACE: Mutex<Option<Place>> = Mutex::new(None);

/// The number of inputs after which a new store is made.
const PLAYS: u32 = 200;

impl Place {
    fn new() -> Self {
        let dir = tree::directory();
        fs::create_dir(dir.path().join("outside")).expect("there is room");
        fs::write(dir.path().join("outside/secret"), SECRET).expect("there is room");
        let store = ImageStore::open(dir.path(), Arc::new(|| Ok(Vec::new())));
        Self {
            store: store.expect("a store can be made"),
            dir,
            plays: 0,
        }
    }
}

/// The first byte selects the image's format, the second its compression.
pub(crate) fn play(bytes: &[u8]) {
    let [kind, packing, rest @ ..] = bytes else {
        return;
    };
    let mut place = PLACE.lock().expect("no play failed");
    if place.as_ref().is_some_and(|place| place.plays == PLAYS) {
        *place = None;
    }
    let place = place.get_or_insert_with(Place::new);
    place.plays += 1;
    let path = place.dir.path().join("image");
    let packing = Packing::of(*packing);
    let made = match kind & 8 {
        0 => tree::archives(rest).map(|archives| {
            fs::write(&path, packing.pack(archives.concat())).expect("there is room");
        }),
        _ => crate::made::<Image>(rest).map(|image| match kind % 4 {
            3 => image.lay(&path),
            _ => fs::write(&path, packing.pack(image.archive())).expect("there is room"),
        }),
    };
    if made.is_none() {
        return;
    }
    RUNTIME.block_on(take(&place.store, &path, *kind, bytes.len()));
    let secret = Digest::of(SECRET);
    assert_eq!(
        place.store.blobs().size(&secret),
        None,
        "it came from outside"
    );
    let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
}

async fn take(store: &ImageStore, path: &Path, kind: u8, read: usize) {
    let progress = Progress::none();
    let name: ImageName = "fuzz".parse().expect("it is a name");
    let reference = match kind % 4 {
        0 => {
            let taken = store.import(&name, path, &Refuses, &progress).await;
            return refused(taken, read);
        }
        1 => ImageRef::Tar(path.to_owned()),
        2 => ImageRef::DockerArchive(path.to_owned()),
        _ => ImageRef::OciLayout {
            dir: path.to_owned(),
            name: (kind & 16 != 0).then(|| "latest".into()),
        },
    };
    let registries = Registries::default();
    let pulled = store
        .pull(&reference, &registries, &Refuses, &progress)
        .await;
    refused(pulled, read);
}

fn refused<T>(taken: Result<T, ImageError>, read: usize) {
    match taken {
        Ok(_) => panic!("nothing is unpacked"),
        Err(error) => crate::check_message(&error, read),
    }
}
