//! Our parameters against upstream's, byte for byte, on circuits of every shape that matters.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bellperson::groth16::{
    Parameters, create_random_proof, generate_parameters, prepare_verifying_key, verify_proof,
};
use bellperson::{Circuit, ConstraintSystem, LinearCombination, SynthesisError, Variable};
use blstrs::{Bls12, Scalar};
use ff::Field;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::{GenerateError, Stage, ToxicWaste, Watch, generate};

/// One side of a constraint: coefficients and variables. 0 is the one, then inputs, then auxiliaries.
type Side = Vec<(i64, usize)>;

/// A circuit as a table.
#[derive(Debug, Clone, Default)]
struct Table {
    inputs: Vec<Option<Scalar>>,
    aux: Vec<Option<Scalar>>,
    constraints: Vec<[Side; 3]>,
}

impl Circuit<Scalar> for Table {
    fn synthesize<CS: ConstraintSystem<Scalar>>(self, cs: &mut CS) -> Result<(), SynthesisError> {
        let mut variables = vec![CS::one()];
        let value = |value: Option<Scalar>| move || value.ok_or(SynthesisError::AssignmentMissing);
        for input in self.inputs {
            variables.push(cs.alloc_input(|| "input", value(input))?);
        }
        for aux in self.aux {
            variables.push(cs.alloc(|| "aux", value(aux))?);
        }
        for [a, b, c] in &self.constraints {
            let side = |side: &Side| sum(side, &variables);
            cs.enforce(|| "constraint", |_| side(a), |_| side(b), |_| side(c));
        }
        Ok(())
    }
}

fn sum(side: &Side, variables: &[Variable]) -> LinearCombination<Scalar> {
    side.iter().fold(LinearCombination::zero(), |sum, (coefficient, variable)| {
        let size = Scalar::from(coefficient.unsigned_abs());
        let coefficient = if *coefficient < 0 { -size } else { size };
        sum + (coefficient, variables[*variable])
    })
}

/// Counts, and stops after so many signs.
struct Counter {
    units: AtomicUsize,
    stop_after: Option<usize>,
    stopped: AtomicBool,
}

impl Counter {
    fn new(stop_after: Option<usize>) -> Self {
        Self { units: AtomicUsize::new(0), stop_after, stopped: AtomicBool::new(stop_after == Some(0)) }
    }
}

impl Watch for Counter {
    fn done(&self, _: Stage, units: usize) {
        let done = self.units.fetch_add(units, Ordering::Relaxed) + units;
        if self.stop_after.is_some_and(|limit| done >= limit) {
            self.stopped.store(true, Ordering::Relaxed);
        }
    }

    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

fn waste(rng_seed: u64) -> ToxicWaste {
    ToxicWaste::draw(&mut ChaCha20Rng::seed_from_u64(rng_seed))
}

fn ours(table: &Table, waste: &ToxicWaste, domain_bits: u32) -> Result<Vec<u8>, GenerateError> {
    let mut bytes = Vec::new();
    generate(|| table.clone(), waste, domain_bits, &Counter::new(None), &mut bytes)?;
    Ok(bytes)
}

fn upstreams(table: &Table, waste: &ToxicWaste) -> Result<Vec<u8>, SynthesisError> {
    let ToxicWaste { g1, g2, alpha, beta, gamma, delta, tau } = *waste;
    let parameters = generate_parameters::<Bls12, _>(table.clone(), g1, g2, alpha, beta, gamma, delta, tau)?;
    let mut bytes = Vec::new();
    parameters.write(&mut bytes)?;
    Ok(bytes)
}

/// The same bytes, or the same refusal, whatever the guess of the domain.
fn check(table: &Table, waste: &ToxicWaste) {
    let want = upstreams(table, waste);
    for domain_bits in [0, 3, 9] {
        match (ours(table, waste, domain_bits), &want) {
            (Ok(ours), Ok(want)) => assert!(ours == *want, "other bytes for {table:?}"),
            (Err(GenerateError::Unconstrained(_)), Err(SynthesisError::UnconstrainedVariable)) => {}
            (ours, want) => panic!("ours {:?}, upstream's {:?}", ours.err(), want.as_ref().err()),
        }
    }
}

/// x * x = y, (x + y + 3) * 1 = z with z public: as in every introduction.
fn cubic(x: u64) -> Table {
    let x = Scalar::from(x);
    Table {
        inputs: vec![Some(x * x + x + Scalar::from(3))],
        aux: vec![Some(x), Some(x * x)],
        constraints: vec![
            [vec![(1, 2)], vec![(1, 2)], vec![(1, 3)]],
            [vec![(1, 2), (1, 3), (3, 0)], vec![(1, 0)], vec![(1, 1)]],
        ],
    }
}

#[test]
fn every_shape_of_use_gives_upstreams_bytes() {
    let unknown = |count: usize| vec![None; count];
    // Variable 1 is an input, 2 to 8 are auxiliaries: in A only, B only, C only, in two, in all, in many.
    let mut constraints: Vec<[Side; 3]> = vec![
        [vec![(1, 2)], vec![], vec![]],
        [vec![], vec![(-1, 3)], vec![]],
        [vec![], vec![], vec![(7, 4)]],
        [vec![(2, 5)], vec![(3, 5)], vec![]],
        [vec![(1, 6)], vec![(1, 6)], vec![(1, 6)]],
        [vec![(1, 7), (-1, 7)], vec![(0, 1)], vec![(1, 7)]],
    ];
    for i in 0..40 {
        constraints.push([vec![(i, 8), (1, 0)], vec![(1 << i, 8), (1, 1)], vec![(-i, 8), (5, 2)]]);
    }
    let table = Table { inputs: unknown(1), aux: unknown(7), constraints };
    check(&table, &waste(1));
    check(&Table { inputs: unknown(3), ..Table::default() }, &waste(2));
    check(&Table::default(), &waste(3));
    check(&cubic(5), &waste(4));
}

#[test]
fn a_variable_in_no_constraint_is_refused_as_upstream_refuses_it() {
    let mut table = cubic(5);
    table.aux.push(None);
    check(&table, &waste(5));
    match ours(&table, &waste(5), 2) {
        Err(GenerateError::Unconstrained(index)) => assert_eq!(index, 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn waste_on_the_domain_or_zero_gives_upstreams_bytes_or_is_refused() {
    let on_the_domain = ToxicWaste { tau: Scalar::ONE, ..waste(6) };
    check(&cubic(5), &on_the_domain);
    check(&cubic(5), &ToxicWaste { tau: Scalar::ZERO, ..waste(6) });
    check(&cubic(5), &ToxicWaste { alpha: Scalar::ZERO, beta: Scalar::ONE, ..waste(6) });
    for unusable in
        [ToxicWaste { gamma: Scalar::ZERO, ..waste(6) }, ToxicWaste { delta: Scalar::ZERO, ..waste(6) }]
    {
        assert!(matches!(ours(&cubic(5), &unusable, 2), Err(GenerateError::Waste)));
    }
}

#[test]
fn a_proof_under_our_parameters_verifies_and_a_wrong_one_does_not() {
    let bytes = ours(&cubic(5), &waste(7), 2).unwrap();
    let parameters = Parameters::<Bls12>::read(&bytes[..], true).unwrap();
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    let proof = create_random_proof(cubic(11), &parameters, &mut rng).unwrap();
    let key = prepare_verifying_key(&parameters.vk);
    let statement = cubic(11).inputs[0].unwrap();
    assert!(verify_proof(&key, &proof, &[statement]).unwrap());
    assert!(!verify_proof(&key, &proof, &[statement + Scalar::ONE]).unwrap());
    let mut other = proof.clone();
    other.c = other.a;
    assert!(!verify_proof(&key, &other, &[statement]).unwrap());
    let foreign = Parameters::<Bls12>::read(&ours(&cubic(5), &waste(9), 2).unwrap()[..], true).unwrap();
    assert!(!verify_proof(&prepare_verifying_key(&foreign.vk), &proof, &[statement]).unwrap());
}

#[test]
fn whoever_looks_on_may_stop_it_at_any_sign() {
    let total = {
        let counter = Counter::new(None);
        generate(|| cubic(5), &waste(10), 2, &counter, &mut Vec::new()).unwrap();
        counter.units.into_inner()
    };
    for limit in 0..total {
        let stopped = generate(|| cubic(5), &waste(10), 2, &Counter::new(Some(limit)), &mut Vec::new());
        assert!(matches!(stopped, Err(GenerateError::Stopped)), "{limit} of {total}");
    }
}

fn side(variables: usize) -> impl Strategy<Value = Side> {
    proptest::collection::vec((-3i64..4, 0..variables), 0..4)
}

fn table() -> impl Strategy<Value = Table> {
    (0usize..4, 0usize..6).prop_flat_map(|(inputs, aux)| {
        let variables = 1 + inputs + aux;
        let constraint = [side(variables), side(variables), side(variables)];
        proptest::collection::vec(constraint, 0..20).prop_map(move |constraints| Table {
            inputs: vec![None; inputs],
            aux: vec![None; aux],
            constraints,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_small_circuit_gives_upstreams_bytes_or_refusal(table in table(), rng_seed: u64) {
        check(&table, &waste(rng_seed));
    }
}
