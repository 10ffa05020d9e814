//! What a sweep takes, and what takes the place of an image: nothing in use goes, whatever happened before.

use proptest::prelude::*;

use super::*;
use crate::image::store::sweep::SweptDisk;

/// What people and programs do with images, in any order.
#[derive(Debug, Clone)]
enum Act {
    /// Import this content under this name, in place of what is there.
    Import(u8, u8),
    /// Remove the image of this name.
    Remove(u8),
    /// Start a machine of the image of this name.
    Lease(u8),
    /// End a machine.
    EndLease(prop::sample::Index),
    /// Save a snapshot of a machine.
    Save(prop::sample::Index),
    /// Delete a snapshot.
    Delete(prop::sample::Index),
    /// Remove what nothing needs.
    Prune(bool),
    /// Another process opens the store.
    Open,
}

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..3_u8, 0..4_u8).prop_map(|(name, content)| Act::Import(name, content)),
        2 => (0..3_u8).prop_map(Act::Remove),
        2 => (0..3_u8).prop_map(Act::Lease),
        1 => any::<prop::sample::Index>().prop_map(Act::EndLease),
        2 => any::<prop::sample::Index>().prop_map(Act::Save),
        1 => any::<prop::sample::Index>().prop_map(Act::Delete),
        2 => any::<bool>().prop_map(Act::Prune),
        1 => Just(Act::Open),
    ]
}

struct Model {
    home: Home,
    leases: Vec<DiskLease>,
    runtime: tokio::runtime::Runtime,
}

impl Model {
    fn act(&mut self, act: Act) {
        let store = self.home.store();
        let named = |name: u8| name_of(name);
        match act {
            Act::Import(name, content) => {
                let archive = self.home.archive(&format!("content {content}"));
                let (copy, none) = (Copy::open(), Progress::none());
                let name = named(name);
                let import = store.import(&name, &archive, &copy, &none);
                self.runtime.block_on(import).unwrap();
            }
            Act::Remove(name) => {
                // Refused while it is in use.
                store.remove(&ImageKey::from(&named(name))).ok();
            }
            Act::Lease(name) => {
                let lease = store.lease(&ImageKey::from(&named(name)), "a machine");
                self.leases.extend(lease.ok());
            }
            Act::EndLease(which) if !self.leases.is_empty() => {
                let which = which.index(self.leases.len());
                drop(self.leases.swap_remove(which));
            }
            Act::Save(which) if !self.leases.is_empty() => {
                let disk = self.leases[which.index(self.leases.len())]
                    .disk()
                    .to_owned();
                self.home.dependents.lock().unwrap().push(Dependent {
                    disk,
                    description: "a snapshot".into(),
                });
            }
            Act::Delete(which) => {
                let mut saved = self.home.dependents.lock().unwrap();
                if !saved.is_empty() {
                    let which = which.index(saved.len());
                    saved.swap_remove(which);
                }
            }
            Act::Prune(all) => {
                store.prune(all).unwrap();
            }
            Act::Open | Act::EndLease(_) | Act::Save(_) => {}
        }
    }

    /// Every image is whole, and every disk in use is there.
    fn check(&self) -> Result<(), TestCaseError> {
        let store = ImageStore::look(self.home.dir.path());
        for image in store.records().unwrap() {
            let there = store.find(&image.key).unwrap();
            prop_assert!(there.is_some(), "{} has lost its disk", image.key);
            for blob in image.content.blobs() {
                prop_assert!(
                    store.blobs().size(blob).is_some(),
                    "{} lost {blob}",
                    image.key
                );
            }
        }
        for lease in &self.leases {
            prop_assert!(lease.disk().exists(), "a machine has lost its disk");
        }
        for saved in self.home.dependents.lock().unwrap().iter() {
            prop_assert!(saved.disk.exists(), "a snapshot has lost its disk");
        }
        Ok(())
    }
}

fn name_of(number: u8) -> ImageName {
    name(&format!("image-{number}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn nothing_in_use_is_swept_and_nothing_else_stays(acts in prop::collection::vec(acts(), 1..14)) {
        let mut model = Model {
            home: Home::new(),
            leases: Vec::new(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        };
        drop(model.home.store());
        for act in acts {
            model.act(act);
            model.check()?;
        }
        model.leases.clear();
        model.home.dependents.lock().unwrap().clear();
        let store = model.home.store();
        for key in store.known().unwrap() {
            store.remove(&key).unwrap();
        }
        store.prune(false).unwrap();
        model.home.assert_nothing_is_left();
        prop_assert!(store.blobs().all().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_sweep_names_what_it_takes() {
    let home = Home::new();
    let store = home.store();
    let none = Progress::none();
    let (n, copy) = (name("n"), Copy::open());
    let archive = home.archive("old");
    let old = store
        .import(&n, &archive, &copy, &none)
        .await
        .unwrap()
        .record;
    let (progress, mut steps) = Progress::channel();
    let archive = home.archive("new");
    let new = store
        .import(&n, &archive, &copy, &progress)
        .await
        .unwrap()
        .record;
    drop(progress);
    let mut said = Vec::new();
    while let Some(step) = steps.recv().await {
        said.push(step.message);
    }
    let named = said
        .iter()
        .any(|step| step.contains(&format!("removed the disk {}", old.disk)));
    assert!(named, "{said:?}");
    let pruned = store.prune(false).unwrap();
    let taken: Vec<_> = pruned
        .blobs
        .whole
        .iter()
        .map(|(digest, _)| digest)
        .collect();
    assert!(
        old.content.blobs().all(|blob| taken.contains(&blob)),
        "{taken:?}"
    );
    let swept = store.remove(&new.key).unwrap();
    assert_eq!(swept.len(), 1);
    let SweptDisk { disk, bytes } = &swept[0];
    assert!(*disk == new.disk && *bytes > 0);
}

#[tokio::test]
async fn a_name_that_is_taken_is_not_taken_by_mistake() {
    let home = Home::new();
    let store = home.store();
    let (archive, copy, none) = (home.archive("mine"), Copy::open(), Progress::none());
    let import = async |called: &str| {
        let name = name(called);
        let imported = store.import_from(&name, (&archive, None), false, &copy, &none);
        imported.await.map_err(|error| error.to_string())
    };
    import("mine").await.unwrap();
    let error = import("mine").await.unwrap_err();
    assert!(
        error.contains("--force") && error.contains("mine.tar"),
        "{error}"
    );
    for built_in in ["debian", "minimal", "dev"] {
        let error = import(built_in).await.unwrap_err();
        assert!(
            error.contains("--force") && error.contains("image build"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn of_two_imports_of_one_name_at_once_the_second_is_refused() {
    let home = Home::new();
    let (one, two) = (home.archive("one"), home.archive("two"));
    let (n, copy) = (name("n"), Copy::closed());
    let (first, second) = (home.store(), home.store());
    let (progress_1, mut steps_1) = Progress::channel();
    let (progress_2, mut steps_2) = Progress::channel();
    let later = async {
        wait_for(&mut steps_1, "copying").await;
        let open = async {
            let waits = "waiting for another snowglobe to finish importing `n`";
            wait_for(&mut steps_2, waits).await;
            copy.gate.add_permits(2);
        };
        let import = second.import_from(&n, (&two, None), false, &copy, &progress_2);
        tokio::join!(import, open).0
    };
    let import = first.import_from(&n, (&one, None), false, &copy, &progress_1);
    let (made, refused) = tokio::join!(import, later);
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("one.tar") && error.contains("--force"),
        "{error}"
    );
    let made = made.unwrap().record;
    assert_eq!(second.record(&made.key).unwrap(), Some(made));
}

#[tokio::test]
async fn a_build_builds_or_says_why_not() {
    let home = Home::new();
    let store = home.store();
    let (none, copy) = (Progress::none(), Copy::open());
    let recipe = Recipe::find(&name("minimal")).unwrap();
    let archive = home.archive("of the recipe");
    let built = store
        .build_recipe(recipe, Some(&archive), false, &copy, &none)
        .await
        .unwrap();
    assert!(matches!(built, Built::Now(_)));
    let built = store
        .build_recipe(recipe, Some(&archive), false, &copy, &none)
        .await
        .unwrap();
    assert!(matches!(built, Built::Before(_)));
    let other = home.archive("of somebody else");
    store
        .import(&name("minimal"), &other, &copy, &none)
        .await
        .unwrap();
    let refused = store
        .build_recipe(recipe, Some(&archive), false, &copy, &none)
        .await;
    let error = refused.unwrap_err().to_string();
    assert!(
        error.contains("of-somebody-else.tar") && error.contains("--force"),
        "{error}"
    );
    let built = store
        .build_recipe(recipe, Some(&archive), true, &copy, &none)
        .await
        .unwrap();
    let Built::Now(image) = built else {
        panic!("{built:?}")
    };
    assert_eq!(image.record.source, recipe.source());
    // What an older recipe built is built again.
    let mut older = image.record.clone();
    older.source = Source::Recipe {
        recipe: "minimal".into(),
        digest: Digest::of(b"an older recipe"),
    };
    let held = store.lock().unwrap();
    store.publish(&held, older).unwrap();
    drop(held);
    let built = store
        .build_recipe(recipe, Some(&archive), false, &copy, &none)
        .await
        .unwrap();
    assert!(matches!(built, Built::Now(_)));
}
