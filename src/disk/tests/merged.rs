//! Long chains of layers: merged before a machine starts, with the same content for every snapshot.

use std::process::Command;

use proptest::prelude::*;

use super::super::depth::MOST;
use super::super::overlay::make_overlay;
use super::*;
use snowglobe_runner::DiskFormat;

const SIZE: u64 = 32 << 20;

fn run(program: &str, arguments: &[&str]) {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(done.status.success(), "{program} {arguments:?}: {done:?}");
}

/// A chain of layers in which a QEMU has written, zeroed and discarded, aligned to clusters and not.
fn written(store: &Store, base: &Base, count: u64) -> Vec<String> {
    let mut layers: Vec<String> = Vec::new();
    for number in 0..count {
        let (under, format) = match layers.last() {
            Some(layer) => (store.layer(layer), DiskFormat::Qcow2),
            None => (base.disk.clone(), DiskFormat::Raw),
        };
        let layer = store.new_layer();
        let path = store.layer(&layer);
        make_overlay(&under, format, SIZE, &path).unwrap();
        let at = |factor: u64, align: u64| (number * factor % 400) * 65_536 + number % 7 * align;
        let writes = format!("write -P {} {} 12k", number % 255 + 1, at(7, 4096));
        let zeroes = format!("write -z {} 160k", at(31, 512));
        let gone = format!("discard {} 64k", at(57, 65_536));
        let path = path.to_str().unwrap();
        run(
            "qemu-io",
            &[
                "-f", "qcow2", "-d", "unmap", "-c", &writes, "-c", &zeroes, "-c", &gone, path,
            ],
        );
        layers.push(layer);
    }
    layers
}

fn same(a: &Path, b: &Path) {
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    run("qemu-img", &["compare", "-U", a, b]);
    run("qemu-img", &["check", "-U", "-q", b]);
}

#[test]
fn a_long_chain_is_merged_and_says_the_same() {
    let (dir, store, mut base) = store();
    base.disk = dir.path().join("long.raw");
    let raw: Vec<u8> = (0..SIZE).map(|at| (at / 1000) as u8).collect();
    fs::write(&base.disk, raw).unwrap();
    let layers = written(&store, &base, 60);
    let half = layers[..30].to_vec();
    let save = |name: &str, layers: &[String]| {
        store
            .save(&named(name), base.clone(), layers.to_vec(), None, false)
            .unwrap();
    };
    save("all", &layers);
    save("half", &half);
    save("first", &layers[..1]);
    // What it was, apart from all that a sweep may take.
    let kept = dir.path().join("kept.raw");
    let (top, flat) = (store.layer(&layers[59]), kept.to_str().unwrap());
    run(
        "qemu-img",
        &["convert", "-O", "raw", top.to_str().unwrap(), flat],
    );

    let said = std::cell::RefCell::new(Vec::new());
    let say = |step| said.borrow_mut().push(step);
    let mut vms: Vec<_> = (0..4).map(|_| store.new_vm().unwrap()).collect();
    let disk = store
        .new_disk(&vms[0], &[], &base.disk, layers.clone(), &say)
        .unwrap();
    assert!(disk.layers.len() <= MOST, "{}", disk.layers.len());
    assert!(said.take()[0].contains("merging"), "a person waits for it");
    same(&kept, &disk.file);
    let all = store.get(&named("all")).unwrap();
    assert_eq!(all.layers, disk.layers[..disk.layers.len() - 1]);
    assert!(!store.layer(&layers[59]).exists(), "nothing needs it now");
    assert_eq!(store.get(&named("half")).unwrap().layers, half);
    assert!(half.iter().all(|layer| store.layer(layer).exists()));
    store.check_layers(&base.disk, &half).unwrap();

    // The next machine of it starts without a merge; another snapshot is merged by itself.
    let again = store
        .new_disk(&vms[1], &[], &base.disk, all.layers, &say)
        .unwrap();
    assert!(said.take().is_empty() && again.layers.len() == disk.layers.len());
    let other = store
        .new_disk(&vms[2], &[], &base.disk, half, &say)
        .unwrap();
    assert_eq!(said.take().len(), 1);
    let first = store
        .new_disk(&vms[3], &[], &base.disk, layers[..1].to_vec(), &say)
        .unwrap();
    vms.drain(..2);
    store.delete(&named("all")).unwrap();
    same(&store.layer(&first.layers[0]), &first.file);
    store.check_layers(&base.disk, &other.layers).unwrap();
}

/// What people and programs do with a store, in any order.
#[derive(Debug, Clone)]
enum Act {
    Boot(Option<prop::sample::Index>),
    End(prop::sample::Index),
    Save(prop::sample::Index, u8, bool),
    Delete(u8),
    Sweep,
}

fn acts() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        3 => prop::option::of(index()).prop_map(Act::Boot),
        2 => index().prop_map(Act::End),
        4 => (index(), 0..4_u8, any::<bool>()).prop_map(|(vm, name, replaces)| Act::Save(vm, name, replaces)),
        2 => (0..4_u8).prop_map(Act::Delete),
        1 => Just(Act::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_layer_in_use_is_swept_and_no_other_stays(acts in prop::collection::vec(acts(), 1..30)) {
        let (_dir, store, base) = store();
        let mut machines: Vec<(VmDir, Vec<String>)> = Vec::new();
        for act in acts {
            match act {
                Act::Boot(from) => {
                    let saved = store.list().unwrap();
                    let mut layers = match from {
                        Some(from) if !saved.is_empty() => saved[from.index(saved.len())].layers.clone(),
                        _ => Vec::new(),
                    };
                    let vm = store.new_vm().unwrap();
                    layers.push(layer(&store));
                    vm.set_layers(&layers).unwrap();
                    machines.push((vm, layers));
                }
                Act::End(which) if !machines.is_empty() => {
                    machines.swap_remove(which.index(machines.len()));
                }
                Act::Save(which, name, replaces) if !machines.is_empty() => {
                    let which = which.index(machines.len());
                    let (vm, layers) = &mut machines[which];
                    let frozen = layers.clone();
                    layers.push(layer(&store));
                    vm.set_layers(layers).unwrap();
                    let name = named(&format!("s{name}"));
                    let taken = store.check_free(&name).is_err();
                    let saved = store.save(&name, base.clone(), frozen, None, replaces);
                    prop_assert_eq!(saved.is_ok(), replaces || !taken);
                }
                Act::Delete(name) => {
                    store.delete(&named(&format!("s{name}"))).ok();
                }
                Act::Sweep | Act::End(_) | Act::Save(..) => store.try_sweep().unwrap(),
            }
            for record in store.list().unwrap() {
                prop_assert!(store.get(&record.name).is_ok(), "{} has lost a layer", record.name);
            }
            for (_, layers) in &machines {
                prop_assert!(layers.iter().all(|layer| store.layer(layer).exists()));
            }
        }
        drop(machines);
        for record in store.list().unwrap() {
            store.delete(&record.name).unwrap();
        }
        store.try_sweep().unwrap();
        prop_assert_eq!(fs::read_dir(store.dir.join("layers")).unwrap().count(), 0);
    }
}

#[test]
fn a_snapshot_is_replaced_only_when_that_is_asked_for() {
    let (_dir, store, base) = store();
    let old = layer(&store);
    let save = |layer: &str, replaces| {
        store.save(
            &named("good"),
            base.clone(),
            vec![layer.to_owned()],
            None,
            replaces,
        )
    };
    save(&old, true).unwrap();
    let new = layer(&store);
    let error = save(&new, false).unwrap_err().to_string();
    assert!(error.contains("--force"), "{error}");
    assert!(store.layer(&old).exists());
    save(&new, true).unwrap();
    assert!(!store.layer(&old).exists() && store.layer(&new).exists());
    assert_eq!(store.get(&named("good")).unwrap().layers, [new]);
    fs::write(store.snapshots().join("stray.json"), "not ours").unwrap();
    let stray = store.save(&named("stray"), base.clone(), Vec::new(), None, true);
    assert!(matches!(stray, Err(StoreError::Damaged { .. })));
}

#[test]
fn what_a_save_takes_is_known_before() {
    use super::super::SaveLimits;
    let (_dir, store, base) = store();
    let newest = layer(&store);
    fs::write(store.layer(&newest), vec![1; 3 << 20]).unwrap();
    let limits = SaveLimits {
        bytes: 4 << 20,
        replaces: false,
        copies: true,
    };
    let plan = |limits| {
        store.plan_save(
            &named("s"),
            &base.disk,
            std::slice::from_ref(&newest),
            limits,
        )
    };
    let planned = plan(limits).unwrap();
    assert!(planned.bytes >= 3 << 20 && planned.free > 0 && planned.merge.is_none());
    let full = plan(SaveLimits {
        bytes: 1 << 20,
        ..limits
    })
    .unwrap_err()
    .to_string();
    assert!(
        full.contains("3 MiB") && full.contains("snapshot_gib"),
        "{full}"
    );
    store
        .save(&named("s"), base.clone(), vec![newest.clone()], None, false)
        .unwrap();
    assert!(matches!(plan(limits), Err(StoreError::Exists(_))));
    // Many layers are merged first, unless snapshots may not take that much more.
    let many: Vec<String> = (0..30).map(|_| layer(&store)).collect();
    let plan = |bytes| {
        let limits = SaveLimits {
            bytes,
            replaces: true,
            copies: false,
        };
        store
            .plan_save(&named("s"), &base.disk, &many, limits)
            .unwrap()
    };
    let merge = plan(1 << 30).merge.unwrap();
    assert!(
        merge.kept.len() < MOST && merge.onto == base.disk,
        "{merge:?}"
    );
    assert!(plan((3 << 20) + 8192).merge.is_none());
}

#[test]
fn to_look_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::look(dir.path(), &named("test"));
    assert!(store.list().unwrap().is_empty());
    let error = store.delete(&named("none")).unwrap_err().to_string();
    assert!(error.contains("there are none yet"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_wrong_name_is_told_the_nearest() {
    let (_dir, store, base) = store();
    store
        .save(&named("before-upgrade"), base, Vec::new(), None, false)
        .unwrap();
    let error = store.get(&named("befor-upgrade")).unwrap_err().to_string();
    assert!(error.contains("did you mean `before-upgrade`?"), "{error}");
}
