//! The constraint system that evaluates a circuit's polynomials at tau as the constraints come.
//!
//! It stores three field elements a variable and no constraint.

use bellperson::{Circuit, ConstraintSystem, Index, LinearCombination, SynthesisError, Variable};
use blstrs::Scalar;
use ff::Field;
use rayon::prelude::*;

use super::{GenerateError, Stage, ToxicWaste, Watch};

/// Constraints between two looks at who looks on.
const REPORT_EVERY: usize = 1 << 16;

/// A circuit's polynomials at tau.
pub(super) struct Evaluated {
    /// With one constraint for each input.
    pub(super) constraints: usize,
    /// Of the public inputs, the one first.
    pub(super) inputs: Polynomials,
    /// Of the auxiliary variables.
    pub(super) aux: Polynomials,
}

/// The left, right and output polynomials at tau, one of each a variable.
#[derive(Debug, Default)]
pub(super) struct Polynomials {
    pub(super) a: Vec<Scalar>,
    pub(super) b: Vec<Scalar>,
    pub(super) c: Vec<Scalar>,
}

impl Polynomials {
    fn push(&mut self) -> usize {
        self.a.push(Scalar::ZERO);
        self.b.push(Scalar::ZERO);
        self.c.push(Scalar::ZERO);
        self.a.len() - 1
    }

    /// `(beta a + alpha b + c) * inverse`, one a variable.
    pub(super) fn combined(&self, waste: &ToxicWaste, inverse: &Scalar) -> Vec<Scalar> {
        let ab = self.a.par_iter().zip(&self.b);
        ab.zip(&self.c).map(|((a, b), c)| (waste.beta * a + waste.alpha * b + c) * inverse).collect()
    }
}

/// Synthesises `circuit`; constraints beyond `lagrange` are counted and not evaluated.
pub(super) fn synthesise<C: Circuit<Scalar>>(
    circuit: C,
    lagrange: &[Scalar],
    watch: &dyn Watch,
) -> Result<Evaluated, GenerateError> {
    let mut assembly = Assembly { lagrange, watch: Some(watch), ..Assembly::new() };
    assembly.alloc_input(|| "", || Ok(Scalar::ONE))?;
    circuit.synthesize(&mut assembly)?;
    // One constraint `input * 0 = 0` each, so that the inputs' points are all there.
    for input in 0..assembly.inputs.a.len() {
        assembly.enforce(|| "", |lc| lc + Variable::new_unchecked(Index::Input(input)), |lc| lc, |lc| lc);
    }
    watch.done(Stage::Synthesis, assembly.constraints % REPORT_EVERY);
    let Assembly { constraints, inputs, aux, .. } = assembly;
    Ok(Evaluated { constraints, inputs, aux })
}

struct Assembly<'a> {
    lagrange: &'a [Scalar],
    watch: Option<&'a dyn Watch>,
    constraints: usize,
    inputs: Polynomials,
    aux: Polynomials,
}

/// One side of a constraint, added to its polynomials: every coefficient times the constraint's value.
fn add(inputs: &mut [Scalar], aux: &mut [Scalar], side: &LinearCombination<Scalar>, value: &Scalar) {
    let times = |coefficient: &Scalar| {
        if *coefficient == Scalar::ONE { *value } else { *coefficient * value }
    };
    for (input, coefficient) in side.iter_inputs() {
        inputs[*input] += times(coefficient);
    }
    for (variable, coefficient) in side.iter_aux() {
        aux[*variable] += times(coefficient);
    }
}

impl ConstraintSystem<Scalar> for Assembly<'_> {
    type Root = Self;

    fn new() -> Self {
        let none = Polynomials::default;
        Self { lagrange: &[], watch: None, constraints: 0, inputs: none(), aux: none() }
    }

    /// Parameters need the constraints in their one order.
    fn is_extensible() -> bool {
        false
    }

    fn alloc<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        let index = self.aux.push();
        if index.is_multiple_of(REPORT_EVERY) && self.watch.is_some_and(Watch::stopped) {
            // The one way out of a synthesis; the caller asks who looks on for the reason.
            return Err(SynthesisError::AssignmentMissing);
        }
        Ok(Variable::new_unchecked(Index::Aux(index)))
    }

    fn alloc_input<F, A, AR>(&mut self, _: A, _: F) -> Result<Variable, SynthesisError>
    where
        F: FnOnce() -> Result<Scalar, SynthesisError>,
        A: FnOnce() -> AR,
        AR: Into<String>,
    {
        Ok(Variable::new_unchecked(Index::Input(self.inputs.push())))
    }

    fn enforce<A, AR, LA, LB, LC>(&mut self, _: A, a: LA, b: LB, c: LC)
    where
        A: FnOnce() -> AR,
        AR: Into<String>,
        LA: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LB: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
        LC: FnOnce(LinearCombination<Scalar>) -> LinearCombination<Scalar>,
    {
        if let Some(value) = self.lagrange.get(self.constraints) {
            let (inputs, aux) = (&mut self.inputs, &mut self.aux);
            add(&mut inputs.a, &mut aux.a, &a(LinearCombination::zero()), value);
            add(&mut inputs.b, &mut aux.b, &b(LinearCombination::zero()), value);
            add(&mut inputs.c, &mut aux.c, &c(LinearCombination::zero()), value);
        }
        self.constraints += 1;
        if let (0, Some(watch)) = (self.constraints % REPORT_EVERY, self.watch) {
            watch.done(Stage::Synthesis, REPORT_EVERY);
        }
    }

    fn push_namespace<NR, N>(&mut self, _: N)
    where
        NR: Into<String>,
        N: FnOnce() -> NR,
    {
    }

    fn pop_namespace(&mut self) {}

    fn get_root(&mut self) -> &mut Self::Root {
        self
    }
}
