//! The domain of the constraint polynomials: the roots of unity of a power-of-two order.

use bellperson::SynthesisError;
use blstrs::Scalar;
use ff::{Field, PrimeField};
use rayon::prelude::*;

use super::fixed_base::invert_all;

/// Values that one task computes.
const CHUNK: usize = 4096;

/// The powers of a root of unity, as many as the next power of two above the constraints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Domain {
    bits: u32,
    omega: Scalar,
}

impl Domain {
    /// The domain with `2^bits` elements.
    pub(super) fn of_bits(bits: u32) -> Result<Self, SynthesisError> {
        if bits >= Scalar::S {
            return Err(SynthesisError::PolynomialDegreeTooLarge);
        }
        let omega = (bits..Scalar::S).fold(Scalar::ROOT_OF_UNITY, |root, _| root.square());
        Ok(Self { bits, omega })
    }

    /// The smallest domain that holds so many constraints.
    pub(super) fn of_constraints(constraints: usize) -> Result<Self, SynthesisError> {
        Self::of_bits(constraints.max(1).next_power_of_two().ilog2())
    }

    /// Its elements.
    pub(super) fn size(&self) -> usize {
        1 << self.bits
    }

    /// `t(x) = x^size - 1`, which is zero on the domain and nowhere else.
    pub(super) fn vanishing_at(&self, x: &Scalar) -> Scalar {
        x.pow_vartime([self.size() as u64]) - Scalar::ONE
    }

    /// All Lagrange polynomials at `x`: `L_i(x) = t(x) / size * w^i / (x - w^i)`.
    pub(super) fn lagrange_at(&self, x: &Scalar) -> Vec<Scalar> {
        let mut values = vec![Scalar::ZERO; self.size()];
        let vanishing = self.vanishing_at(x);
        let on_the_domain = bool::from(vanishing.is_zero());
        let size_inverse = (0..self.bits).fold(Scalar::ONE, |value, _| value * Scalar::TWO_INV);
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            let first = self.omega.pow_vartime([(chunk * CHUNK) as u64]);
            let roots = || std::iter::successors(Some(first), |root| Some(*root * self.omega));
            if on_the_domain {
                for (value, root) in values.iter_mut().zip(roots()) {
                    *value = if root == *x { Scalar::ONE } else { Scalar::ZERO };
                }
                return;
            }
            for (value, root) in values.iter_mut().zip(roots()) {
                *value = *x - root;
            }
            invert_all(values);
            let mut factor = first * vanishing * size_inverse;
            for value in values {
                *value *= factor;
                factor *= self.omega;
            }
        });
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `L_i(x)` by its definition, as a product over the other roots.
    fn by_definition(roots: &[Scalar], i: usize, x: Scalar) -> Scalar {
        let others = || roots.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, root)| root);
        let over: Scalar = others().map(|root| x - root).product();
        let under: Scalar = others().map(|root| roots[i] - root).product();
        over * under.invert().unwrap()
    }

    #[test]
    fn lagrange_values_are_those_of_the_definition_on_and_off_the_domain() {
        for bits in 0..6 {
            let domain = Domain::of_bits(bits).unwrap();
            let roots: Vec<_> = (0..domain.size()).map(|i| domain.omega.pow_vartime([i as u64])).collect();
            for x in [Scalar::from(7), -Scalar::ONE, Scalar::ZERO, roots[0], roots[roots.len() - 1]] {
                let values = domain.lagrange_at(&x);
                for (i, value) in values.iter().enumerate() {
                    assert_eq!(*value, by_definition(&roots, i, x), "bits {bits}, i {i}");
                }
            }
        }
    }

    #[test]
    fn a_domain_longer_than_one_chunk_still_sums_to_one() {
        let domain = Domain::of_constraints(2 * CHUNK + 1).unwrap();
        assert_eq!(domain.size(), 4 * CHUNK);
        let sum: Scalar = domain.lagrange_at(&Scalar::from(12345)).iter().sum();
        assert_eq!(sum, Scalar::ONE);
    }

    #[test]
    fn a_domain_beyond_the_fields_roots_of_unity_is_refused() {
        assert!(matches!(Domain::of_bits(32), Err(SynthesisError::PolynomialDegreeTooLarge)));
    }
}
