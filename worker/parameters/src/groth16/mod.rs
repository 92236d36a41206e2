//! Groth16 parameters of a circuit, made fast because nothing about them is secret.
//!
//! The same points as bellperson's `groth16::generate_parameters` (`src/groth16/generator.rs`), byte for
//! byte, for the same toxic waste. What differs is the way:
//!
//! - constraints are evaluated at tau while the circuit is synthesised and never stored;
//! - Lagrange values at tau come from one batch inversion instead of an inverse FFT;
//! - all multiplications are of two fixed bases, so they are sums of table entries, added in affine
//!   coordinates with one inversion for a thousand points (`fixed_base`);
//! - the `h` section, which needs only tau, is computed beside the synthesis.
//!
//! Whoever knows the waste can forge proofs. Here it comes from a published seed, so running times may
//! depend on it and nothing is wiped. Such parameters must never serve a real network.

mod assembly;
mod domain;
mod fixed_base;
mod sections;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::ops::Range;
use std::thread;
use std::time::Instant;

use bellperson::groth16::VerifyingKey;
use bellperson::{Circuit, SynthesisError};
use blstrs::{Bls12, G1Affine, G1Projective, G2Affine, G2Projective, Scalar};
use ff::Field;
use group::{Curve, Group};
use rand_core::RngCore;
use serde::Serialize;

use assembly::{Evaluated, synthesise};
use domain::Domain;
use sections::{Section, Tables, powers};

/// What the parameters are made from, and whoever knows it can forge proofs under them.
#[derive(Debug, Clone, Copy)]
pub struct ToxicWaste {
    /// The base of all points in G1.
    pub g1: G1Projective,
    /// The base of all points in G2.
    pub g2: G2Projective,
    /// The trapdoors of the proof system, in the words of the Groth16 paper.
    pub alpha: Scalar,
    /// See `alpha`.
    pub beta: Scalar,
    /// See `alpha`; not zero.
    pub gamma: Scalar,
    /// See `alpha`; not zero.
    pub delta: Scalar,
    /// Where the polynomials are evaluated.
    pub tau: Scalar,
}

impl ToxicWaste {
    /// Draws in the order of upstream's `generate_random_parameters`.
    pub fn draw(rng: &mut impl RngCore) -> Self {
        Self {
            g1: G1Projective::random(&mut *rng),
            g2: G2Projective::random(&mut *rng),
            alpha: Scalar::random(&mut *rng),
            beta: Scalar::random(&mut *rng),
            gamma: Scalar::random(&mut *rng),
            delta: Scalar::random(&mut *rng),
            tau: Scalar::random(&mut *rng),
        }
    }
}

/// A part of the work, in the order in which they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Evaluating the circuit's constraints at tau, counted in constraints; beside it, `h`.
    Synthesis,
    /// The powers of tau in G1, counted in points.
    H,
    /// The auxiliary variables' points in G1.
    L,
    /// The left side's points in G1.
    A,
    /// The right side's points in G1.
    B1,
    /// The right side's points in G2.
    B2,
}

/// Who looks on, and may end it.
pub trait Watch: Sync {
    /// `done` more units of `stage` are done; called from several threads.
    fn done(&self, stage: Stage, units: usize);
    /// Whether to end with [`GenerateError::Stopped`]; asked often.
    fn stopped(&self) -> bool;
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The verifying key, as its own file has it.
    pub verifying_key: Vec<u8>,
    /// Constraints, with one for each input.
    pub constraints: usize,
    /// Public inputs, with the one.
    pub inputs: usize,
    /// Auxiliary variables.
    pub aux: usize,
    /// Points in G1 and G2, as written.
    pub points: (usize, usize),
    /// Additions in G1 and G2 that they took.
    pub additions: (usize, usize),
}

/// Why no parameters were made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The circuit cannot be set up.
    #[error("the circuit cannot be set up: {0}")]
    Setup(String),
    /// The circuit refused.
    #[error("the circuit cannot be synthesised: {0}")]
    Synthesis(#[from] SynthesisError),
    /// A variable appears in no constraint, so a prover could choose it freely.
    #[error("auxiliary variable {0} is in no constraint")]
    Unconstrained(usize),
    /// gamma or delta is zero.
    #[error("the toxic waste is unusable: gamma and delta must not be zero")]
    Waste,
    /// The sink refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The one who looks on said so.
    #[error("stopped before the end")]
    Stopped,
}

/// Makes the parameters of `circuit` and writes them to `out` in the format of bellperson's
/// `Parameters::write`.
///
/// `domain_bits` is a guess of the base-two logarithm of the number of constraints, rounded up; a wrong
/// one costs a second synthesis.
///
/// # Errors
/// See [`GenerateError`].
pub fn generate<C: Circuit<Scalar>>(
    circuit: impl Fn() -> C,
    waste: &ToxicWaste,
    domain_bits: u32,
    watch: &dyn Watch,
    out: &mut (dyn Write + Send),
) -> Result<Made, GenerateError> {
    let gamma_inverse = inverse(&waste.gamma)?;
    let delta_inverse = inverse(&waste.delta)?;
    let mut domain = Domain::of_bits(domain_bits)?;
    loop {
        let (evaluated, h) = at_tau(circuit(), waste, &domain, &delta_inverse, watch)?;
        let needed = Domain::of_constraints(evaluated.constraints)?;
        if needed == domain {
            return write(evaluated, &h?, waste, &gamma_inverse, &delta_inverse, watch, out);
        }
        domain = needed;
    }
}

fn inverse(value: &Scalar) -> Result<Scalar, GenerateError> {
    Option::from(value.invert()).ok_or(GenerateError::Waste)
}

/// The `h` section as it is written, and the additions it took; or why there is none.
type HSection = Result<(Vec<u8>, usize), GenerateError>;

/// Evaluates the circuit's polynomials at tau, and computes the `h` section beside it.
fn at_tau<C: Circuit<Scalar>>(
    circuit: C,
    waste: &ToxicWaste,
    domain: &Domain,
    delta_inverse: &Scalar,
    watch: &dyn Watch,
) -> Result<(Evaluated, HSection), GenerateError> {
    let lagrange = domain.lagrange_at(&waste.tau);
    thread::scope(|scope| {
        let h = scope.spawn(|| h_section(waste, domain, delta_inverse, watch));
        let evaluated = synthesise(circuit, &lagrange, watch);
        let h = h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if watch.stopped() { Err(GenerateError::Stopped) } else { Ok((evaluated?, h)) }
    })
}

/// `g1 * (tau^i * t(tau) / delta)` for all i below the domain's size less one.
fn h_section(waste: &ToxicWaste, domain: &Domain, delta_inverse: &Scalar, watch: &dyn Watch) -> HSection {
    let count = domain.size() - 1;
    let factor = domain.vanishing_at(&waste.tau) * delta_inverse;
    let tables = Tables::g1(&waste.g1.to_affine(), count);
    let mut bytes = Vec::with_capacity(Section::bytes(count, tables.point_bytes()));
    Section { stage: Stage::H, count }.write(
        &tables,
        |range| powers(&waste.tau, &factor, range),
        watch,
        &mut bytes,
    )?;
    Ok((bytes, tables.additions()))
}

/// Writes everything, in the order of the format.
fn write(
    evaluated: Evaluated,
    (h, h_additions): &(Vec<u8>, usize),
    waste: &ToxicWaste,
    gamma_inverse: &Scalar,
    delta_inverse: &Scalar,
    watch: &dyn Watch,
    mut out: &mut (dyn Write + Send),
) -> Result<Made, GenerateError> {
    let Evaluated { constraints, inputs, aux } = evaluated;
    let (input_count, aux_count) = (inputs.a.len(), aux.a.len());
    let (g1, g2) = (waste.g1.to_affine(), waste.g2.to_affine());

    let key = verifying_key(waste, inputs.combined(waste, gamma_inverse));
    let mut verifying_key = Vec::new();
    key.write(&mut verifying_key)?;
    out.write_all(&verifying_key)?;
    out.write_all(h)?;

    let l = aux.combined(waste, delta_inverse);
    if let Some(index) = l.iter().position(|scalar| bool::from(scalar.is_zero())) {
        return Err(GenerateError::Unconstrained(index));
    }
    let (a, b) = (dense(inputs.a, aux.a), dense(inputs.b, aux.b));
    drop((inputs.c, aux.c));
    let tables = Tables::g1(&g1, l.len() + a.len() + b.len());
    let additions_g1 = h_additions + tables.additions();
    let mut points_g1 = input_count + h.len() / tables.point_bytes();
    for (stage, scalars) in [(Stage::L, &l), (Stage::A, &a), (Stage::B1, &b)] {
        Section { stage, count: scalars.len() }.write(
            &tables,
            |range| scalars[range].to_vec(),
            watch,
            &mut out,
        )?;
        points_g1 += scalars.len();
    }
    drop((tables, l, a));
    let tables = Tables::g2(&g2, b.len());
    let scalars = |range: Range<usize>| b[range].to_vec();
    Section { stage: Stage::B2, count: b.len() }.write(&tables, scalars, watch, &mut out)?;
    Ok(Made {
        verifying_key,
        constraints,
        inputs: input_count,
        aux: aux_count,
        points: (points_g1, b.len()),
        additions: (additions_g1, tables.additions()),
    })
}

/// Nanoseconds that one multiplication in G1's field takes here, with all cores at it: what the making
/// of parameters mostly does.
pub fn field_multiplication_ns() -> f64 {
    const MULTIPLICATIONS: u32 = 1 << 21;
    let factor = (G1Projective::generator() * Scalar::from(3)).to_affine().x();
    let started = Instant::now();
    rayon::broadcast(|_| {
        let mut product = factor;
        for _ in 0..MULTIPLICATIONS {
            product *= factor;
        }
        std::hint::black_box(product);
    });
    started.elapsed().as_secs_f64() * 1e9 / f64::from(MULTIPLICATIONS)
}

/// All but the zeros: the format leaves points at infinity out of the a and b sections.
fn dense(mut inputs: Vec<Scalar>, aux: Vec<Scalar>) -> Vec<Scalar> {
    inputs.extend(aux);
    inputs.retain(|scalar| !bool::from(scalar.is_zero()));
    inputs
}

fn verifying_key(waste: &ToxicWaste, inputs: Vec<Scalar>) -> VerifyingKey<Bls12> {
    let g1 = |scalar: &Scalar| -> G1Affine { (waste.g1 * scalar).to_affine() };
    let g2 = |scalar: &Scalar| -> G2Affine { (waste.g2 * scalar).to_affine() };
    VerifyingKey {
        alpha_g1: g1(&waste.alpha),
        beta_g1: g1(&waste.beta),
        beta_g2: g2(&waste.beta),
        gamma_g2: g2(&waste.gamma),
        delta_g1: g1(&waste.delta),
        delta_g2: g2(&waste.delta),
        ic: inputs.iter().map(g1).collect(),
    }
}
