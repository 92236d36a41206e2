//! Making parameters into real directories: the smallest circuit, whole, twice, at once, interrupted.

use std::time::Duration;

use sealfarm_common::exit::render;

use super::*;
use crate::params::circuits::CircuitKind;
use crate::params::origin::DEFAULT_RNG_SEED;

/// A second or two of work.
const SMALL: Circuit = Circuit { kind: CircuitKind::WindowPost, size: SectorSize::KiB2 };
const OWN: Generator = Generator::Own(DEFAULT_RNG_SEED);

fn caches(dir: &Path) -> Caches {
    Caches { params: dir.to_owned(), parents: dir.join("parents") }
}

async fn make_small(dir: &Path, generator: Generator) -> Result<Outcome, ExitError> {
    let mut made = generate(&caches(dir), &[SMALL], generator, &CancellationToken::new()).await?;
    Ok(made.remove(0))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn check_error(error: ExitError, code: ExitCode, says: &[&str]) {
    let (found, text) = render(&error);
    assert_eq!(found, code, "{text}");
    for says in says {
        assert!(text.contains(says), "{text:?} does not say {says:?}");
    }
}

#[tokio::test]
async fn parameters_are_made_once_proved_by_every_byte_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    // What a generator that was killed has left.
    let beside = dir.path().join(format!(".making-{}", SMALL.file_stem()));
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("half"), "written").unwrap();

    let made = make_small(dir.path(), OWN).await.unwrap();
    assert!(made.made);
    let files = ParamsFiles::of(dir.path(), SMALL);
    assert_eq!(made.files, files.all());
    assert!(!beside.exists());
    let origin = origin::prove(&files, SMALL, &|_| {}).unwrap();
    assert_eq!(origin, Origin::Development { rng_seed: DEFAULT_RNG_SEED.to_string(), pinned: true });
    assert_eq!(fs::read(&files.meta).unwrap(), br#"{"sector_size":2048}"#);

    let found = make_small(dir.path(), OWN).await.unwrap();
    assert_eq!((found.made, found.files), (false, made.files));

    let another = RngSeed([1; 32]);
    let error = make_small(dir.path(), Generator::Own(another)).await.unwrap_err();
    check_error(
        error,
        ExitCode::Parameters,
        &[&another.to_string(), &DEFAULT_RNG_SEED.to_string(), "--params"],
    );

    let mut bytes = fs::read(&files.params).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&files.params, &bytes).unwrap();
    let error = make_small(dir.path(), OWN).await.unwrap_err();
    let digest = FileDigest::of(&bytes).sha256;
    check_error(error, ExitCode::Parameters, &["altered", &digest, files.params.to_str().unwrap()]);
    bytes.pop();
    fs::write(&files.params, &bytes).unwrap();
    let error = make_small(dir.path(), OWN).await.unwrap_err();
    check_error(error, ExitCode::Parameters, &["truncated", &bytes.len().to_string()]);
    assert_eq!(fs::read(&files.params).unwrap(), bytes, "what is in the way stays as it is");
}

#[tokio::test]
async fn two_generators_at_once_make_them_once() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = tokio::join!(make_small(dir.path(), OWN), make_small(dir.path(), OWN));
    assert_ne!(one.unwrap().made, other.unwrap().made);
    assert!(check(dir.path(), SMALL).is_ok());
}

#[tokio::test]
async fn an_interrupt_leaves_nothing_that_looks_finished() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let error = generate(&caches(dir.path()), &[SMALL], OWN, &stop).await.unwrap_err();
    check_error(error, ExitCode::Interrupted, &["no file is left behind"]);
    assert_eq!(names(dir.path()), [".generating-2KiB.lock"]);
}

#[tokio::test]
async fn whoever_waits_for_another_generator_can_be_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let _held = lock(dir.path(), SMALL.size, &stop).await.unwrap();
    let caches = caches(dir.path());
    let waiting = generate(&caches, &[SMALL], OWN, &stop);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::ZERO, &mut waiting).await;
    assert!(early.is_err(), "it waits");
    stop.cancel();
    check_error(waiting.await.unwrap_err(), ExitCode::Interrupted, &[]);
}

#[tokio::test]
async fn real_sizes_are_fetched_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    for size in [SectorSize::GiB32, SectorSize::GiB64] {
        let circuits = [Circuit::seal(size)];
        let error =
            generate(&caches(dir.path()), &circuits, OWN, &CancellationToken::new()).await.unwrap_err();
        check_error(error, ExitCode::BadInput, &["fetched, not made", "params check", &size.to_string()]);
    }
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_file_system_without_room_is_refused_before_the_work_with_both_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let needed = 1 << 60;
    let expected = Expected { bytes: needed, ..SMALL.expected().unwrap() };
    let error = expect_room(dir.path(), SMALL, &expected).unwrap_err();
    let needed = (needed + ROOM_BESIDE_BYTES).to_string();
    check_error(error, ExitCode::Parameters, &[&needed, "are free", dir.path().to_str().unwrap()]);
    expect_room(dir.path(), SMALL, &SMALL.expected().unwrap()).unwrap();
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = make_small(&file.join("cache"), OWN).await.unwrap_err();
    check_error(error, ExitCode::Parameters, &[file.to_str().unwrap(), "FIL_PROOFS_PARAMETER_CACHE"]);
}

#[test]
fn what_is_expected_of_each_circuit_adds_up_to_its_file() {
    for circuit in [SectorSize::KiB2, SectorSize::MiB8, SectorSize::MiB512].into_iter().flat_map(Circuit::all)
    {
        let expected = circuit.expected().unwrap();
        let [l, a, b] = expected.points;
        let points = ((1 << expected.domain_bits()) - 1 + l + a + b) as u64 * 96 + b as u64 * 192;
        let rest = expected.bytes - points;
        // The verifying key with its inputs, and the counts.
        assert!((864..20_000).contains(&rest), "{circuit}: {rest} bytes beside the points");
    }
}
