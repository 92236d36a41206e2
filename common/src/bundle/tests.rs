use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::sector::{MinerId, ProverKind, SectorSize};

fn facts() -> BundleFacts {
    let farm = FarmInfo::new(MinerId(1000), SectorSize::KiB2, ProverKind::Filecoin);
    BundleFacts::new("site-1".parse().unwrap(), farm, "2026-11-22T10:00:00Z".parse().unwrap())
}

fn bundle() -> Bundle {
    Bundle::new(facts(), "# config\n".into(), Some("the hub's\n".into())).with_ca(b"PEM".to_vec())
}

/// An archive of these entries, written as anybody could.
fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, kind, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        // The library's own setter refuses such paths: the bytes are what an attacker would write.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        let body = match kind {
            EntryType::Symlink | EntryType::Link => {
                header.set_link_name(content).unwrap();
                ""
            }
            _ => content,
        };
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[test]
fn a_bundle_comes_back_from_its_archive_and_gives_the_same_bytes_each_time() {
    let packed = bundle().pack().unwrap();
    assert_eq!(packed, bundle().pack().unwrap());
    let read = Bundle::unpack(packed.as_slice()).unwrap();
    assert!(read == bundle());
    assert_eq!(read.facts(), &facts());
    assert_eq!(read.file(HUB_CREDENTIALS_FILE), Some(&b"the hub's\n"[..]));
}

#[test]
fn its_files_are_laid_out_for_their_owner_alone_and_replace_nothing() {
    let dir = tempfile::tempdir().unwrap();
    bundle().lay_out(dir.path()).unwrap();
    for name in FILES {
        let meta = fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{name}");
    }
    assert_eq!(BundleFacts::of_repo(dir.path()).unwrap(), Some(facts()));
    assert_eq!(bundle().lay_out(dir.path()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn tar_unpacks_it_to_the_same_files() {
    let (dir, by_tar) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = dir.path().join(FILE_NAME);
    fs::write(&path, bundle().pack().unwrap()).unwrap();
    let ran = std::process::Command::new("tar").arg("xzf").arg(&path).arg("-C").arg(by_tar.path()).status();
    assert!(ran.unwrap().success());
    for name in FILES {
        assert_eq!(fs::read(by_tar.path().join(name)).unwrap(), bundle().file(name).unwrap(), "{name}");
    }
    // And what tar packs anew is a bundle too, `./` in front of every name.
    let again = dir.path().join("again.tar.gz");
    let mut tar = std::process::Command::new("tar");
    let ran = tar.arg("czf").arg(&again).arg("-C").arg(by_tar.path()).arg(".").status();
    assert!(ran.unwrap().success());
    assert!(Bundle::read(&again).unwrap() == bundle());
}

#[test]
fn an_archive_cut_off_anywhere_is_refused() {
    let packed = bundle().pack().unwrap();
    for end in 0..packed.len() {
        let error = Bundle::unpack(&packed[..end]).err();
        assert!(matches!(error, Some(BundleError::Damaged { .. })), "{end} bytes: {error:?}");
    }
}

#[test]
fn a_changed_byte_is_noticed_or_changes_nothing() {
    let packed = bundle().pack().unwrap();
    for at in 0..packed.len() {
        let mut damaged = packed.clone();
        damaged[at] ^= 0x55;
        if let Ok(read) = Bundle::unpack(damaged.as_slice()) {
            assert!(read == bundle(), "byte {at}");
        }
    }
    assert!(Bundle::unpack(&b"no archive at all"[..]).is_err());
}

#[test]
fn paths_that_climb_out_links_and_strange_files_are_refused_by_name() {
    use EntryType::{Directory, Fifo, Link, Regular, Symlink};
    let check = |path: &str, kind, part: &str| {
        let packed = archive(&[("config.toml", Regular, ""), (path, kind, "x")]);
        let error = Bundle::unpack(packed.as_slice()).err().unwrap().to_string();
        assert!(error.contains(&format!("`{path}`")) && error.contains(part), "{error}");
    };
    check("../config.toml", Regular, "climbs out");
    check("a/../../hub.creds", Regular, "climbs out");
    check("/etc/passwd", Regular, "absolute");
    check("hub.creds", Symlink, "a link");
    check("hub.creds", Link, "a link");
    check("hub.creds", Fifo, "no plain file");
    check("store/", Directory, "no plain file");
    check("keys/hub.creds", Regular, "no plain file");
    check("token", Regular, "none of a bundle's files");
    check("config.toml", Regular, "twice");
}

#[test]
fn a_file_that_ends_before_its_length_is_damaged() {
    let mut header = Header::new_gnu();
    header.set_path(CONFIG_FILE).unwrap();
    header.set_size(1000);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.extend([b'x'; 10]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&tar).unwrap();
    let error = Bundle::unpack(encoder.finish().unwrap().as_slice()).err();
    assert!(matches!(error, Some(BundleError::Damaged { .. })), "{error:?}");
}

#[test]
fn an_archive_that_unpacks_to_very_much_is_given_up() {
    let much = "x".repeat(3 << 20);
    let packed = archive(&[("config.toml", EntryType::Regular, &much)]);
    assert!(packed.len() < 1 << 16);
    assert!(matches!(Bundle::unpack(packed.as_slice()), Err(BundleError::Damaged { .. })));
}

#[test]
fn a_missing_file_and_another_version_are_said() {
    let empty = archive(&[("config.toml", EntryType::Regular, "")]);
    assert_eq!(Bundle::unpack(empty.as_slice()).err(), Some(BundleError::Missing { name: FACTS_FILE }));
    let newer = archive(&[("bundle.json", EntryType::Regular, r#"{"v":2,"else":true}"#)]);
    assert_eq!(Bundle::unpack(newer.as_slice()).err(), Some(BundleError::Version { found: 2 }));
}

#[test]
fn a_bundle_of_another_farm_differs_in_both_values() {
    let farm = FarmInfo::new(MinerId(2000), SectorSize::GiB32, ProverKind::Filecoin);
    let other = BundleFacts { farm, ..facts() };
    let difference = facts().mismatch(&other).unwrap();
    assert!(difference.contains("the miner is t01000 here and t02000 in the bundle"), "{difference}");
    assert!(difference.contains("the sector size is 2KiB here and 32GiB in the bundle"), "{difference}");
    assert_eq!(facts().mismatch(&facts()), None);
}
